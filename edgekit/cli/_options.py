"""Settings become flags: `@options(Sampling)` gives a command one flag a field, with the field's own help.

A flag that was not given is absent from what the command receives, so that a model's own defaults can stand.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, get_args, get_type_hints

import click

F = TypeVar("F", bound=Callable[..., Any])


def options(*classes: type, only: set[str] | None = None) -> Callable[[F], F]:
    """Decorate a command with the flags of some settings classes (or of the fields in `only`)."""

    def decorate(function: F) -> F:
        for cls in reversed(classes):
            hints = get_type_hints(cls)
            for f in reversed(dataclasses.fields(cls)):
                if f.metadata.get("flag", True) and (only is None or f.name in only):
                    function = _option(f, hints[f.name])(function)
        return function

    return decorate


def given(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """The settings of `cls` that were typed, taken out of a command's values."""
    found = {f.name: values.pop(f.name) for f in dataclasses.fields(cls) if f.name in values}
    return {name: value for name, value in found.items() if value is not None and value != ()}


class NumberOr(click.ParamType):
    """A whole number, or one of some words."""

    name = "number"

    def __init__(self, words: tuple[str, ...]):
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int) or value in self.words:
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor {' nor '.join(self.words)}", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "|".join(("N", *self.words))


def _option(f: dataclasses.Field, hint: Any) -> Callable[[F], F]:
    flag = "--" + f.name.replace("_", "-")
    if hint is bool:
        return click.option(flag, is_flag=True, default=None, help=f.metadata["help"])
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    kind: Any = click.Choice(f.metadata["choices"]) if "choices" in f.metadata else kinds[0]
    if "words" in f.metadata:
        kind = NumberOr(f.metadata["words"])
    default = f.metadata["help"]
    if f.default not in (None, dataclasses.MISSING, ()):
        default += f"  [default: {f.default}]"
    return click.option(
        flag,
        type=kind,
        default=None if hint != tuple[str, ...] else (),
        multiple=hint == tuple[str, ...],
        metavar=f.metadata.get("metavar"),
        help=default,
    )
