"""A small model made expensive: the same logits at the cost of a larger one, to measure drafts where none is at hand.

Layers are added whose last products are zero, so they add nothing to what passes through; everything before is
computed from seeded weights as in any other layer. The text is therefore the small model's, and so is how often a draft
is right; the time is a larger model's.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

SILENT = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def write(source: Path, folder: Path, times: int) -> None:
    """A Hugging Face folder with `times` as many layers as the one in `source`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.suffix in (".json", ".vocab", ".model"):
            shutil.copyfile(path, folder / path.name)
    config = json.loads((source / "config.json").read_text())
    layers = config["num_hidden_layers"]
    tensors = load_file(source / "model.safetensors")
    rng = np.random.default_rng(0)
    first = {
        name.removeprefix("model.layers.0."): t for name, t in tensors.items() if name.startswith("model.layers.0.")
    }
    for layer in range(layers, layers * times):
        for name, like in first.items():
            made = np.zeros if name in SILENT else lambda shape: 0.02 * rng.standard_normal(shape)
            value = np.ones(like.shape) if like.ndim == 1 else made(like.shape)
            tensors[f"model.layers.{layer}.{name}"] = np.asarray(value, like.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers * times}, indent=2))
