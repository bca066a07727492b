"""What a resume needs, saved whole or not at all.

    RUN/checkpoints/step-00000900/state.pt     model, optimizer, scaler, random state, data position, best metric, ...
    RUN/checkpoints/step-00000900/recipe.json  what it was trained by

A checkpoint is written under another name, flushed and renamed, and only then are older ones deleted: a run killed at
any moment has the last whole one. `state.pt` holds tensors and plain values only (`weights_only`): no code runs.
"""

import contextlib
import io
import json
import logging
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from edgekit.errors import TrainingError
from edgekit.training.recipe import difference
from edgekit.training.sections import EXTENDABLE, FREE, Recipe
from edgekit.utils import files

log = logging.getLogger(__name__)

STATE, RECIPE = "state.pt", "recipe.json"


def folders(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(p for p in (run / "checkpoints").glob("step-*") if (p / STATE).is_file())


def save(run: Path, step: int, state: dict[str, Any], recipe: Recipe, keep: int) -> Path:
    """Save, then delete all but the newest `keep`. Raises `FileError`, with the older ones still there."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    buffer = io.BytesIO()  # torch writing to a full disk raises anything; plain bytes raise OSError
    torch.save(state, buffer)
    with files.replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / STATE).write_bytes(buffer.getbuffer())
        (temporary / RECIPE).write_text(json.dumps(recipe.to_dict(), indent=1) + "\n")
    for old in folders(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def load(run: Path, recipe: Recipe, *, extend: bool = False) -> dict[str, Any] | None:
    """The state of the newest checkpoint that can be read; None if the run has none.

    Args:
        extend: another length, learning rate, schedule and text than the checkpoint's are meant.

    Raises:
        TrainingError: it was made by another recipe (the message names the key), or none of them can be read.
    """
    found = folders(run)
    for folder in reversed(found):
        try:
            made_by = json.loads((folder / RECIPE).read_bytes())
            state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            log.warning("%s is damaged (%s): trying the one before", folder, " ".join(str(error).split())[:200])
            continue
        # JSON has no tuples: compare what both look like after it.
        if key := difference(made_by, json.loads(json.dumps(recipe.to_dict())), EXTENDABLE if extend else FREE):
            raise TrainingError(
                f"{run} was trained with another recipe: {key} was {_at(made_by, key)!r}, is "
                f"{_at(recipe.to_dict(), key)!r}; resume with the old one, name another folder with -o, or begin anew "
                "with --fresh" + ("; --extend goes on with the new one" if key in EXTENDABLE and not extend else "")
            )
        return state
    if found:
        raise TrainingError(f"{run}: none of the {len(found)} checkpoints can be read; --fresh begins anew")
    return None


@contextlib.contextmanager
def alone(run: Path) -> Iterator[None]:
    """Hold a run's folder: two runs in one would delete each other's files. The system lets go of it with the process.

    Raises `TrainingError` if another run has it. Where folders cannot be locked (Windows, some network disks), or this
    one cannot be made, which saving says better, nothing is held.
    """
    handle = None
    made = not run.exists()
    try:
        import fcntl

        run.mkdir(parents=True, exist_ok=True)
        handle = os.open(run, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)  # type: ignore[arg-type]
        raise TrainingError(
            f"another run is writing to {run}: wait for its end, stop it, or name another folder with -o"
        ) from error
    except (ModuleNotFoundError, OSError):
        pass
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)
        if made:
            with contextlib.suppress(OSError):  # a run that failed before it saved anything leaves no folder
                run.rmdir()


def clear(run: Path) -> None:
    """Delete what an earlier run of this folder left: its checkpoints and models."""
    for name in ("checkpoints", "best", "model"):
        shutil.rmtree(run / name, ignore_errors=True)


def sweep(run: Path) -> None:
    """Delete the temporary folders that a killed run left."""
    for stale in [*run.glob(".*.tmp*"), *(run / "checkpoints").glob(".*.tmp*"), *run.glob(".*.old")]:
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)


def _at(values: dict[str, Any], key: str) -> Any:
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
