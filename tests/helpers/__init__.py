"""Shared by tests: fakes, fixtures, test servers, test engines, and the attacks."""
