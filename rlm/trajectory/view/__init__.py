"""A run as one self-contained HTML file: `rlm view`. Imports the trajectory and what is below."""
