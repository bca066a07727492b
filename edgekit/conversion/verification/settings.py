"""What a person may set when artefacts are held to their source; verify.py does it."""

from dataclasses import dataclass
from typing import Any

from edgekit.settings import Checked, setting


def _whole(low: int, high: int = 2**31):  # type: ignore[no-untyped-def]
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


@dataclass(frozen=True)
class Verifying(Checked):
    """How artefacts are compared with the model they were made from."""

    tokens: int = setting(2048, "At most this many tokens of text.", check=_whole(2), range="a whole number from 2 up")
    window: int = setting(
        256,
        "Tokens that are fed at once, each window starting anew; at most the context.",
        check=_whole(2),
        range="a whole number from 2 up",
    )
    greedy: int = setting(
        64, "Tokens of each greedy text that is compared; 0 writes none.", check=_whole(0), range="a whole number"
    )
    prompts: int = setting(
        4, "Greedy texts, each from another place of the text.", check=_whole(1), range="a whole number from 1 up"
    )
    layers: bool = setting(False, "Compare layer by layer, and name the first that departs.")
    max_kl: float | None = setting(
        None, "Fail where the mean KL passes this, in nats a token.", check=_number, range="a number from 0 up"
    )
    kv_type: str = setting(
        "f32",
        "Type of llama.cpp's KV cache; f32 judges the conversion, f16 the cache of `edgekit run` with it.",
        check=lambda v: v in ("f16", "f32"),
        range="f16 or f32",
        choices=("f16", "f32"),
    )
    threads: int | None = setting(
        None,
        "CPU threads; default: by the size of the model, at most the physical cores.",
        check=_whole(1, 1024),
        range="a whole number from 1 to 1024",
    )


SHORT = Verifying(tokens=256, greedy=24, prompts=2, threads=1)
"""What a conversion measures of itself: about a second for 12 million parameters, on one thread, so that figures are
the same on every machine of a kind and another program that wants a core costs no more than its share."""
