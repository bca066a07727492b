"""Contradictions in a recipe: keys that are each valid but not together."""

from collections.abc import Callable

from edgekit.training.sections import Recipe


def find(recipe: Recipe) -> str | None:
    """The first contradiction, one line that names the keys; None if there is none."""
    return next((message for rule in RULES if (message := rule(recipe))), None)


def _shape(r: Recipe) -> str | None:
    m = r.model
    if m.head_dim is None and m.hidden_size % m.num_attention_heads:
        return f"model.hidden_size {m.hidden_size} does not divide by num_attention_heads {m.num_attention_heads}"
    if (m.head_dim or m.hidden_size // m.num_attention_heads) % 2:
        return f"model.head_dim {m.head_dim or m.hidden_size // m.num_attention_heads} is odd; rotary needs pairs"
    if m.num_key_value_heads and m.num_attention_heads % m.num_key_value_heads:
        return f"model.num_attention_heads {m.num_attention_heads} does not divide by num_key_value_heads"
    if r.data.block_size > m.max_position_embeddings:
        return f"data.block_size {r.data.block_size} is above model.max_position_embeddings {m.max_position_embeddings}"
    if r.precision.fp32_layers > m.num_hidden_layers:
        return f"precision.fp32_layers {r.precision.fp32_layers} is above model.num_hidden_layers {m.num_hidden_layers}"
    if m.vocab_size and m.vocab_size % m.pad_vocab_multiple:
        return f"model.vocab_size {m.vocab_size} is not a multiple of pad_vocab_multiple {m.pad_vocab_multiple}"
    return None


def _sources(r: Recipe) -> str | None:
    if not r.data.sources:
        return "data.sources is missing: name at least one with path, hub or builtin"
    for kind, sources in (("sources", r.data.sources), ("validation", r.data.validation)):
        for i, source in enumerate(sources):
            given = [k for k in ("path", "hub", "builtin") if getattr(source, k)]
            if len(given) != 1:
                return f"data.{kind}[{i}] needs one of path, hub and builtin, not {' and '.join(given) or 'none'}"
            if not source.hub and (source.subset or source.revision or source.split != "train"):
                return f"data.{kind}[{i}]: split, subset and revision are for hub"
    if r.data.validation and r.data.validation_fraction:
        return "data.validation and data.validation_fraction exclude each other"
    if r.evaluation.best_eval_steps and not (r.data.validation or r.data.validation_fraction):
        return "evaluation.best_eval_steps needs data.validation or data.validation_fraction"
    return None


def _length(r: Recipe) -> str | None:
    t, s = r.training, r.schedule
    if not (t.num_train_epochs or t.token_budget or t.max_train_steps):
        return "training has no end: give num_train_epochs, token_budget or max_train_steps"
    if s.warmup_ratio is not None and s.warmup_steps is not None:
        return "schedule.warmup_ratio and schedule.warmup_steps exclude each other"
    if s.kind == "wsd" and (s.warmup_ratio or 0) + s.stable_ratio > 1:
        return f"schedule.warmup_ratio {s.warmup_ratio} and stable_ratio {s.stable_ratio} add up to more than 1"
    if t.max_train_steps and (s.warmup_steps or 0) > t.max_train_steps:
        return f"schedule.warmup_steps {s.warmup_steps} is above training.max_train_steps {t.max_train_steps}"
    step = t.per_device_train_batch_size * t.gradient_accumulation_steps
    if t.total_batch_size and t.total_batch_size % step:
        return f"training.total_batch_size {t.total_batch_size} is not a multiple of batch x accumulation, {step}"
    return None


RULES: tuple[Callable[[Recipe], str | None], ...] = (_shape, _sources, _length)
