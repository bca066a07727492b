"""Training: recipes, data, the training loop, and vocabularies. Installed as `edgekit.training`."""
