"""What a person may set, each value said once: default, range and help. `options.py` makes flags of it.

A dataclass field here is at the same time a keyword of the Python API, a flag of the command line, and a line of
its help. `check()` runs when an object is made, so a bad value never reaches a model.
"""

import dataclasses
import re
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
class Drafting(Checked):
    """Speculative decoding: a cheap model guesses ahead, the model itself checks many guesses in one call."""

    draft: str | None = setting(
        None,
        "Guess ahead with this model, of any vocabulary; `ngram`: by what the text repeats; `bundled`: with the model "
        "that comes with edgekit. The text stays the same, it may come faster.",
        metavar="MODEL|ngram",
        check=lambda v: v is not None and v != "",
        range="a model, `bundled` or `ngram`",
    )
    draft_runtime: str | None = setting(None, "Runtime of the draft; default: its format's own.", metavar="NAME")
    draft_tokens: int | str = setting(
        "auto",
        "Guess so many tokens ahead; `auto` goes by what pays, and stops where nothing does.",
        check=lambda v: v == "auto" or _whole(1, 64)(v),
        range="a whole number from 1 to 64, or `auto`",
        words=("auto",),
    )
    draft_sampling: str = setting(
        "coupled",
        "Above temperature 0: `coupled` keeps every token of the seed; `rejection` keeps only their distribution.",
        check=lambda v: v in ("coupled", "rejection"),
        range="coupled or rejection",
        choices=("coupled", "rejection"),
    )


@dataclass(frozen=True)
class Running(Checked):
    """How a runtime is set up."""

    threads: int | str | None = setting(
        None,
        "CPU threads; `auto` measures which number is fastest (a third of a second); default: by the model's size.",
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
    kv_cache: str = setting(
        "f32",
        "onnx, fused int8 and int4: type of the KV cache; int8 is a quarter of the memory and faster at long contexts, "
        "and needs ONNX Runtime 1.27.",
        check=lambda v: v in ("f32", "int8"),
        range="f32 or int8",
        choices=("f32", "int8"),
    )
    reduce_range: bool = setting(False, "onnx, portable int8: 7-bit weights, for CPUs without VNNI (older than 2019).")
    importance: str | None = setting(
        None,
        "gguf: round so that least is lost where this text (a file or folder) needs the weights most; `default` is a "
        "short text that edgekit has.",
        metavar="TEXT|default",
        check=lambda v: isinstance(v, str) and v != "",
        range="a file or folder of text, or `default`",
    )


UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def bytes_of(size: str) -> int | None:
    """`7MB` (10**6 each), `6.5MiB` (2**20), `7000000`: how many bytes; None if it is no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", size)
    unit = UNITS.get(match[2].lower()) if match else None
    return None if match is None or unit is None else int(float(match[1]) * unit)


@dataclass(frozen=True)
class Choosing(Checked):
    """What an artefact may cost, where its type is to be found by measuring; edgekit/plan_choose.py does it."""

    target_size: str | None = setting(
        None,
        "Choose the type: the best whose file is at most this large, found by measuring.",
        metavar="SIZE",
        check=lambda v: (bytes_of(v) or 0) > 0,
        range="a size such as 7MB, 6.5MiB or 7000000",
    )
    max_kl: float | None = setting(
        None,
        "Choose the type: the smallest file whose mean KL from its source is at most this, in nats a token.",
        metavar="NATS",
        check=_number(0),
        range="a number from 0 up",
    )
