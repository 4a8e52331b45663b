"""Models and policies that play tasks without a provider."""
