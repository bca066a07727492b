"""A recipe: everything that decides the result of a training run, read from TOML and checked before anything starts.

    recipe = load("recipe.toml", ["learning_rate=1e-3", "data.block_size=512"])

A section is a dataclass in sections.py and a table of the file. Unknown keys are errors, as are keys that
contradict each other. `--set` takes a key with its section, or alone if only one section has it.
"""

import dataclasses
import tomllib
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from edgekit.errors import RecipeError, SettingError
from edgekit.training import contradictions
from edgekit.training.sections import FREE, Recipe
from edgekit.utils.files import read_bytes
from edgekit.utils.guard import reads

RECIPES = Path(__file__).parent / "recipes"


@reads(RecipeError)
def load(path: str | Path, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe: a TOML file, or one that comes with edgekit by name (`smoke`, `recipes/smoke.toml`).

    Args:
        changes: `key=value` overrides; the value is read as TOML, or as a string if it is not TOML.

    Raises:
        RecipeError: unknown, missing, ill-typed, out-of-range or contradictory keys, by name.
        FileError: no such file.
    """
    file = find(path)
    try:
        values = tomllib.loads(read_bytes(file).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    values.setdefault("name", file.stem)
    for change in changes:
        _set(values, change)
    return from_dict(values, str(path))


def find(path: str | Path) -> Path:
    """The file of a recipe: the path, or the built-in recipe of that name. Raises `RecipeError` if neither exists."""
    if Path(path).is_file():
        return Path(path)
    builtin = RECIPES / Path(path).with_suffix(".toml").name
    if str(Path(path).parent) in (".", "recipes") and builtin.is_file():
        return builtin
    names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
    raise RecipeError(f"no recipe {path}: give a TOML file, or one of {names}")


def from_dict(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from the tables of its file. Raises `RecipeError` with a message that starts with `where`."""
    try:
        recipe = _build(Recipe, values, "")
        if message := contradictions.find(recipe):
            raise _NamedError(message)
    except SettingError as error:
        raise RecipeError(f"{where}: {error}") from error
    return recipe


def difference(old: dict[str, Any], new: dict[str, Any], free: frozenset[str] = FREE, prefix: str = "") -> str | None:
    """The first key, as `section.key`, whose values differ and that is not in `free`; None if there is none."""
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}{key}"
        before, after = old.get(key), new.get(key)
        if name in free or before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            if inner := difference(before, after, free, f"{name}."):
                return inner
        else:
            return name
    return None


class _NamedError(SettingError):
    """A message that already names the section."""


def _build(cls: type, values: Any, section: str) -> Any:
    """A table of the file as its dataclass."""
    if not isinstance(values, dict):
        raise _NamedError(f"{section.rstrip('.')} must be a table, not {values!r}")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise _NamedError(f"unknown key {section}{key}; {section.rstrip('.') or 'a recipe'} has {', '.join(hints)}")
    fields = {key: _convert(hints[key], value, f"{section}{key}") for key, value in values.items()}
    try:
        return cls(**fields)
    except SettingError as error:
        if isinstance(error, _NamedError):
            raise
        raise _NamedError(f"{section}{error}") from error


def _convert(hint: Any, value: Any, name: str) -> Any:
    """A TOML value as a field's type: arrays become tuples, and integers floats if the field is a float."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        # TOML has no null: "none" removes a default.
        if value is None or value == "none":
            return None
        return _convert(kinds[0], value, name)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{name}.")  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        kinds = list(get_args(hint))
        if not isinstance(value, list | tuple):
            raise _NamedError(f"{name} must be an array, not {value!r}")
        return tuple(_convert(kinds[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise _NamedError(f"{name} must be a table, not {value!r}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        words = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
        raise _NamedError(f"{name} must be {words[hint]}, not {value!r}")
    return value


def _set(values: dict[str, Any], change: str) -> None:
    """Apply one `key=value`. Raises `RecipeError`."""
    key, equals, text = (part.strip() for part in change.partition("="))
    if not equals or not key:
        raise RecipeError(f"--set takes key=value, not {change!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    sections = {f.name: f.type for f in dataclasses.fields(Recipe) if dataclasses.is_dataclass(f.type)}
    if "." not in key and key not in {f.name for f in dataclasses.fields(Recipe)}:
        owners = [s for s, cls in sections.items() if key in {f.name for f in dataclasses.fields(cls)}]  # type: ignore[arg-type]
        if len(owners) != 1:
            raise RecipeError(f"--set {change}: no section of a recipe has the key {key!r}")
        key = f"{owners[0]}.{key}"
    *path, last = key.split(".")
    table = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {change}: {part} is not a table")
    table[last] = value
