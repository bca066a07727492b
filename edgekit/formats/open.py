"""From a path to a checkpoint, whatever holds it."""

from pathlib import Path

from edgekit.errors import CheckpointError
from edgekit.formats.checkpoint import Checkpoint, open_folder
from edgekit.utils import registry


def open_model(path: Path) -> Checkpoint:
    """A checkpoint from whatever holds one: a Hugging Face folder, or a `.gguf`, dequantized.

    Raises:
        CheckpointError: `path` holds no model that can be read back to tensors.
        MissingExtraError: the converter that reads it needs a package.
    """
    path = Path(path)
    if path.is_file():
        for name in registry.names("converters"):
            if path.suffix == registry.suffix("converters", name):
                room = registry.load("converters", name)
                if hasattr(room, "read"):
                    return room.read(path)
        raise CheckpointError(
            f"{path} cannot be turned back into a checkpoint: give the model folder or .gguf it was made from"
        )
    return open_folder(path)
