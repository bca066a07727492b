"""edgekit: a tiny Llama the whole way, from training to text, with the same tokens on every runtime.

import edgekit
model = edgekit.load("my.gguf")
for piece in model.stream("Once upon a time", max_new_tokens=80, temperature=0.8, seed=7):
    print(piece, end="", flush=True)
"""

from typing import Any

__version__ = "0.4.0"
__all__ = ["EdgekitError", "Generation", "Model", "Vocabulary", "__version__", "load"]

_HOMES = {
    "EdgekitError": "errors",
    "Generation": "inference.generate",
    "Model": "model",
    "load": "model",
    "Vocabulary": "tokenizers.tokenmonster.vocabulary",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: `edgekit --help` must not pay for numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"edgekit.{_HOMES[name]}"), name)
