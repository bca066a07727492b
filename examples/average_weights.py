"""Averages the weights of several models: python examples/average_weights.py RUN_A/model RUN_B/model -o mean

For models that share a start or continue one another, such as the end of a run and the end of its extension. On unseen
text their mean is often better than each of them ("model soups", arXiv 2203.05482), at no cost in size or speed. It is
not if the runs went far apart. The bundled model is such a mean; its card has figures of means that helped and of one
that did not. Everything but the weights is copied from the last folder.
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
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} already exists")
    try:
        models = [checkpoint.open_folder(path) for path in args.models]
    except EdgekitError as error:
        sys.exit(f"average_weights: {error}")
    for path, other in zip(args.models, models, strict=True):
        if other.config.shapes() != models[0].config.shapes():
            parser.error(f"{path} and {args.models[0]} have different shapes")
    last = models[-1]
    mean = {}
    for name in last.config.shapes():
        mean[name] = np.mean([each.float32(name) for each in models], axis=0, dtype=np.float64)
        mean[name] = mean[name].astype(last.tensors[name].dtype)
    with files.replacing(args.output) as temporary:
        temporary.mkdir()
        for path in args.models[-1].iterdir():
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copy(path, temporary)
        save_file(mean, temporary / "model.safetensors", metadata={"format": "pt"})
    print(args.output)


if __name__ == "__main__":
    main()
