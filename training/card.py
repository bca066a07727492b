"""The model card of a saved model: its shape, its data, how it was trained, and its results."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from edgekit import __version__
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.training.evaluation import ValidationScore
from edgekit.training.model import parameters
from edgekit.training.precision import Counts
from edgekit.training.schedule import warmup_steps
from edgekit.training.sections import Recipe
from edgekit.training.state import Position


def brief(scores: Mapping[str, ValidationScore]) -> str:
    """The validation result in a few words."""
    if "" not in scores:
        return "not evaluated"
    score = scores[""]
    return (
        f"validation loss {score.loss:.4f}, perplexity {score.perplexity:.2f}, {score.bits_per_byte:.4f} bits per byte"
    )


def text(
    recipe: Recipe,
    config: LlamaConfig,
    summary: Mapping[str, Mapping[str, Mapping[str, int]]],
    position: Position,
    scores: Mapping[str, ValidationScore],
    *,
    which: str,
    world: int,
    device: str,
    dtype: torch.dtype,
    counts: Counts,
    steps: int,
    figure: bool = True,
) -> str:
    """The card in Markdown. `summary` is that of `Shards`; `figure`: training_curves.svg is in the same folder."""
    total, embedding = parameters(config), config.vocab_size * config.hidden_size
    t, o, s = recipe.training, recipe.optimizer, recipe.schedule
    horizon = t.max_train_steps or steps
    shape = [
        ("parameters", f"{total:,}"),
        ("embedding share", f"{100 * embedding / total:.1f} %"),
        *((k, getattr(config, k)) for k in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta", "tie_word_embeddings",
        )),
    ]  # fmt: skip
    batch = t.per_device_train_batch_size * t.gradient_accumulation_steps * world
    muon = f"Muon, momentum {o.momentum:g}, on linear weights, the rest " if o.algorithm == "muon" else ""
    how = [
        ("optimizer", muon + f"AdamW, betas {o.betas}, eps {o.eps:g}; weight decay {o.weight_decay:g} on linear "
         "weights only"),
        ("learning rate", f"{o.learning_rate:g}, {s.kind}, {warmup_steps(s, horizon)} warmup steps of {horizon:,}"
         + (f", {s.stable_ratio:g} stable, then {s.decay}" if s.kind == "wsd" else "")),
        ("gradient clipping", f"{o.max_grad_norm:g}"),
        ("batch", f"{t.per_device_train_batch_size} x {t.gradient_accumulation_steps} accumulated x {world} processes, "
         f"blocks of {recipe.data.block_size}: {batch * recipe.data.block_size:,} tokens a step"),
        ("steps", f"{position.step:,} of {steps:,}, {position.skipped} skipped"),
        ("tokens", f"{position.tokens:,} ({position.epoch + 1} epochs started)"),
        ("precision", f"{str(dtype).removeprefix('torch.')} products, float32 weights; {counts}"),
        ("weights at the start", f"those of {recipe.model.weights}" if recipe.model.weights
         else f"normal(0, {recipe.model.initializer_range:g}), norms 1"),
        ("dropout", f"{t.dropout:g}"),
        ("cleaning", recipe.data.cleaning),
        ("seed", t.seed),
        ("hardware", f"{world} x {device}, {position.seconds / 3600:.2f} hours, "
         f"{position.tokens / max(position.seconds, 1e-9):,.0f} tokens/s overall"),
    ]  # fmt: skip
    parts = [
        _front_matter(recipe),
        f"# {recipe.name}\n\n{recipe.description or 'A small Llama'}. A base model: it continues a text and does "
        f"not follow instructions. Made by `edgekit train`, edgekit {__version__}; these are the weights of {which}.",
        "## Model\n\n" + _table(("", ""), shape),
        "## Data\n\n" + _table(
            ("split", "corpus", "weight", "documents", "tokens", "MB"),
            [(split, name, f"{_weight(recipe, name):g}" if split == "train" else "", f"{n['documents']:,}",
              f"{n['tokens']:,}", f"{n['bytes'] / 1e6:.2f}")
             for split, each in summary.items() for name, n in each.items()],
        ) + f"\n\nTokenizer: TokenMonster, `{recipe.tokenizer.vocabulary.rpartition('/')[2]}`, padded to "
        f"{config.vocab_size} rows; EOS {config.eos_token_id[0]} ends every document, BOS {config.bos_token_id} "
        + ("starts it." if recipe.data.add_bos else "is not used."),
        "## Training\n\n" + _table(("", ""), how),
        "## Results\n\n" + (_results(scores) if scores else "Not evaluated."),
        "![Training curves](training_curves.svg)\n\nThe numbers are in `training_curves.csv`." if figure
        else "The training curves are in `training_curves.csv`.",
        "<details><summary>Recipe</summary>\n\n```json\n" + _recipe(recipe) + "\n```\n\n</details>",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _front_matter(recipe: Recipe) -> str:
    return (
        "---\nlanguage: en\nlibrary_name: transformers\npipeline_tag: text-generation\n"
        f"tags:\n- llama\n- text-generation\n- tokenmonster\n- edgekit\nmodel_name: {recipe.name}\n---"
    )


def _recipe(recipe: Recipe) -> str:
    """The recipe without the folders of one machine."""
    values = recipe.to_dict()
    del values["saving"]["output"], values["data"]["cache"]
    return json.dumps(values, indent=1)


def _weight(recipe: Recipe, corpus: str) -> float:
    for source in recipe.data.sources:
        if corpus in source.weights:
            return source.weights[corpus]
    return recipe.data.sources[0].weight


def _results(scores: Mapping[str, ValidationScore]) -> str:
    rows = [(name or "**all**", f"{s.loss:.4f}", f"{s.perplexity:.2f}", f"{s.bits_per_byte:.4f}", f"{s.tokens:,}")
            for name, s in scores.items()]  # fmt: skip
    return _table(("validation", "loss per token", "perplexity", "bits per byte", "tokens"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
