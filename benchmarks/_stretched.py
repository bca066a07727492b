"""A small model with a larger one's cost: the same logits from more layers, to measure drafts without a large model.

The added layers have seeded weights, except that their output projections are zero, so they do not change the hidden
state. Texts, and so the acceptance of a draft, are the small model's; the time is a larger model's.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

ZEROED = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def write(source: Path, folder: Path, times: int) -> None:
    """Write a Hugging Face folder with `times` as many layers as the one in `source`."""
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
            fill = np.zeros if name in ZEROED else lambda shape: 0.02 * rng.standard_normal(shape)
            value = np.ones(like.shape) if like.ndim == 1 else fill(like.shape)
            tensors[f"model.layers.{layer}.{name}"] = np.asarray(value, like.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers * times}, indent=2))
