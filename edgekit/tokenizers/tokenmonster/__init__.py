"""TokenMonster: vocabularies, their encoder, and the tokenizer that a model folder makes of them."""
