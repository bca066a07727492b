"""Text to token ids and back: the contract, Hugging Face's kinds, TokenMonster, and the UTF-8 mask."""
