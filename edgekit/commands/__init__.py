"""The larger commands. `edgekit NAME` imports `NAME.py` and calls its `COMMAND`; the list of them is in `cli.py`.

`plan.py` is what `edgekit convert` does with `--plan`, `--target-size` and `--max-kl`.
"""
