"""Checks of GGUF files: what llama.cpp and the programs based on it do with their keys and types.

The rules are llama.cpp's (src/llama-vocab.cpp): a vocabulary can print stray characters, abort the process or hang it.
"""

import contextlib
import re
from collections.abc import Iterator

import numpy as np

from edgekit import __version__
from edgekit.doctor.case import Case
from edgekit.doctor.checks import check
from edgekit.doctor.finding import Finding, counted, error, note, some, warning
from edgekit.errors import EdgekitError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.gguf import BLOCKS
from edgekit.formats.gguf_config import CARRIED_FIELDS
from edgekit.tokenizers.llamacpp.ends import ALWAYS
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

AGAIN = "convert the model again: edgekit convert -m SOURCE --to gguf"
NORMAL = 1  # llama.h, enum llama_token_type

# The ids that llama.cpp uses if a file names none: kind -> (BOS, EOS).
DEFAULTS = {"llama": (1, 2), "gpt2": (11, 11)}

ESCAPE = re.compile(rb"\\x([0-9a-f]{2})|\\(.)|(.)", re.DOTALL)


def _kind(case: Case) -> str:
    return str(case.keys.get("tokenizer.ggml.model"))


def _texts(case: Case) -> list[str]:
    texts = case.keys.get("tokenizer.ggml.tokens")
    return texts if isinstance(texts, list) else []


def _carries(case: Case) -> bool:
    """Whether edgekit's tokenizer files are embedded, so that llama.cpp's vocabulary does not matter to edgekit."""
    return case.tokenizer is not None


@check("gguf")
def one_of_several_files(case: Case) -> Iterator[Finding]:
    count = case.keys.get("split.count")
    if isinstance(count, int | np.integer) and count > 1:
        yield error(
            f"this is one of {count} parts of a model",
            "edgekit reads only single files; llama.cpp finds the other parts by their names",
            "llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )


@check("gguf")
def text_with_stray_marks(case: Case) -> Iterator[Finding]:
    """A TokenMonster vocabulary as llama.cpp prints it."""
    texts = _texts(case)
    if _kind(case) != "rwkv" or not texts:
        return
    level = 1 if any("\\x7f" in text for text in texts) else 0
    if "tokenmonster.vocab" in case.files:
        with contextlib.suppress(EdgekitError):  # another check reports it
            level = Vocabulary.from_bytes(case.files["tokenmonster.vocab"]).capcode
    if level:
        printed = "the byte 7F and a space" if level == 1 else "`D `, and `W ` and `C ` for capitals,"
        yield warning(
            f"the vocabulary has TokenMonster's markers (in {counted(_marked(case, level), 'token')})",
            "llama.cpp cannot join words as TokenMonster does: its programs, ollama and llama-cpp-python print "
            f"{printed} where two pieces are one word, and split about one token in five of a prompt differently"
            + ("; edgekit uses the vocabulary inside the file and does neither" if _carries(case) else ""),
            "run it with edgekit; elsewhere remove the markers from the text, and pass the prompt as ids",
        )


def _marked(case: Case, level: int) -> int:
    """How many ordinary tokens have a marker; at level 2 every capital is one."""
    marks, texts = (("\\x7f",), ("D", "C", "W"))[level - 1], _texts(case)
    types = case.keys.get("tokenizer.ggml.token_type")
    kinds = types.tolist() if isinstance(types, np.ndarray) and len(types) == len(texts) else [NORMAL] * len(texts)
    return sum(kind == NORMAL and any(m in text for m in marks) for text, kind in zip(texts, kinds, strict=True))


@check("gguf")
def no_vocabulary(case: Case) -> Iterator[Finding]:
    if case.gguf is None or _kind(case) not in ("none", "no_vocab", "None"):
        return
    if case.keys.get("tokenizer.ggml.model") is None:
        what, others = "the file has no tokenizer keys", "llama.cpp does not load it"
    else:
        what = f"the file has no vocabulary for llama.cpp (tokenizer.ggml.model is {_kind(case)!r})"
        others = "llama.cpp's programs can only read and write ids, and abort the process when they need text"
    if _carries(case):
        yield warning(what, f"edgekit uses the tokenizer inside; {others}", "run it with edgekit")
    else:
        yield error(what, f"edgekit cannot read a prompt; {others}", "convert it again, with its tokenizer")


@check("gguf")
def vocabulary_of_another_size(case: Case) -> Iterator[Finding]:
    texts = _texts(case)
    if case.rows is not None and texts and len(texts) != case.rows:
        yield error(
            f"{len(texts):,} tokens, but the embedding has {case.rows:,} rows",
            "edgekit and llama.cpp refuse the file",
            AGAIN,
        )


@check("gguf")
def same_text_twice(case: Case) -> Iterator[Finding]:
    texts = _texts(case)
    if len(set(texts)) != len(texts):
        seen: set[str] = set()
        twice = []
        for text in texts:
            if text in seen:
                twice.append(text)
            seen.add(text)
        yield error(
            f"{counted(len(twice), 'token')} with the same text as another: {some(map(repr, twice))}",
            "llama.cpp refuses the file, older versions abort the process; so edgekit refuses it",
            "give each padding row its own text ([PAD5]), as `edgekit convert` does",
        )


@check("gguf")
def texts_that_hang_or_abort(case: Case) -> Iterator[Finding]:
    texts = _texts(case)
    if _kind(case) == "rwkv":
        stuck = _endless(texts)
        if stuck:
            yield (warning if _carries(case) else error)(
                f"{counted(len(stuck), 'byte')} begin a token but are not tokens themselves (0x{min(stuck):02x}, ...)",
                "at such a byte llama.cpp's tokenizer starts over, forever, and fills the memory"
                + ("; edgekit has its own" if _carries(case) else "; so edgekit refuses to read a text with it"),
                AGAIN,
            )
        if case.keys.get("tokenizer.ggml.unknown_token_id") is None:
            yield warning(
                "no unknown token is named (tokenizer.ggml.unknown_token_id)",
                "llama.cpp maps a byte without a token to id -1, and fails",
                AGAIN,
            )
    if _kind(case) == "llama":
        known = set(texts)
        absent = [b for b in range(256) if f"<0x{b:02X}>" not in known and not (b < 0x80 and chr(b) in known)]
        if absent:
            yield (warning if _carries(case) else error)(
                f"{counted(len(absent), 'byte')} without a token (<0x{absent[0]:02X}>, ...)",
                "llama.cpp aborts the process at a text with such a byte"
                + ("; edgekit has its own tokenizer" if _carries(case) else "; so edgekit refuses to read a text"),
                AGAIN,
            )


def _endless(texts: list[str]) -> set[int]:
    """First bytes of tokens that are not tokens themselves: llama.cpp's search starts over at them."""
    firsts, singles = set(), set()
    for text in texts:
        data = text.encode("utf-8", "surrogateescape")
        if (match := ESCAPE.match(data)) is None:
            continue
        named = {b"t": 0x09, b"n": 0x0A, b"r": 0x0D}
        first = int(match[1], 16) if match[1] else named.get(match[2], match[2][0]) if match[2] else match[3][0]
        firsts.add(first)
        if match.end() == len(data):
            singles.add(first)
    return firsts - singles


@check("gguf")
def merges_or_cuts_missing(case: Case) -> Iterator[Finding]:
    if _kind(case) != "gpt2":
        return
    if "tokenizer.ggml.merges" not in case.keys:
        yield error(
            "a byte-level vocabulary without merges",
            "llama.cpp does not load the file (`cannot find tokenizer merges in model file`), so edgekit cannot run it",
            AGAIN,
        )
    pre = case.keys.get("tokenizer.ggml.pre")
    if pre in (None, "", "default"):
        yield warning(
            f"the pre-tokenizer is {'`default`' if pre else 'not named'} (tokenizer.ggml.pre)",
            "llama.cpp splits words by a rule that may not be this vocabulary's, and warns of degraded quality if none "
            "is "
            "named" + ("; edgekit uses the tokenizer inside" if _carries(case) else ""),
            "name the right one when converting; with edgekit nothing needs to be done" if _carries(case) else AGAIN,
        )


@check("gguf")
def special_ids_not_named(case: Case) -> Iterator[Finding]:
    kind = _kind(case)
    if "tokenizer.ggml.eos_token_id" in case.keys or kind not in (*DEFAULTS, "rwkv"):
        return
    if kind in DEFAULTS:
        text = dict(enumerate(_texts(case))).get(DEFAULTS[kind][1], "")
        fallback = f"llama.cpp uses id {DEFAULTS[kind][1]} ({text!r}), its default for this kind of vocabulary"
    else:
        fallback = "llama.cpp has none: texts continue to the limit"
    yield warning("the file does not name EOS (tokenizer.ggml.eos_token_id)", fallback, AGAIN)


@check("gguf")
def words_that_end_a_text(case: Case) -> Iterator[Finding]:
    types = case.keys.get("tokenizer.ggml.token_type")
    texts = _texts(case)
    if not isinstance(types, np.ndarray) or len(types) != len(texts):
        return
    bad = [text for text, kind in zip(texts, types.tolist(), strict=True) if kind == NORMAL and text in ALWAYS]
    if bad:
        yield warning(
            f"ordinary tokens are spelled like specials: {some(bad)}",
            "llama.cpp treats every token with such a spelling as the end of a text, whatever its type",
            f"escape the spelling, as `edgekit convert` does; {AGAIN}",
        )


@check("gguf")
def coarse_head(case: Case) -> Iterator[Finding]:
    embedding, head = case.head
    tensor = head or embedding
    if tensor is None or tensor.type not in BLOCKS:
        return
    elements, size = BLOCKS[tensor.type]
    bits = 8 * size / elements
    if bits < 6:
        what = "the embedding, which is also the output matrix," if head is None else "the output matrix"
        yield warning(
            f"{what} is {tensor.type}, {bits:.1f} bits a weight",
            "every logit is a sum over one of its rows: the loss of quality is not worth the saved bytes, in every "
            "program",
            "omit --embedding-type: it then has 8 bits, or Q6_K among the K-quants",
        )


@check("gguf")
def phi_by_name(case: Case) -> Iterator[Finding]:
    name = str(case.keys.get("general.name", "")).lower()
    needed = {"</s>", "<unk>", "<s>", "<|endoftext|>"}
    if ("phi-3" in name or "phi3" in name) and not needed <= set(_texts(case)) and _texts(case):
        yield error(
            f"the model is named {case.keys['general.name']!r}",
            "llama.cpp looks for Phi-3's tokens because of the name, and does not load the file without them; so "
            "edgekit cannot run it either",
            "change general.name (gguf_set_metadata.py); `edgekit convert` writes `phi 3`",
        )


@check("gguf")
def keys_and_configuration_differ(case: Case) -> Iterator[Finding]:
    """The comparison that `edgekit.converters._gguf_read` makes when it reads a file back."""
    if not case.config or case.shape is None or case.refusal:
        return
    try:
        carried = LlamaConfig.from_dict(case.config)
    except EdgekitError:
        return
    both = [(name, getattr(carried, name), getattr(case.shape, name)) for name in CARRIED_FIELDS]
    wrong = [f"{name} {one} and {other}" for name, one, other in both if np.float32(one) != np.float32(other)]
    if wrong:
        yield error(
            f"the config.json inside and the file's own keys disagree: {some(wrong)}",
            "llama.cpp uses the keys; edgekit cannot tell which is right and refuses to turn the file back into a "
            "checkpoint",
            AGAIN,
        )


@check("gguf", "onnx")
def made_by_another_edgekit(case: Case) -> Iterator[Finding]:
    version = case.keys.get("edgekit.version")
    if isinstance(version, str) and version != __version__:
        yield note(
            f"the artefact was written by edgekit {version}; this is {__version__}",
            "it runs as it is; `inspect` shows its receipt",
            "convert it again if the changelog mentions this format",
        )
