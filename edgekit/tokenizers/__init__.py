"""Text to token ids and back: the contract, Hugging Face's tokenizers, TokenMonster, llama.cpp's, the UTF-8 mask."""
