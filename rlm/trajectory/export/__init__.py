"""A recorded run in the formats of others: `rlm export`."""
