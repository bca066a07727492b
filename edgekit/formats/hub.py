"""The files of a model given as a path, a Hub id, or nothing for the bundled model."""

import re
from pathlib import Path

from edgekit.errors import CheckpointError, FileError

# Weights as safetensors, and text: never a pickle, never code.
DOWNLOADED = ["*.safetensors", "*.json", "*.vocab", "tokenizer.model", "chat_template.jinja"]

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

# Trained by `edgekit train base`; its README has the details and measurements.
BUNDLED = Path(__file__).parents[1] / "bundled" / "story-7m"


def resolve(path: str | Path | None, *, revision: str | None = None) -> Path:
    """A folder or file on this machine; a Hub id is downloaded into huggingface_hub's own cache.

    Raises:
        CheckpointError: no such file, and not a Hub id either.
        FileError: the Hub cannot be reached or has no such model.
    """
    if path is None:
        if not (BUNDLED / "config.json").is_file():
            raise CheckpointError("the bundled model is missing: install edgekit again, or name a model with -m")
        return BUNDLED
    if Path(path).exists():
        return Path(path)
    if isinstance(path, str) and HUB_ID.fullmatch(path) and not path.endswith((".gguf", ".onnx")):
        return _download(path, revision)
    raise CheckpointError(f"{path} does not exist, and is not a Hub id of the form owner/name")


def _download(name: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=DOWNLOADED))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileError(f"{name} is not a path here, and cannot be downloaded from the Hub: {reason}") from error
