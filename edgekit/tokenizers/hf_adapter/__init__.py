"""What makes a TokenMonster checkpoint load in plain transformers, where edgekit is not installed."""
