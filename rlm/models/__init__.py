"""Models: the seam to providers (`base`), a real one (`openai`), a deterministic one (`scripted`). Imports config."""
