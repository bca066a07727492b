"""The mean of several models' weights: python examples/average_weights.py RUN_A/model RUN_B/model -o mean

For models that went on from one another or from one start: the end of a run and the end of its extension, say. Their
mean often does better on text that none of them saw than each of them ("model soups", arXiv 2203.05482), at no cost in
size or speed; of runs that went far apart it does not. The bundled model is such a mean: its card has the figures, of
means that were worth it and of one that was not. Everything but the weights is copied from the last folder.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from edgekit.errors import EdgekitError
from edgekit.formats import checkpoint
from edgekit.utils import files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="Hugging Face folders of one shape")
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    if asked.output.exists():
        parser.error(f"{asked.output} exists already")
    try:
        opened = [checkpoint.open_folder(path) for path in asked.models]
    except EdgekitError as error:
        sys.exit(f"average_weights: {error}")
    for path, other in zip(asked.models, opened, strict=True):
        if other.config.shapes() != opened[0].config.shapes():
            parser.error(f"{path} has another shape than {asked.models[0]}")
    last = opened[-1]
    mean = {}
    for name in last.config.shapes():
        mean[name] = np.mean([each.float32(name) for each in opened], axis=0, dtype=np.float64)
        mean[name] = mean[name].astype(last.tensors[name].dtype)
    with files.replacing(asked.output) as temporary:
        temporary.mkdir()
        for path in asked.models[-1].iterdir():
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copy(path, temporary)
        save_file(mean, temporary / "model.safetensors", metadata={"format": "pt"})
    print(asked.output)


if __name__ == "__main__":
    main()
