"""The recipe, the data and the loop that make a base model; installed as `edgekit.training`."""
