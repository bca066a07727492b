"""Checkpoints of a run: what resuming needs, saved whole or not at all.

    RUN/checkpoints/step-00000900/state.pt     model, optimizer, scaler, random state, position, ... (`Run.state`)
    RUN/checkpoints/step-00000900/recipe.json  the recipe it was trained with

A checkpoint is written under a temporary name, flushed and renamed, and only then are older ones deleted: a run killed
at any moment still has its last complete one. `state.pt` holds tensors and plain values only, so that loading it runs
no code (`weights_only`).
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

from edgekit.errors import EdgekitError, TrainingError
from edgekit.training.recipe import difference
from edgekit.training.sections import EXTENDABLE, FREE, Recipe
from edgekit.utils import files, temporaries
from edgekit.utils.guard import reading

log = logging.getLogger(__name__)

STATE, RECIPE = "state.pt", "recipe.json"


def folders(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(p for p in (run / "checkpoints").glob("step-*") if (p / STATE).is_file())


def save(run: Path, step: int, state: dict[str, Any], recipe: Recipe, keep: int) -> Path:
    """Save a checkpoint, then delete all but the newest `keep`. Raises `FileError`; the older ones are still there."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    buffer = io.BytesIO()  # on a full disk torch.save raises errors of any class, writing bytes an OSError
    torch.save(state, buffer)
    with files.replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / STATE).write_bytes(buffer.getbuffer())
        (temporary / RECIPE).write_text(json.dumps(recipe.to_dict(), indent=1) + "\n")
    for old in folders(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def load(run: Path, recipe: Recipe, *, extend: bool = False) -> dict[str, Any] | None:
    """The state of the newest readable checkpoint; None if the run has no checkpoint.

    Args:
        extend: accept another length, learning rate, schedule and text than the checkpoint's.

    Raises:
        TrainingError: the recipe differs (the message names the key), or no checkpoint can be read.
    """
    saved = folders(run)
    for folder in reversed(saved):
        try:
            with reading(folder, TrainingError):
                recipe_then = json.loads(files.read_bytes(folder / RECIPE))
                with files.open_regular(folder / STATE) as file:
                    state = torch.load(file, map_location="cpu", weights_only=True)
                if not isinstance(recipe_then, dict) or not isinstance(state, dict):
                    raise TrainingError("it has neither a state nor a recipe")
        except (EdgekitError, OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            log.warning("%s is damaged (%s): trying the one before", folder, " ".join(str(error).split())[:200])
            continue
        recipe_now = json.loads(json.dumps(recipe.to_dict()))  # JSON turns tuples into lists
        if key := difference(recipe_then, recipe_now, EXTENDABLE if extend else FREE):
            raise TrainingError(
                f"{run} was trained with another recipe: {' '.join(key.split())} was {_at(recipe_then, key)!r}, is "
                f"{_at(recipe.to_dict(), key)!r}; resume with the old one, name another folder with -o, or start over "
                "with --fresh" + ("; --extend continues with the new one" if key in EXTENDABLE and not extend else "")
            )
        return state
    if saved:
        raise TrainingError(f"{run}: none of the {len(saved)} checkpoints can be read; --fresh starts over")
    return None


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Lock a run's folder: two runs in it would delete each other's files. The lock ends with the process.

    Raises `TrainingError` if another run has the lock. Nothing is locked where folders cannot be (Windows, some network
    disks), or where this one cannot be created: saving reports that better.
    """
    handle: int | None = None
    created = not run.exists()
    try:
        import fcntl

        run.mkdir(parents=True, exist_ok=True)
        handle = os.open(run, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if handle is not None:
            os.close(handle)
            handle = None
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
        if created:
            with contextlib.suppress(OSError):  # a run that failed before it saved anything leaves no folder
                run.rmdir()


def clear(run: Path) -> None:
    """Delete the checkpoints and models of an earlier run in this folder."""
    for name in ("checkpoints", "best", "model"):
        shutil.rmtree(run / name, ignore_errors=True)


def sweep(run: Path) -> None:
    """Delete the temporary folders that a killed run left; `lock` tells that no other run uses them."""
    for folder in (run, run / "checkpoints"):
        temporaries.sweep(folder)
        for stale in folder.glob(".*.tmp*"):
            temporaries.remove(stale)


def _at(values: dict[str, Any], key: str) -> Any:
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
