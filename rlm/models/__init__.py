"""Models: the interface (`base`), OpenAI-compatible servers, a scripted model. Imports config and what is below."""
