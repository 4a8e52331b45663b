"""Sources that tasks generate their texts from. Pure: a seed gives the same bytes everywhere."""
