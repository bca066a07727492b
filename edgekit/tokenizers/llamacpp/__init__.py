"""How llama.cpp reads a tokenizer: its kinds of vocabulary (`llama`, `gpt2`, `rwkv`), and what each cannot express."""
