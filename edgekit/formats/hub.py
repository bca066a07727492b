"""The files of a model given as a path, a Hub id, or nothing for the bundled model.

    owner/name                    the folder with safetensors, or the .gguf or .onnx of a repository that has only those
    owner/name:q4_0               its .gguf of a type
    owner/name/folder/model.gguf  one file (also .onnx)
    hf://owner/name               the same, whatever is in the current folder

What is downloaded is in `hub_files.py`. It is kept in huggingface_hub's own cache, under its environment variables
(HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN).
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgekit.errors import CheckpointError, FileError, UsageError
from edgekit.formats import llama2c
from edgekit.formats.folder import INDEX, shards_of
from edgekit.formats.hub_cache import origin
from edgekit.formats.hub_files import select
from edgekit.formats.open import model_file
from edgekit.utils import registry
from edgekit.utils.files import os_reason

if TYPE_CHECKING:
    from huggingface_hub import HfApi

NAME = r"[A-Za-z0-9][\w.-]*"
REFERENCE = re.compile(rf"({NAME}/{NAME})(?::([\w.-]+)|/(.+\.(?:gguf|onnx)))?")
SCHEME = "hf://"
FILES = (".gguf", ".onnx", ".safetensors", ".bin", ".pt", ".pth", ".json", ".model", ".vocab", ".toml", ".txt", ".zip")
"""Ends of files: FOLDER/FILE, of a folder that is not there, is not a repository."""
WEIGHTS = (".safetensors", ".gguf", ".onnx")
TIMEOUT = 10
"""Seconds that the Hub has for an answer."""

# Trained by `edgekit train base`; its README has the details and measurements.
BUNDLED = Path(__file__).parents[1] / "bundled" / "story-7m"

Note = Callable[[str], None]


def ignore(note: str) -> None:
    """Takes a note and does nothing with it."""


class Reference(NamedTuple):
    """A model on the Hub: a repository, and a type or a file in it if one is named."""

    repository: str
    type: str | None = None
    file: str | None = None


def parse(name: str) -> Reference | None:
    """A Hub id; None if the text is a path.

    A text is a path if it exists, if the folder that it begins with exists, if it has more parts than OWNER/NAME and
    does not end in `.gguf` or `.onnx`, or if it is OWNER/NAME with the end of a file. `hf://` before it makes a Hub id
    of it.
    """
    explicit = name.startswith(SCHEME)
    if not (match := REFERENCE.fullmatch(name.removeprefix(SCHEME))):
        return None
    repository, kind, file = match.groups()
    parts = (file or "").split("/")
    if repository.lower().endswith(FILES) or (file and not all(part.strip(".") for part in parts)):
        return None
    if not explicit and (exists(name) or os.path.isdir(name.partition("/")[0])):
        return None
    return Reference(repository, None if (kind or "").lower() == "latest" else kind, file)


def exists(path: str | Path) -> bool:
    """Whether there is such a file; False for what cannot be a path, such as a very long text."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def resolve(path: str | Path | None, *, revision: str | None = None, note: Note = ignore) -> Path:
    """A folder or file on this machine; a Hub id is downloaded into huggingface_hub's own cache, and llama2.c's `.bin`
    becomes a folder in the cache of conversions.

    Without an answer from the Hub, or offline, the cache's copy is taken if there is one.

    Args:
        revision: branch, tag or commit of a Hub id; by default the main branch.
        note: called with sentences about what was taken: the commit, the file, the cache's copy.

    Raises:
        CheckpointError: no such file, and not a Hub id either; or a repository without what is asked for.
        FileError: the Hub cannot be reached, has no such model, or refuses it.
        UsageError: a revision of something that is not a Hub id.
    """
    reference = parse(path) if isinstance(path, str) else None
    if reference is not None:
        return _fetch(reference, revision, note)
    if revision is not None:
        raise UsageError(f"--revision is for a Hub id, and {path or 'the bundled model'} is none")
    if path is None:
        if not (BUNDLED / "config.json").is_file():
            raise CheckpointError("the bundled model is missing: install edgekit again, or name a model with -m")
        return BUNDLED
    if path == "":
        raise CheckpointError("the model's name is empty: name a folder, a file or a Hub id")
    if exists(path):
        return _opened(Path(path))
    if isinstance(path, str) and parse(f"{SCHEME}{path}"):
        where = Path(path).parts[0]
        raise CheckpointError(
            f"{path} does not exist; {where} is a folder here, so the Hub is not asked: {SCHEME}{path} asks it"
        )
    raise CheckpointError(
        f"{path} does not exist, and is not a Hub id of the form owner/name, owner/name:q4_0 or owner/name/file.gguf"
    )


def _opened(path: Path) -> Path:
    """A path as it is; llama2.c's files as the model folder that they become in the cache. Raises as `open_model`."""
    file = model_file(path)
    if file.suffix != llama2c.SUFFIX or not file.is_file():
        return path
    folder: Path = registry.load("converters", "llama2c").folder(file)
    return folder


def _fetch(reference: Reference, revision: str | None, note: Note) -> Path:
    """Download what is not in the cache. Raises as `resolve`."""
    import huggingface_hub

    with _quiet():
        api = huggingface_hub.HfApi()
        try:
            info = api.model_info(reference.repository, revision=revision, timeout=TIMEOUT, files_metadata=True)
        except Exception as error:  # of requests or httpx, by huggingface_hub's version
            return _from_cache(api, reference, revision, error, note)
        sizes = {file.rfilename: file.size for file in info.siblings or []}
        selection = select(reference.repository, list(sizes), type=reference.type, file=reference.file)
        if selection.note:
            note(selection.note)
        folder, commit = Path(), revision
        wanted = list(selection.files)
        for at, name in enumerate(wanted):
            try:
                path = _download(api, reference.repository, name, commit, sizes[name], note)
            except Exception as error:
                raise FileError(_failure(reference.repository, name, revision, error)) from error
            if not at:  # of the revision; the others are of the same commit
                found = origin(path)
                folder, commit = path.parents[name.count("/")], found.revision if found else info.sha
            if name == INDEX and selection.indexed:
                wanted += [shard for shard in shards_of(path) if shard in sizes]
    if commit != revision:
        note(f"{reference.repository} at {commit}")
    return folder / selection.model


def _download(api: "HfApi", repository: str, name: str, revision: str | None, size: int | None, note: Note) -> Path:
    """One file, from the cache if it is there and has its size. What is left of an interrupted download is continued.

    Raises whatever huggingface_hub does.
    """
    try:
        path = Path(api.hf_hub_download(repository, name, revision=revision, etag_timeout=TIMEOUT))
        if size is None or path.stat().st_size == size:
            return path
        note(f"{name} in the cache is damaged, and is downloaded again: {path.stat().st_size} bytes instead of {size}")
    except Exception as error:
        # Begun by another program, or damaged: more bytes than the file has.
        if _status(error) != 416 and "onsistency check" not in str(error):
            raise
    return Path(api.hf_hub_download(repository, name, revision=revision, etag_timeout=TIMEOUT, force_download=True))


def _from_cache(api: "HfApi", reference: Reference, revision: str | None, error: Exception, note: Note) -> Path:
    """The cache's copy where the Hub gave no answer. Raises `FileError` if there is none, or not all of it."""
    repository = reference.repository
    why = _failure(repository, "", revision, error)
    refused = 400 <= (_status(error) or 0) < 500
    try:
        folder = Path(api.snapshot_download(repository, revision=revision, local_files_only=True))
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        selection = select(repository, files, type=reference.type, file=reference.file)
        weights = shards_of(folder / INDEX) if selection.indexed else [selection.files[-1]]
    except Exception as reason:
        raise FileError(why if refused else f"{why}; the cache does not have it") from reason
    missing = [name for name in weights if name not in files or not name.endswith(WEIGHTS)]
    if missing:
        raise FileError(f"{why}; the cache has a part of it only") from error
    if selection.note:
        note(selection.note)
    note(f"{why}; taken is the cache's copy, {repository} at {folder.name}")
    return folder / selection.model


def _failure(repository: str, name: str, revision: str | None, error: Exception) -> str:
    """One line about what went wrong, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repository} is gated: accept its terms on its page on the Hub, then log in with `hf auth login` or set "
            "HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the Hub has no {repository}, or it is private: check the name, or log in with `hf auth login` or set "
            "HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{repository} cannot be downloaded: offline mode is on (HF_HUB_OFFLINE)"
    reason = _reason(error)
    if (status := _status(error)) in (401, 403):
        return f"the Hub refuses access to {repository} ({status}): log in with `hf auth login` or set HF_TOKEN"
    if name:
        return f"the download of {name} from {repository} stopped, run the command again to continue it: {reason}"
    return f"{repository} is not a path here, and cannot be downloaded from the Hub: {reason}"


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error is about."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return int(error.response.status_code)
    return None


def _reason(error: BaseException) -> str:
    """The innermost reason of a chain of errors, as one short line: `Connection refused`."""
    while (cause := error.__cause__ or error.__context__) is not None and _status(error) is None:
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return os_reason(error)
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without huggingface_hub's warnings, and without its progress bars where stderr is not a terminal."""
    from huggingface_hub import utils

    logs, verbosity = utils.logging, utils.logging.get_verbosity()
    bars = not utils.are_progress_bars_disabled() and not sys.stderr.isatty()
    logs.set_verbosity_error()
    if bars:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        logs.set_verbosity(verbosity)
        if bars:
            utils.enable_progress_bars()
