"""A recipe: everything that decides what a training run makes, read from TOML and checked before anything starts.

    recipe = load("recipe.toml", ["learning_rate=1e-3", "data.block_size=512"])

A section is a dataclass here and a table of the file; a key that no section has is an error, and so are two keys
that contradict each other. `--set` takes a key with its section, or alone where only one section has it.
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

RECIPES = Path(__file__).parent / "recipes"


def load(path: str | Path, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe: a TOML file, or one of edgekit's own by name (`smoke`, `recipes/smoke.toml`).

    Args:
        changes: `key=value` texts that override it; the value is TOML, or else a text.

    Raises:
        RecipeError: unknown, missing, ill-typed, out-of-range or contradictory keys, by name.
        FileError: no such file.
    """
    found = find(path)
    try:
        values = tomllib.loads(read_bytes(found).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    values.setdefault("name", found.stem)
    for change in changes:
        _set(values, change)
    return from_dict(values, str(path))


def find(path: str | Path) -> Path:
    """The file of a recipe: the path itself, or edgekit's own of that name. Raises `RecipeError` if neither is."""
    if Path(path).is_file():
        return Path(path)
    own = RECIPES / Path(path).with_suffix(".toml").name
    if str(Path(path).parent) in (".", "recipes") and own.is_file():
        return own
    names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
    raise RecipeError(f"no recipe {path}: give a TOML file, or one of {names}")


def from_dict(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from the tables of its file. Raises `RecipeError` led by `where`."""
    try:
        recipe = _build(Recipe, values, "")
        if said := contradictions.find(recipe):
            raise _Wrong(said)
    except SettingError as error:
        raise RecipeError(f"{where}: {error}") from error
    return recipe


def difference(old: dict[str, Any], new: dict[str, Any], free: frozenset[str] = FREE, prefix: str = "") -> str | None:
    """The first key that differs between two `to_dict()`s and is not `free` to, as `section.key`, or None."""
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}{key}"
        before, after = old.get(key), new.get(key)
        if name in free or before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            if found := difference(before, after, free, f"{name}."):
                return found
        else:
            return name
    return None


class _Wrong(SettingError):
    pass


def _build(cls: type, values: Any, section: str) -> Any:
    """One table -> its dataclass."""
    if not isinstance(values, dict):
        raise _Wrong(f"{section.rstrip('.')} must be a table, not {values!r}")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise _Wrong(f"unknown key {section}{key}; {section.rstrip('.') or 'a recipe'} has {', '.join(hints)}")
    made = {key: _convert(hints[key], value, f"{section}{key}") for key, value in values.items()}
    try:
        return cls(**made)
    except SettingError as error:
        if isinstance(error, _Wrong):
            raise
        raise _Wrong(f"{section}{error}") from error


def _convert(hint: Any, value: Any, name: str) -> Any:
    """A TOML value -> what the field's type says. TOML's arrays become tuples, its integers floats where wanted."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        # TOML has no null: "none" takes a default away.
        if value is None or value == "none":
            return None
        return _convert(kinds[0], value, name)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{name}.")  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        kinds = list(get_args(hint))
        if not isinstance(value, list | tuple):
            raise _Wrong(f"{name} must be an array, not {value!r}")
        return tuple(_convert(kinds[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise _Wrong(f"{name} must be a table, not {value!r}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        raise _Wrong(f"{name} must be {words[hint]}, not {value!r}")
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
            raise RecipeError(f"--set {change}: {part} is no table")
    table[last] = value
