"""Settings as flags: `@options(Sampling)` gives a command one flag for each field, with its type, help and bounds.

A flag that was not given is None, and `given` leaves it out, so that the model's own default applies.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgekit.settings import Spec, specs

F = TypeVar("F", bound=Callable[..., Any])


def options(*classes: type, only: set[str] | None = None) -> Callable[[F], F]:
    """Decorate a command with the flags of some settings classes (or of the fields in `only`)."""
    shown = [spec for cls in classes for spec in specs(cls).values() if spec.flag and (not only or spec.name in only)]

    def decorate(function: F) -> F:
        for spec in reversed(shown):
            function = _option(spec)(function)
        return function

    return decorate


def given(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """Take the settings of `cls` that the user gave out of a command's values."""
    found = {name: values.pop(name) for name in specs(cls) if name in values}
    return {name: value for name, value in found.items() if value is not None}


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


class Numbers(click.ParamType):
    """`32,512`: whole numbers separated by commas, or some words in their place; `none` if there may be no number."""

    name = "numbers"

    def __init__(self, words: tuple[str, ...] = (), *, empty: bool = False):
        self.words, self.empty = words, empty

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | str, ...]:
        if not isinstance(value, str):
            return tuple(value)
        if value == "none" and self.empty:
            return ()
        parts = [part.strip() for part in value.split(",")]
        try:
            return tuple(part if part in self.words else int(part) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of whole numbers", param, ctx)


class Reals(click.ParamType):
    """`10,1.05`: numbers separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(int(part) if part.strip().isdecimal() else float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of numbers", param, ctx)


def _option(spec: Spec) -> Callable[[F], F]:
    flag = "--" + spec.name.replace("_", "-")
    if spec.kind is bool:
        return click.option(flag, is_flag=True, default=None, help=spec.help)
    repeated = spec.form == "lists" or (spec.many and spec.kind is str)

    def check(_: click.Context, __: click.Parameter, value: Any) -> Any:
        """Report an invalid value before the command starts, in the words of `SettingError`."""
        if value is None or (repeated and value == ()):
            return None
        if spec.form == "lists" and value == ((),):  # `none`
            return ()
        spec.validate(value)
        return value

    return click.option(
        flag,
        type=_type(spec),
        default=None,
        multiple=repeated,
        metavar=spec.metavar,
        callback=check,
        help=spec.help + _default(spec.default),
    )


def _type(spec: Spec) -> Any:
    if spec.choices:
        return click.Choice(spec.choices)
    if spec.form == "numbers":
        return Reals()
    if spec.form == "lists" or (spec.many and spec.kind is int):
        return Numbers(spec.words, empty=spec.accepts(()))
    return NumberOr(spec.words) if spec.words else spec.kind


def _default(value: Any) -> str:
    if value is None or value == ():
        return ""
    return f"  [default: {','.join(map(str, value)) if isinstance(value, tuple) else value}]"
