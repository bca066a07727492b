"""Conversions that a runtime needs, done once and kept in the user's cache folder.

The key covers the source's bytes, the quantization and edgekit's version, so nothing stale is ever used.
`EDGEKIT_CACHE` names another folder.
"""

import hashlib
import os
from pathlib import Path

from edgekit import __version__
from edgekit.conversion.convert import convert
from edgekit.errors import FileError
from edgekit.formats import embedded
from edgekit.formats.hub_cache import model_name
from edgekit.settings import Converting
from edgekit.utils import registry
from edgekit.utils.files import os_reason
from edgekit.utils.progress import Progress, silent


def folder() -> Path:
    """Where converted models are kept; safe to delete at any time."""
    if folder := os.environ.get("EDGEKIT_CACHE"):
        return Path(folder) / "converted"
    import platformdirs  # here: most runs need no cache, and should not wait for the import

    return platformdirs.user_cache_path("edgekit") / "converted"


def converted(source: Path, to: str, quant: str, progress: Progress = silent) -> Path:
    """`source` in another format, from the cache or converted now. Raises as `edgekit.conversion.convert.convert`."""
    name = Path(model_name(source)).stem
    path = folder() / f"{name}-{quant}-{digest(source, quant)}{registry.suffix('converters', to)}"
    if not path.exists():
        convert(source, to, path, settings=Converting(quant=quant), force=True, progress=progress)
    return path


def digest(source: Path, quant: str) -> str:
    """24 hexadecimal digits over the bytes of every file that a conversion reads, the quantization and the version."""
    source = Path(source)
    files = [source]
    if source.is_dir():
        files = sorted(
            path
            for path in source.iterdir()
            if path.name in embedded.CARRIED or ".safetensors" in path.name or path.suffix == ".vocab"
        )
    total = hashlib.sha256(f"{__version__}\0{quant}".encode())
    for path in files:
        try:
            with open(path, "rb") as file:
                total.update(f"\0{path.name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise FileError(f"cannot read {path}: {os_reason(error)}") from error
    return total.hexdigest()[:24]
