"""`inspect` and `doctor`: what a model is, and what is unusual about it. Files are read, no model is run."""
