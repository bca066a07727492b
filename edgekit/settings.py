"""Settings: the default, bounds and help of everything a caller can set, each specified once, as data.

A field of these dataclasses is a keyword of the Python API, a flag of the command line (`cli/_options.py`) and, for
sampling, an entry of the web form (`web/validation.py`). A value is checked when the object is created, so an invalid
one never reaches a model.
"""

import dataclasses
import functools
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Union, get_args, get_origin, get_type_hints

from edgekit.errors import SettingError

LARGEST = 2**63
"""Limit of every whole number: what reads it later (C, JSON) has 64 bits."""


def setting(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    check: Callable[[Any], bool] | None = None,
    range: str = "",
    metavar: str | None = None,
    flag: bool = True,
    form: str = "",
) -> Any:
    """A dataclass field of a settings class. Its annotation says the type; a tuple may have any number of values.

    Args:
        default: value if the caller gives none. None is accepted only where the annotation has it.
        help: one or two sentences for `--help`.
        ge, gt, le, lt: bounds of a number (>=, >, <=, <), or of each number in a tuple.
        choices: the only accepted texts.
        words: texts accepted instead of a number, such as "auto".
        check: a further rule that no bound expresses; called with a value of the right type.
        range: what is accepted, in words: completes "NAME must be ...". Needed with `check`, else derived.
        metavar: placeholder of the value in `--help`, if not the type's name.
        flag: whether `cli._options.options` makes a flag of it.
        form: how a value that is no plain number, text or tuple is written as a flag: "numbers" separated by commas, or
            "lists" of whole numbers, one for each time the flag is given.
    """
    metadata = {
        "help": help, "ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices, "words": words, "check": check,
        "custom_range": range, "metavar": metavar, "flag": flag, "form": form,
    }  # fmt: skip
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One setting and what its annotation says; `specs` has those of a class. See `setting` for the other attributes.

    Attributes:
        kind: bool, int, float or str; object if the annotation is anything else, which is not checked.
        many: whether the value is a tuple of `kind`.
        optional: whether None is accepted.
    """

    name: str
    default: Any
    kind: type
    many: bool
    optional: bool
    help: str
    ge: float | None
    gt: float | None
    le: float | None
    lt: float | None
    choices: tuple[str, ...]
    words: tuple[str, ...]
    check: Callable[[Any], bool] | None
    custom_range: str
    metavar: str | None
    flag: bool
    form: str

    @property
    def range(self) -> str:
        """What is accepted, in words."""
        if self.custom_range:
            return self.custom_range
        if self.choices:
            return _or(self.choices)
        noun = _NOUNS[self.kind][self.many]
        limits = _limits(self.ge, self.gt, self.le, self.lt)
        return " ".join(filter(None, (noun, limits))) + "".join(f", or `{word}`" for word in self.words)

    def accepts(self, value: Any) -> bool:
        """Whether `validate` returns."""
        if value is None:
            return self.optional
        if self.many and not (isinstance(value, tuple | list) and all(map(self._accepts_one, value))):
            return False
        if not self.many and not self._accepts_one(value):
            return False
        return self.check is None or bool(self.check(value))

    def validate(self, value: Any) -> None:
        """Raises `SettingError`, which names the setting, its range and the value."""
        if not self.accepts(value):
            raise SettingError(f"{self.name} must be {self.range}, not {value!r}")

    def _accepts_one(self, value: Any) -> bool:
        if isinstance(value, str) and value in self.words:
            return True
        if self.kind is int:
            return is_whole(value) and abs(value) <= LARGEST and self._is_within(value)
        if self.kind is float:
            return is_finite(value) and self._is_within(value)
        return isinstance(value, self.kind) and (not self.choices or value in self.choices)

    def _is_within(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )


def is_whole(value: Any) -> bool:
    """Whether a value is an int; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a number within the range of a float: no infinity, no NaN, not 10**400."""
    limit = sys.float_info.max
    return isinstance(value, Real) and not isinstance(value, bool) and -limit <= value <= limit  # type: ignore[operator]


def _is_ids(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) > 0 and all(is_whole(id) and id >= 0 for id in value)


def _is_pair(value: Any) -> bool:
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    return is_pair and is_whole(value[0]) and value[0] >= 0 and is_finite(value[1]) and value[1] > 0


_NOUNS = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    object: ("valid", "valid"),
}
"""A kind's name for one value, and for several."""


def _or(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _limits(ge: float | None, gt: float | None, le: float | None, lt: float | None) -> str:
    """`from 1 to 64`, `of at least 0`, `above 0 and at most 1`; "" without bounds."""
    if ge is not None and le is not None:
        return f"from {ge} to {'2^63' if le == LARGEST else le}"
    lower = f"of at least {ge}" if ge is not None else f"above {gt}" if gt is not None else ""
    upper = f"at most {le}" if le is not None else f"below {lt}" if lt is not None else ""
    return f"of {upper}" if le is not None and not lower else " and ".join(filter(None, (lower, upper)))


@functools.cache
def specs(cls: type) -> dict[str, Spec]:
    """The settings of a dataclass by name, in order; fields that are not a `setting` are left out."""
    hints, result = get_type_hints(cls), {}
    for f in dataclasses.fields(cls):
        if "custom_range" in f.metadata:
            kind, many, optional = _annotation(hints[f.name])
            default = f.default if f.default is not dataclasses.MISSING else {}
            result[f.name] = Spec(name=f.name, default=default, kind=kind, many=many, optional=optional, **f.metadata)
    return result


def _annotation(hint: Any) -> tuple[type, bool, bool]:
    """The kind, whether there are many, whether None is accepted: `tuple[int | str, ...]` is (int, True, False)."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    first = next(kind for kind in kinds if kind is not types.NoneType)
    many = get_origin(first) is tuple
    if many:
        first = _annotation(get_args(first)[0])[0]
    return (first if first in _NOUNS else object), many, types.NoneType in kinds


def split(values: Mapping[str, Any], *classes: type) -> list[dict[str, Any]]:
    """Sort keyword arguments by the settings class that has them; what is not in `values` stays at its default.

    Raises:
        SettingError: a name that no class has; lists those there are.
    """
    known = {name for cls in classes for name in specs(cls)}
    if unknown := sorted(set(values) - known):
        raise SettingError(f"unknown setting {unknown[0]!r}: choose from {', '.join(sorted(known))}")
    return [{name: values[name] for name in specs(cls) if name in values} for cls in classes]


class Checked:
    """Base of the settings classes: every field is checked when the object is created."""

    def __post_init__(self) -> None:
        cls: type = type(self)
        for name, spec in specs(cls).items():
            spec.validate(getattr(self, name))


@dataclass(frozen=True)
class Sampling(Checked):
    """How the next token is chosen. Order and meaning of the steps are those of Hugging Face `generate`."""

    temperature: float = setting(0.0, "Divide the logits by this; 0 takes the most likely token.", ge=0)
    top_k: int = setting(0, "Keep the K most likely tokens; 0 keeps all.", ge=0)
    top_p: float = setting(
        1.0, "Keep the fewest tokens whose probabilities add up to P; 0 keeps the most likely one.", ge=0, le=1
    )
    min_p: float = setting(0.0, "Drop tokens less likely than P times the most likely one.", ge=0, le=1)
    repetition_penalty: float = setting(
        1.0, "Weaken tokens that are already in the prompt or the text; 1 is off.", gt=0
    )
    presence_penalty: float = setting(
        0.0, "Subtract this from the logit of a token that is in the new text; OpenAI's.", ge=-2, le=2
    )
    frequency_penalty: float = setting(
        0.0, "Subtract this, times its count in the new text, from the logit of a token; OpenAI's.", ge=-2, le=2
    )
    seed: int | None = setting(
        None, "The same seed gives the same text on every runtime; default: a new one each time.", ge=0, le=LARGEST
    )
    logit_bias: dict[int, float] = setting({}, "Add to the logit of a token id.", flag=False)
    banned: tuple[int, ...] = setting((), "Token ids that are never chosen.", flag=False)
    ban_replacement: bool = setting(False, "Never print U+FFFD: mask tokens that cannot continue valid UTF-8.")
    no_repeat_ngram_size: int = setting(
        0, "Never repeat N tokens of prompt and text in a row; 0 is off.", ge=0, le=1 << 20
    )
    suppress_tokens: tuple[int, ...] = setting(
        (), "Never choose these token ids; `none` for none.", metavar="ID,ID,..."
    )
    bad_words_ids: Sequence[Sequence[int]] = setting(
        (),
        "Never write these token ids in a row; may be repeated; `none` for none.",
        metavar="ID,ID,...",
        form="lists",
        check=lambda words: isinstance(words, tuple | list) and all(map(_is_ids, words)),
        range="lists of token ids",
    )
    exponential_decay_length_penalty: Sequence[float] | None = setting(
        None,
        "After START new tokens raise the logit of the text's end, by FACTOR for each more; a FACTOR of 1 is off.",
        metavar="START,FACTOR",
        form="numbers",
        check=lambda pair: _is_pair(pair),
        range="a number of tokens and a factor above 0",
    )


@dataclass(frozen=True)
class Generating(Sampling):
    """Everything that one call of `generate` or `stream` takes: the sampling, and where to stop."""

    max_new_tokens: int = setting(256, "Stop after this many tokens.", ge=1)
    stop: tuple[str, ...] = setting(
        (), "Stop before this text; may be repeated.", metavar="TEXT", check=all, range="non-empty texts"
    )
    ignore_eos: bool = setting(False, "Continue past the end of the text.")
    truncate: str | None = setting(
        None, "Shorten a prompt that is too long: `left` drops its beginning.", choices=("left",)
    )
    logprobs: int | None = setting(
        None, "Record the log-probability of each token, and of the N most likely at its position.", ge=0
    )


@dataclass(frozen=True)
class Drafting(Checked):
    """Speculative decoding: a cheap model guesses ahead, the model itself checks many guesses in one call."""

    draft: str | None = setting(
        None,
        "Guess ahead with this model, of any vocabulary; `ngram`: from repetitions in the text; `bundled`: with the "
        "model that comes with edgekit. The text stays the same, it may come faster.",
        metavar="MODEL|ngram",
        check=bool,
        range="a model, `bundled` or `ngram`",
    )
    draft_runtime: str | None = setting(None, "Runtime of the draft; default: the one of its format.", metavar="NAME")
    draft_tokens: int | str = setting(
        "auto",
        "Number of tokens to guess ahead; `auto` measures what pays, and stops guessing where nothing does.",
        ge=1,
        le=64,
        words=("auto",),
    )
    draft_sampling: str = setting(
        "coupled",
        "Above temperature 0: `coupled` keeps every token of the seed; `rejection` keeps only their distribution.",
        choices=("coupled", "rejection"),
    )


@dataclass(frozen=True)
class Running(Checked):
    """How a runtime is set up."""

    threads: int | str | None = setting(
        None,
        "CPU threads; `auto` measures which number is fastest (a third of a second); default: by the model's size.",
        ge=1,
        le=1024,
        words=("auto",),
    )
    kv_type: str = setting(
        "f16",
        "Type of the KV cache of native and llamacpp; f32 for exact comparison, int8 (native) for long contexts.",
        choices=("f16", "f32", "int8"),
    )
    dtype: str = setting(
        "float32",
        "torch: type of the weights; bfloat16 and int8 are faster and round them.",
        choices=("float32", "bfloat16", "int8"),
    )
    reference: bool = setting(
        False, "torch: use the model of transformers: slower; everything else is compared with it."
    )
    context_length: int | None = setting(
        None, "Tokens of the context, if fewer than the model has: bounds the memory of its cache.", ge=1
    )


@dataclass(frozen=True)
class Converting(Checked):
    """How a model is converted."""

    quant: str | None = setting(None, "Type of the weights: q8_0, q4_0, ... for gguf; fp32, fp16, int8, int4 for onnx.")
    embedding_type: str | None = setting(None, "gguf: type of the token embedding, if not the one of --quant.")
    graph: str = setting(
        "fused",
        "onnx: fused is for ONNX Runtime and fastest there; portable (fp32, int8) is for everything that reads ONNX.",
        choices=("fused", "portable"),
    )
    kv_cache: str = setting(
        "f32",
        "onnx, fused int8 and int4: type of the KV cache; int8 is a quarter of the memory and faster at long contexts, "
        "and needs ONNX Runtime 1.27.",
        choices=("f32", "int8"),
    )
    reduce_range: bool = setting(False, "onnx, portable int8: 7-bit weights, for CPUs without VNNI (older than 2019).")
    importance: str | None = setting(
        None,
        "gguf: round with least error where this text (a file or folder) uses the weights most; `default` is a short "
        "text that comes with edgekit.",
        metavar="TEXT|default",
        check=bool,
        range="a file or folder of text, or `default`",
    )


UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def bytes_of(size: str) -> int | None:
    """Number of bytes of `7MB` (10**6 each), `6.5MiB` (2**20) or `7000000`; None if the text is not a size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", size)
    unit = UNITS.get(match[2].lower()) if match else None
    return None if match is None or unit is None else int(float(match[1]) * unit)


@dataclass(frozen=True)
class Choosing(Checked):
    """What an artefact may cost, if its type is chosen by measuring; conversion/search.py does it."""

    target_size: str | None = setting(
        None,
        "Choose the type: the best whose file is at most this large, found by measuring.",
        metavar="SIZE",
        check=lambda size: (bytes_of(size) or 0) > 0,
        range="a size such as 7MB, 6.5MiB or 7000000",
    )
    max_kl: float | None = setting(
        None,
        "Choose the type: the smallest file whose mean KL from its source is at most this, in nats a token.",
        metavar="NATS",
        ge=0,
    )
