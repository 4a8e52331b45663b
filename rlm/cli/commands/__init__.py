"""The commands, one module each. Imports every room below cli."""
