"""A run in other tools' formats: `rlm export`. Imports the trajectory and what is below."""
