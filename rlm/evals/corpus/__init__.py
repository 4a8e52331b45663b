"""Sources from which tasks generate their texts. Pure: a seed gives the same bytes everywhere. Imports errors."""
