"""The doctor on GGUF files: what llama.cpp and the programs built on it do with the keys and types inside.

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
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

AGAIN = "convert the model again: edgekit convert -m SOURCE --to gguf"
NORMAL = 1  # llama.h, enum llama_token_type

# The ids that llama.cpp takes where a file names none: kind -> (BOS, EOS).
DEFAULTS = {"llama": (1, 2), "gpt2": (11, 11)}

# Texts that llama.cpp takes for the end of a text, whatever the type of the token (llama-vocab.cpp, special_eog_ids).
ENDS = frozenset(
    """<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|>
    <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response>""".split()
)
ESCAPE = re.compile(rb"\\x([0-9a-f]{2})|\\(.)|(.)", re.DOTALL)


def _kind(case: Case) -> str:
    return str(case.keys.get("tokenizer.ggml.model"))


def _texts(case: Case) -> list[str]:
    texts = case.keys.get("tokenizer.ggml.tokens")
    return texts if isinstance(texts, list) else []


def _carries(case: Case) -> bool:
    """Whether edgekit's own tokenizer files are inside, so that llama.cpp's vocabulary does not matter to edgekit."""
    return case.tokenizer is not None


@check("gguf")
def one_of_several_files(case: Case) -> Iterator[Finding]:
    count = case.keys.get("split.count")
    if isinstance(count, int | np.integer) and count > 1:
        yield error(
            f"this is one of {count} parts of a model",
            "edgekit reads whole files only; llama.cpp finds the other parts by their names",
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
        with contextlib.suppress(EdgekitError):  # said elsewhere
            level = Vocabulary.from_bytes(case.files["tokenmonster.vocab"]).capcode
    if level:
        shown = "the byte 7F and a space" if level == 1 else "`D `, and `W ` and `C ` for capitals,"
        yield warning(
            f"the vocabulary has TokenMonster's marks (in {counted(_marked(case, level), 'token')})",
            "llama.cpp cannot join words as TokenMonster does: its programs, ollama and llama-cpp-python print "
            f"{shown} where two pieces are one word, and split about one token in five of a prompt otherwise"
            + ("; edgekit takes the vocabulary inside the file and does neither" if _carries(case) else ""),
            "run it with edgekit; elsewhere take the marks out of the text, and give the prompt as ids",
        )


def _marked(case: Case, level: int) -> int:
    """How many ordinary tokens have a mark; at level 2 a capital is nothing else."""
    marks, texts = (("\\x7f",), ("D", "C", "W"))[level - 1], _texts(case)
    types = case.keys.get("tokenizer.ggml.token_type")
    kinds = types.tolist() if isinstance(types, np.ndarray) and len(types) == len(texts) else [NORMAL] * len(texts)
    return sum(kind == NORMAL and any(m in text for m in marks) for text, kind in zip(texts, kinds, strict=True))


@check("gguf")
def no_vocabulary(case: Case) -> Iterator[Finding]:
    if case.gguf is None or _kind(case) not in ("none", "no_vocab", "None"):
        return
    if case.keys.get("tokenizer.ggml.model") is None:
        what, others = "the file says nothing of a tokenizer", "llama.cpp does not load it"
    else:
        what = f"the file has no vocabulary for llama.cpp (tokenizer.ggml.model is {_kind(case)!r})"
        others = "llama.cpp's programs can take and give ids only, and abort the process when they are asked for text"
    if _carries(case):
        yield warning(what, f"edgekit takes the tokenizer inside; {others}", "run it with edgekit")
    else:
        yield error(what, f"edgekit has nothing that reads a prompt; {others}", "convert it again, with its tokenizer")


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
        twice = [text for text in texts if text in seen or seen.add(text)]  # type: ignore[func-returns-value]
        yield error(
            f"{counted(len(twice), 'token')} with the text of another: {some(map(repr, twice))}",
            "llama.cpp refuses the file, older versions abort the whole process; so edgekit refuses it",
            "give each padding row a text of its own ([PAD5]), as `edgekit convert` does",
        )


@check("gguf")
def texts_that_hang_or_abort(case: Case) -> Iterator[Finding]:
    texts = _texts(case)
    if _kind(case) == "rwkv":
        stuck = _endless(texts)
        if stuck:
            yield (warning if _carries(case) else error)(
                f"{counted(len(stuck), 'byte')} begin a token and are none themselves (0x{min(stuck):02x}, ...)",
                "at such a byte llama.cpp's tokenizer begins again, for ever, and fills the memory"
                + ("; edgekit has its own" if _carries(case) else "; so edgekit refuses to read a text with it"),
                AGAIN,
            )
        if case.keys.get("tokenizer.ggml.unknown_token_id") is None:
            yield warning(
                "no unknown token is named (tokenizer.ggml.unknown_token_id)",
                "llama.cpp makes id -1 of a byte that has no token, and fails at it",
                AGAIN,
            )
    if _kind(case) == "llama":
        known = set(texts)
        lacking = [b for b in range(256) if f"<0x{b:02X}>" not in known and not (b < 0x80 and chr(b) in known)]
        if lacking:
            yield (warning if _carries(case) else error)(
                f"{counted(len(lacking), 'byte')} without a token (<0x{lacking[0]:02X}>, ...)",
                "llama.cpp aborts the process at a text that has one"
                + ("; edgekit has its own tokenizer" if _carries(case) else "; so edgekit refuses to read a text"),
                AGAIN,
            )


def _endless(texts: list[str]) -> set[int]:
    """First bytes of tokens that are no tokens: llama.cpp's walk begins anew at them."""
    firsts, singles = set(), set()
    for text in texts:
        data = text.encode("utf-8", "surrogateescape")
        if (found := ESCAPE.match(data)) is None:
            continue
        named = {b"t": 0x09, b"n": 0x0A, b"r": 0x0D}
        first = int(found[1], 16) if found[1] else named.get(found[2], found[2][0]) if found[2] else found[3][0]
        firsts.add(first)
        if found.end() == len(data):
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
            "llama.cpp cuts words by a rule that may not be this vocabulary's, and warns of degraded quality where "
            "none is named" + ("; edgekit takes the tokenizer inside" if _carries(case) else ""),
            "name the right one when converting; with edgekit nothing needs to be done" if _carries(case) else AGAIN,
        )


@check("gguf")
def special_ids_not_named(case: Case) -> Iterator[Finding]:
    kind = _kind(case)
    if "tokenizer.ggml.eos_token_id" in case.keys or kind not in (*DEFAULTS, "rwkv"):
        return
    if kind in DEFAULTS:
        text = dict(enumerate(_texts(case))).get(DEFAULTS[kind][1], "")
        takes = f"llama.cpp takes id {DEFAULTS[kind][1]} ({text!r}), its default for this kind of vocabulary"
    else:
        takes = "llama.cpp has none: texts go on until a limit"
    yield warning("the file does not name EOS (tokenizer.ggml.eos_token_id)", takes, AGAIN)


@check("gguf")
def words_that_end_a_text(case: Case) -> Iterator[Finding]:
    types = case.keys.get("tokenizer.ggml.token_type")
    texts = _texts(case)
    if not isinstance(types, np.ndarray) or len(types) != len(texts):
        return
    bad = [text for text, kind in zip(texts, types.tolist(), strict=True) if kind == NORMAL and text in ENDS]
    if bad:
        yield warning(
            f"ordinary tokens are spelled like specials: {some(bad)}",
            "llama.cpp takes every token of such a spelling for the end of a text, whatever its type",
            f"a spelling with an escape, as `edgekit convert` writes it; {AGAIN}",
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
        what = "the embedding, which is the output matrix too," if head is None else "the output matrix"
        yield warning(
            f"{what} is {tensor.type}, {bits:.1f} bits a weight",
            "every logit is a sum over one of its rows: the text suffers more than the bytes saved are worth, in every "
            "program",
            "leave --embedding-type out: it then has 8 bits, or Q6_K among the K-quants",
        )


@check("gguf")
def phi_by_name(case: Case) -> Iterator[Finding]:
    name = str(case.keys.get("general.name", "")).lower()
    needed = {"</s>", "<unk>", "<s>", "<|endoftext|>"}
    if ("phi-3" in name or "phi3" in name) and not needed <= set(_texts(case)) and _texts(case):
        yield error(
            f"the file is called {case.keys['general.name']!r}",
            "llama.cpp looks for Phi-3's tokens because of the name, and does not load the file without them; so "
            "edgekit cannot run it either",
            "another general.name (gguf_set_metadata.py); `edgekit convert` writes `phi 3`",
        )


@check("gguf")
def keys_and_configuration_differ(case: Case) -> Iterator[Finding]:
    """What `edgekit.converters._gguf_read` holds against each other when it reads a file back."""
    if not case.config or case.shape is None or case.refusal:
        return
    try:
        carried = LlamaConfig.from_dict(case.config)
    except EdgekitError:
        return
    fields = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta")  # fmt: skip
    both = [(name, getattr(carried, name), getattr(case.shape, name)) for name in fields]
    wrong = [f"{name} {one} and {other}" for name, one, other in both if np.float32(one) != np.float32(other)]
    if wrong:
        yield error(
            f"the config.json inside and the file's own keys disagree: {some(wrong)}",
            "llama.cpp goes by the keys; edgekit cannot tell which is right and will not turn the file back into a "
            "checkpoint",
            AGAIN,
        )


@check("gguf", "onnx")
def made_by_another_edgekit(case: Case) -> Iterator[Finding]:
    made = case.keys.get("edgekit.version")
    if isinstance(made, str) and made != __version__:
        yield note(
            f"the artefact was made by edgekit {made}; this is {__version__}",
            "it runs as it is, with what that version knew; `inspect` shows its receipt",
            "convert it again if the newer version's notes speak of this format",
        )
