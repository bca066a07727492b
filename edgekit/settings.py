"""What a person may set, each value said once: default, range and help. `options.py` makes flags of it.

A dataclass field here is at the same time a keyword of the Python API, a flag of the command line, and a line of
its help. `check()` runs when an object is made, so a bad value never reaches a model.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgekit.errors import SettingError


def setting(
    default: Any, help: str, *, check: Callable[[Any], bool] | None = None, range: str = "", **more: Any
) -> Any:
    """A dataclass field with its help, its test and the words for the values that pass it."""
    metadata = {"help": help, "check": check, "range": range, **more}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class Checked:
    """Base of the settings: every field is tested when the object is made."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            test, value = f.metadata.get("check"), getattr(self, f.name)
            if test is None or (value is None and f.default is None):
                continue
            try:
                passed = test(value)
            except TypeError:
                passed = False
            if not passed:
                raise SettingError(f"{f.name} must be {f.metadata['range']}, not {value!r}")


def _number(low: float, high: float = float("inf"), *, above: bool = False) -> Callable[[Any], bool]:
    """A finite number in [low, high], or in (low, high] if `above`."""

    def test(value: Any) -> bool:
        if isinstance(value, bool) or not low <= value <= high or value == float("inf"):
            return False
        return value > low if above else True

    return test


def _whole(low: int, high: int = 2**63) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True)
class Sampling(Checked):
    """How the next token is chosen. Order and meaning of the steps are those of Hugging Face `generate`."""

    temperature: float = setting(
        0.0, "Divide the logits by this; 0 takes the likeliest token.", check=_number(0), range="a number from 0 up"
    )
    top_k: int = setting(
        0, "Keep the K likeliest tokens; 0 keeps all.", check=_whole(0), range="a whole number from 0 up"
    )
    top_p: float = setting(
        1.0,
        "Keep the fewest tokens whose probabilities reach P.",
        check=_number(0, 1, above=True),
        range="above 0 and at most 1",
    )
    min_p: float = setting(
        0.0, "Drop tokens less likely than P times the likeliest.", check=_number(0, 1), range="from 0 to 1"
    )
    repetition_penalty: float = setting(
        1.0,
        "Weaken tokens of the prompt and of the text so far; 1 is off.",
        check=_number(0, above=True),
        range="a number above 0",
    )
    seed: int | None = setting(
        None,
        "Same seed, same text, on every runtime; none draws a new one.",
        check=_whole(0),
        range="a whole number from 0 up",
    )
    logit_bias: dict[int, float] = setting({}, "Add to the logit of a token id.", flag=False)
    banned: tuple[int, ...] = setting((), "Token ids that are never chosen.", flag=False)
    ban_replacement: bool = setting(False, "Never print U+FFFD: mask tokens that cannot continue valid UTF-8.")


@dataclass(frozen=True)
class Generating(Sampling):
    """Everything that one call of `generate` or `stream` takes: the sampling, and where to stop."""

    max_new_tokens: int = setting(
        256, "Stop after this many tokens.", check=_whole(1), range="a whole number from 1 up"
    )
    stop: tuple[str, ...] = setting(
        (),
        "Stop before this text; may be repeated.",
        metavar="TEXT",
        check=lambda v: all(isinstance(s, str) and s for s in v),
        range="non-empty texts",
    )
    ignore_eos: bool = setting(False, "Go on past the end of the text.")
    truncate: str | None = setting(
        None,
        "Shorten a prompt that is too long: `left` drops its beginning.",
        check=lambda v: v in ("left",),
        range="`left`",
        choices=("left",),
    )
    logprobs: int | None = setting(
        None,
        "Record each token's log-probability, and the N likeliest beside it.",
        check=_whole(0),
        range="a whole number from 0 up",
    )


@dataclass(frozen=True)
class Running(Checked):
    """How a runtime is set up."""

    threads: int | str | None = setting(
        None,
        "CPU threads; `auto` measures once which number is fastest, and remembers it; default: what was measured, else "
        "by the size of the model.",
        check=lambda v: v == "auto" or _whole(1, 1024)(v),
        range="a whole number from 1 to 1024, or `auto`",
        words=("auto",),
    )
    kv_type: str = setting(
        "f16",
        "Type of llama.cpp's KV cache; f32 for exact comparison.",
        check=lambda v: v in ("f16", "f32"),
        range="f16 or f32",
        choices=("f16", "f32"),
    )
    dtype: str = setting(
        "float32",
        "torch: type of the weights; bfloat16 and int8 are faster and round them.",
        check=lambda v: v in ("float32", "bfloat16", "int8"),
        range="float32, bfloat16 or int8",
        choices=("float32", "bfloat16", "int8"),
    )
    reference: bool = setting(False, "torch: the model of transformers, slower; what all the rest is held to.")


@dataclass(frozen=True)
class Converting(Checked):
    """How an artefact is made."""

    quant: str | None = setting(None, "Type of the weights: q8_0, q4_0, ... for gguf; fp32, fp16, int8, int4 for onnx.")
    embedding_type: str | None = setting(None, "gguf: type of the token embedding, if not the one of --quant.")
    graph: str = setting(
        "fused",
        "onnx: fused is for ONNX Runtime and fastest there; portable (fp32, int8) is for whatever reads ONNX.",
        check=lambda v: v in ("fused", "portable"),
        range="fused or portable",
        choices=("fused", "portable"),
    )
    reduce_range: bool = setting(False, "onnx, portable int8: 7-bit weights, for CPUs without VNNI (older than 2019).")
