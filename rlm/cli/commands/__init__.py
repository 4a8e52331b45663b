"""The commands, one module per command or group. May import everything."""
