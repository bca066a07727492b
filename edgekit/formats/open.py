"""From a path to a checkpoint, for every format that can be read back to tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edgekit.errors import CheckpointError
from edgekit.formats import llama2c
from edgekit.utils import registry
from edgekit.utils.guard import reads

if TYPE_CHECKING:
    from edgekit.formats.checkpoint import Checkpoint


@runtime_checkable
class ReadsBack(Protocol):
    """Optional for a converter: it turns an artefact of its format back into a checkpoint."""

    def read(self, path: Path) -> Checkpoint:
        """The checkpoint, block types dequantized. Raises `FileError`, `CheckpointError`."""
        ...


@reads()
def open_model(path: Path) -> Checkpoint:
    """A checkpoint from a Hugging Face folder, or from a file whose converter is a `ReadsBack`: a `.gguf`, dequantized,
    or llama2.c's `.bin`.

    Raises:
        CheckpointError: `path` is not a model that can be read back to tensors.
        MissingExtraError: the converter that reads it needs a package that is not installed.
    """
    path = model_file(Path(path))
    if not path.is_file():
        from edgekit.formats.checkpoint import open_folder  # numpy, which running a model does not need

        return open_folder(path)
    name = next((name for name in registry.names("converters") if registry.opens("converters", name, path)), None)
    converter = registry.load("converters", name) if name else None
    if isinstance(converter, ReadsBack):
        return converter.read(path)
    raise CheckpointError(
        f"{path} cannot be turned back into a checkpoint: give the model folder or .gguf it was made from"
    )


def model_file(path: Path) -> Path:
    """The `model.bin` of a folder of llama2.c's files; any other path as it is."""
    inside = path / llama2c.MODEL
    return inside if inside.is_file() and not (path / "config.json").is_file() else path
