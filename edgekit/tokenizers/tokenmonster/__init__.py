"""TokenMonster: vocabularies, their encoder, and the tokenizer of a model folder with one."""
