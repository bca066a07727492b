"""What a person may set when speed is measured; bench.py does it.

Apart from settings.py because it is of no use to anybody who only runs models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgekit.settings import Checked, setting

AUTO = "auto"
"""Instead of a number of threads: the one that is measured to be the fastest. See edgekit/inference/threads.py."""


def _whole(value: Any, low: int, high: int = 2**31) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _wholes(low: int, *, some: bool) -> Callable[[Any], bool]:
    """Whole numbers from `low` up; at least one if `some`."""
    return lambda values: (bool(values) or not some) and all(_whole(value, low) for value in values)


@dataclass(frozen=True)
class Benching(Checked):
    """What is measured, and how often."""

    prompt_tokens: tuple[int, ...] = setting(
        (32,),
        "Lengths of the prompts, comma-separated: a line of the table for each.",
        check=_wholes(1, some=True),
        range="whole numbers from 1 up",
        metavar="N,N,...",
    )
    new_tokens: int = setting(
        128, "Tokens to generate.", check=lambda v: _whole(v, 2), range="a whole number from 2 up", metavar="N"
    )
    repeat: int = setting(
        5,
        "Rounds; the models take turns in each, every one in a process of its own.",
        check=lambda v: _whole(v, 1),
        range="a whole number from 1 up",
        metavar="N",
    )
    context: tuple[int, ...] = setting(
        (32, 256, 512, 1000),
        "Lengths of the context at which decoding is timed, comma-separated, or `none`.",
        check=_wholes(2, some=False),
        range="whole numbers from 2 up, or `none`",
        metavar="N,N,...",
    )
    threads: tuple[int | str, ...] = setting(
        (AUTO,),
        "Numbers of threads, comma-separated: a line for each; `auto` measures which is the fastest.",
        check=lambda values: bool(values) and all(v == AUTO or _whole(v, 1, 1024) for v in values),
        range="whole numbers from 1 to 1024, or `auto`",
        metavar="N,N,...",
    )
