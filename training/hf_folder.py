"""The trained model as a plain Hugging Face folder, with nothing in it that is specific to edgekit.

`transformers.AutoModelForCausalLM.from_pretrained` and `edgekit.formats.checkpoint.open_folder` both read it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors

from edgekit.errors import RecipeError
from edgekit.formats.checkpoint import WEIGHTS, LlamaConfig
from edgekit.tokenizers.tokenmonster.tokenizer import files_for
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.training.sections import Recipe
from edgekit.utils import files


def config_for(recipe: Recipe, vocabulary: Vocabulary) -> LlamaConfig:
    """The shape of a recipe's model: EOS and BOS follow the vocabulary, rows are padded.

    Raises:
        RecipeError: the vocabulary does not fit into `model.vocab_size`.
    """
    m, base = recipe.model, vocabulary.table_size
    rows = m.vocab_size or -(-(base + 2) // m.pad_vocab_multiple) * m.pad_vocab_multiple
    if base + 2 > rows:
        raise RecipeError(
            f"the vocabulary {recipe.tokenizer.vocabulary} has {base} ids, which with EOS and BOS do not fit into "
            f"model.vocab_size {rows}"
        )
    return LlamaConfig(
        vocab_size=rows,
        hidden_size=m.hidden_size,
        intermediate_size=m.intermediate_size,
        num_hidden_layers=m.num_hidden_layers,
        num_attention_heads=m.num_attention_heads,
        num_key_value_heads=m.num_key_value_heads or m.num_attention_heads,
        head_dim=m.head_dim or m.hidden_size // m.num_attention_heads,
        max_position_embeddings=m.max_position_embeddings,
        rms_norm_eps=m.rms_norm_eps,
        rope_theta=m.rope_theta,
        tie_word_embeddings=m.tie_word_embeddings,
        bos_token_id=base + 1,
        eos_token_id=(base,),
        pad_token_id=base,
    )


def save(
    folder: Path,
    config: LlamaConfig,
    weights: Mapping[str, torch.Tensor],
    vocabulary: Vocabulary,
    *,
    dtype: str = "float32",
    initializer_range: float = 0.02,
    add_bos: bool = False,
    other_files: Mapping[str, bytes] | None = None,
) -> None:
    """Write the folder, completely or not at all.

    Args:
        weights: by Hugging Face's names; a tied head is not written.
        dtype: "float32" or "float16", of the tensors in the file.
        add_bos: whether a prompt begins with BOS, as the documents did in training.
        other_files: by name (a model card, curves).

    Raises:
        FileError: it cannot be written; an earlier folder is still there.
    """
    tensors = {name: weights[name].detach().to("cpu", getattr(torch, dtype)).contiguous() for name in config.shapes()}
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id[0],
        "pad_token_id": config.pad_token_id,
    }
    with files.replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / WEIGHTS).write_bytes(to_safetensors(tensors, {"format": "pt"}))
        _json(
            temporary / "config.json", config.to_dict() | {"initializer_range": initializer_range, "torch_dtype": dtype}
        )
        _json(temporary / "generation_config.json", ids)
        for name, data in (*tokenizer_files(config, vocabulary, add_bos).items(), *(other_files or {}).items()):
            (temporary / name).write_bytes(data)


def tokenizer_files(config: LlamaConfig, vocabulary: Vocabulary, add_bos: bool = False) -> dict[str, bytes]:
    """The tokenizer's files by name, with the model's context as their maximum length."""
    named = dict(files_for(vocabulary.to_bytes(), config.vocab_size))
    settings = json.loads(named["tokenizer_config.json"])
    settings["model_max_length"] = config.max_position_embeddings
    if add_bos:
        settings["add_bos_token"] = True
    named["tokenizer_config.json"] = (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()
    return named


def _json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
