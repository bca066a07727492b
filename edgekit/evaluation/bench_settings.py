"""Settings of `bench`; bench.py reads them."""

from dataclasses import dataclass

from edgekit.settings import Checked, setting

AUTO = "auto"
"""Instead of a number of threads: the one measured to be fastest. See `inference/threads.py`."""


@dataclass(frozen=True)
class Benching(Checked):
    """What is measured, and how often."""

    prompt_tokens: tuple[int, ...] = setting(
        (32,),
        "Lengths of the prompts, comma-separated: a line of the table for each.",
        ge=1,
        check=bool,
        range="whole numbers of at least 1",
        metavar="N,N,...",
    )
    new_tokens: int = setting(128, "Tokens to generate.", ge=2, metavar="N")
    repeat: int = setting(5, "Rounds; in each, every model has one turn, in a process of its own.", ge=1, metavar="N")
    context: tuple[int, ...] = setting(
        (32, 256, 512, 1000),
        "Lengths of the context at which decoding is timed, comma-separated, or `none`.",
        ge=2,
        range="whole numbers of at least 2, or `none`",
        metavar="N,N,...",
    )
    threads: tuple[int | str, ...] = setting(
        (AUTO,),
        "Numbers of threads, comma-separated: a line for each; `auto` measures which is the fastest.",
        ge=1,
        le=1024,
        words=(AUTO,),
        check=bool,
        range="whole numbers from 1 to 1024, or `auto`",
        metavar="N,N,...",
    )
