"""What a GGUF file must be before llama.cpp gets it, which ends the whole process on some that it does not expect.

Lists of what is allowed, not of what is known to be dangerous: by the role of each tensor, and by kind of tokenizer.
What passes and is neither edgekit's own nor a file that the engine runs is opened in a process of its own first.
"""

import ctypes
import subprocess
import sys

from edgekit.errors import CheckpointError, EdgekitError, RuntimeFailure
from edgekit.formats.gguf import ALIGNMENT, GGUFFile
from edgekit.formats.gguf_tensors import ROPE
from edgekit.runtimes import _native_library as c
from edgekit.utils.engine import address

KINDS = ("llama", "gpt2", "t5", "rwkv", "none", "no_vocab")
"""Tokenizers of llama.cpp that models of the architecture `llama` have."""
VECTORS = ("F32",)
MATRICES = ("F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S "
            "IQ2_S IQ4_XS IQ1_M TQ1_0 TQ2_0 MXFP4 NVFP4 Q1_0").split()  # fmt: skip
LONGEST_TOKEN = 4096
"""Characters. The longest of published vocabularies are runs of blanks, below 1,024."""
PROBE_SECONDS = 60


def check_file(file: GGUFFile) -> None:
    """Refuse what llama.cpp would abort on, or never end. Raises `CheckpointError`."""
    kind = file.metadata.get("tokenizer.ggml.model")
    if kind not in KINDS:
        raise CheckpointError(f"{file.path}: a tokenizer of the kind {kind!r:.40}; llama.cpp gets {', '.join(KINDS)}")
    if (alignment := file.metadata.get("general.alignment", ALIGNMENT)) < ALIGNMENT:
        raise CheckpointError(f"{file.path}: general.alignment is {alignment}; llama.cpp needs {ALIGNMENT} or more")
    for name, info in file.tensors.items():
        allowed = VECTORS if len(info.shape) == 1 or name == ROPE else MATRICES
        if info.type not in allowed:
            what = "a vector" if allowed is VECTORS else "a matrix"
            raise CheckpointError(
                f"{file.path}: tensor {name} is {info.type}, which llama.cpp does not take for {what}"
            )
    texts = file.metadata.get("tokenizer.ggml.tokens")
    long = next((i for i, t in enumerate(texts) if len(t) > LONGEST_TOKEN), None) if isinstance(texts, list) else None
    if long is not None:
        raise CheckpointError(
            f"{file.path}: token {long} has more than {LONGEST_TOKEN} characters: the file is damaged"
        )


def trusted(file: GGUFFile) -> bool:
    """Whether nothing about a file is new to llama.cpp: edgekit wrote it, or the engine reads all of it."""
    if "edgekit.version" in file.metadata:
        return True
    try:
        engine = c.engine()
    except EdgekitError:
        return False
    info, error = c.Info(), c.Error()
    return bool(engine.ek_inspect(address(file.map), file.size, ctypes.byref(info), ctypes.byref(error)) == 0)


def probe(file: GGUFFile) -> None:
    """Open the file in a process of its own, which may abort. Raises `RuntimeFailure` if it does."""
    command = [sys.executable, "-m", "edgekit.runtimes._llamacpp_probe", str(file.path)]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(f"llama.cpp does not end opening {file.path}: the file is damaged") from None
    if ended.returncode < 0 or ended.returncode > 2:
        lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = next((line for line in lines if "GGML_ASSERT" in line or "error" in line.lower()), "no reason given")
        raise RuntimeFailure(f"llama.cpp aborts on {file.path}: {reason.strip()[:200]}")
