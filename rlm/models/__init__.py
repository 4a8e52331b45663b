"""Models: the seam to providers (`base`), a real one (`openai`) and a deterministic one (`scripted`)."""
