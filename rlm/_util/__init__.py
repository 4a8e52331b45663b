"""Small helpers of every room: logging, text, addresses, the blocking portal. Imports nothing of the package."""
