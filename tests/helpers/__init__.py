"""What tests share: fakes, fixtures, servers and engines of their own, the attacks."""
