"""Files that let plain transformers load a TokenMonster checkpoint, without edgekit."""
