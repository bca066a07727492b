"""What a model is, and what is unusual in it: files are looked at, nothing is loaded or run."""
