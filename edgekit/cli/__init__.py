"""The command line: a command, a file; `main.py` finds them. Files that begin with `_` are what they share."""
