"""Measuring a model: perplexity, BLiMP, speed."""
