"""The command line: one file a command, found by main.py. Files that begin with `_` are shared by several commands."""
