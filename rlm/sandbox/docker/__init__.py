"""One engine: containers over the Docker API. Imports sandbox, config and what is below; only `engine` imports docker."""
