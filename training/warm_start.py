"""Start a run with the weights of a finished model, with the same vocabulary or another.

Each row of a new vocabulary's embedding is the old row of the same token if the old vocabulary has it, else the mean of
the rows of the tokens that the old tokenizer encodes the token's text to (fast vocabulary transfer, Gee et al., EMNLP
2022). The layers are copied.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.errors import RecipeError
from edgekit.formats import hub
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig, open_folder
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

log = logging.getLogger(__name__)

# What must be equal in both models: everything that the layers' computation depends on.
SHARED = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "rope_theta", "tie_word_embeddings",
)  # fmt: skip


def load(
    name: str | Path, config: LlamaConfig, vocabulary: Vocabulary, drawn: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The initial weights of a run, float32 by Hugging Face's names.

    Args:
        name: a model folder or Hub id; "bundled" for edgekit's own.
        config, vocabulary: of the run.
        drawn: random weights, for the rows without an old token, such as padding.

    Raises:
        RecipeError: the model has another shape; names a key that differs.
        CheckpointError, VocabularyError, FileError: the model cannot be read.
    """
    old = open_folder(hub.resolve(None if name == "bundled" else name))
    for key in SHARED:
        if (here := getattr(config, key)) != (there := getattr(old.config, key)):
            raise RecipeError(f"model.weights: {name} has {key} {there}, the recipe's model {here}: they must be equal")
    weights = {key: torch.from_numpy(old.float32(key)) for key in config.shapes()}
    rows, known = origins(old, config, vocabulary)
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        if key in weights:
            weights[key] = _mean_rows(weights[key], rows, drawn[key].detach().to("cpu", torch.float32))
    log.info(
        "weights of %s: of %d tokens %d are in its vocabulary, %d are means of several of its tokens",
        name, len(vocabulary), known, sum(len(ids) > 1 for ids in rows),
    )  # fmt: skip
    return weights


def origins(old: Checkpoint, config: LlamaConfig, vocabulary: Vocabulary) -> tuple[list[NDArray[np.int64]], int]:
    """For each row of the new embedding the old rows that it is the mean of (none: random), and the number of tokens
    that both vocabularies have."""
    tokens = from_files(old.files, old.config.vocab_size)
    ours = isinstance(tokens, TokenMonsterTokenizer) and tokens.vocabulary.capcode == vocabulary.capcode
    # Compared as both files store them: decoded text would lose capcode's markers.
    same = {tokens.vocabulary.base_bytes(id): id for id in range(tokens.vocabulary.table_size)} if ours else {}  # type: ignore[attr-defined]
    rows, known = [np.empty(0, np.int64)] * config.vocab_size, 0
    for id in range(vocabulary.table_size):
        data = vocabulary.base_bytes(id)
        if not data or id in vocabulary.special_ids:
            continue
        if data in same:
            rows[id], known = np.array([same[data]]), known + 1
            continue
        try:
            ids = tokens.encode(vocabulary.decode_bytes([id]).decode())
        except UnicodeDecodeError:  # part of a character: not a text
            continue
        known += len(ids) == 1
        rows[id] = np.array(ids, np.int64)
    for new, before in (
        (config.eos_token_id[0], min(tokens.stop, default=None)),
        (config.bos_token_id, tokens.bos_id if isinstance(tokens, TokenMonsterTokenizer) else tokens.bos),
    ):
        if new is not None and before is not None:
            rows[new] = np.array([before])
    return rows, known


def _mean_rows(old: torch.Tensor, rows: list[NDArray[np.int64]], drawn: torch.Tensor) -> torch.Tensor:
    weights = drawn.clone()
    for row, ids in enumerate(rows):
        if len(ids):
            weights[row] = old[torch.from_numpy(ids)].mean(0)
    return weights
