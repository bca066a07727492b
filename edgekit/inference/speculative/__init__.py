"""Speculative decoding: a draft guesses ahead, and one call of the target checks all the guesses."""
