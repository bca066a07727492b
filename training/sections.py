"""The sections of a recipe: a dataclass for each table of the file, a field for each key."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.settings import Checked, setting


def whole(low: int) -> dict[str, Any]:
    return {"check": lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low,
            "range": f"a whole number from {low} up"}  # fmt: skip


def share(high: float = 1.0) -> dict[str, Any]:
    return {"check": lambda v: 0 <= v <= high, "range": f"from 0 to {high:g}"}


def above_zero() -> dict[str, Any]:
    return {"check": lambda v: 0 < v < float("inf"), "range": "a number above 0"}


def from_zero() -> dict[str, Any]:
    return {"check": lambda v: 0 <= v < float("inf"), "range": "a number from 0 up"}


def one_of(*choices: str) -> dict[str, Any]:
    return {"check": lambda v: v in choices, "range": " or ".join(choices)}


@dataclass(frozen=True)
class Model(Checked):
    """The shape of the Llama, by Hugging Face's names, and how its weights begin."""

    hidden_size: int = setting(256, "Width of the stream.", **whole(1))
    intermediate_size: int = setting(768, "Width of the feed-forward layers.", **whole(1))
    num_hidden_layers: int = setting(12, "Layers.", **whole(1))
    num_attention_heads: int = setting(4, "Query heads.", **whole(1))
    num_key_value_heads: int | None = setting(None, "Key and value heads; none: as many.", **whole(1))
    head_dim: int | None = setting(None, "Width of a head; none: hidden_size / heads.", **whole(2))
    max_position_embeddings: int = setting(1024, "Context, in tokens.", **whole(2))
    rms_norm_eps: float = setting(1e-5, "Added under the root of every norm.", **above_zero())
    rope_theta: float = setting(10000.0, "Base of the rotary embedding.", **above_zero())
    tie_word_embeddings: bool = setting(True, "One table for embedding and head.")
    initializer_range: float = setting(
        0.02, "Standard deviation of the first weights; norms begin at 1.", **above_zero()
    )
    vocab_size: int | None = setting(None, "Rows of the embedding; none: the vocabulary, padded.", **whole(1))
    pad_vocab_multiple: int = setting(128, "Pad the vocabulary to a multiple of this.", **whole(1))
    weights: str | None = setting(
        None, "Begin with the weights of this model folder or Hub id (`bundled`: edgekit's own), none: drawn anew. "
        "Another vocabulary than its own is fine: see warm_start.py.",
    )  # fmt: skip


@dataclass(frozen=True)
class Tokenizer(Checked):
    vocabulary: str = setting(
        "english-8000-strict-nocapcode-v1",
        "A .vocab file, the name of a published TokenMonster vocabulary, or `bytes` (256 tokens, one a byte).",
    )


@dataclass(frozen=True)
class Source(Checked):
    """Where text comes from: one of `path`, `hub` and `builtin`."""

    path: str | None = setting(None, "A .txt, .jsonl or .jsonl.gz file, or a folder of them.")
    hub: str | None = setting(None, "A dataset of the Hugging Face Hub, streamed.")
    builtin: str | None = setting(None, "`python`: the language reference that comes with Python.", **one_of("python"))
    name: str | None = setting(None, "Call its corpus so; by default as each record does, else as its file or dataset.")
    text_field: str = setting("text", "Where a record has its text.")
    split: str = setting("train", "hub: which split.")
    subset: str | None = setting(None, "hub: which configuration of the dataset.")
    revision: str | None = setting(None, "hub: branch, tag or commit.")
    weight: float = setting(1.0, "How often an epoch sees each of its documents.", **from_zero())
    weights: dict[str, float] = setting(
        {}, "The same by corpus, where it differs from `weight`.",
        check=lambda v: all(isinstance(w, int | float) and 0 <= w < 1000 for w in v.values()),
        range="numbers from 0 to 1000",
    )  # fmt: skip
    tokens: int | None = setting(None, "Take at most so many tokens of it.", **whole(1))


@dataclass(frozen=True)
class Data(Checked):
    block_size: int = setting(1024, "Tokens of a training sequence; documents are packed into it.", **whole(2))
    cleaning: str = setting(
        "collapse",
        "`collapse`: NFKC and single spaces, as Stentor2; `lines`: the same within lines, line breaks kept; `none`.",
        **one_of("collapse", "lines", "none"),
    )
    add_bos: bool = setting(
        False, "Begin every document with BOS, and every prompt of the finished model too; EOS ends it either way."
    )
    sources: tuple[Source, ...] = field(default=())
    validation: tuple[Source, ...] = field(default=())
    validation_fraction: float = setting(
        0.0, "Hold out this share of the documents, chosen by a hash, instead of `validation`.", **share(0.5)
    )
    source_token_budget: int | None = setting(None, "Tokenize at most so many tokens, over all sources.", **whole(1))
    workers: int | None = setting(None, "Processes that tokenize; none: one a core.", **whole(1))
    cache: str | None = setting(None, "Folder for tokenized data; none: the user's cache folder.")


@dataclass(frozen=True)
class Training(Checked):
    seed: int = setting(42, "Of the first weights and of the order of the data.", **whole(0))
    per_device_train_batch_size: int = setting(32, "Blocks in one forward pass of one process.", **whole(1))
    gradient_accumulation_steps: int = setting(1, "Forward passes in one optimizer step.", **whole(1))
    total_batch_size: int | None = setting(None, "Blocks in one optimizer step, to hold the others to.", **whole(1))
    num_train_epochs: int | None = setting(None, "Stop after so many passes over the weighted data.", **whole(1))
    token_budget: int | None = setting(None, "Stop after so many tokens.", **whole(1))
    max_train_steps: int | None = setting(
        None, "Stop after so many optimizer steps. It is also where the schedule ends, if given.", **whole(1)
    )
    dropout: float = setting(
        0.0, "Leave out this share of the embedding and of what each layer adds to the stream, against learning a "
        "small text by heart.", check=lambda v: 0 <= v < 1, range="from 0 to below 1",
    )  # fmt: skip
    compile: bool = setting(False, "torch.compile the model: faster steps after a minute of compiling.")


@dataclass(frozen=True)
class Optimizer(Checked):
    """AdamW, or Muon for the linear layers and AdamW for the rest. Decay is for the weights of linear layers only."""

    algorithm: str = setting(
        "adamw", "`adamw`, or `muon`: the linear layers' momentum made orthogonal, the rest by AdamW.",
        **one_of("adamw", "muon"),
    )  # fmt: skip
    momentum: float = setting(
        0.95, "muon: decay of the momentum.", check=lambda v: 0 <= v < 1, range="from 0 to below 1"
    )
    learning_rate: float = setting(8e-4, "The peak.", **above_zero())
    weight_decay: float = setting(0.01, "Decoupled decay.", **from_zero())
    betas: tuple[float, float] = setting(
        (0.9, 0.95), "Decays of the two moments.",
        check=lambda v: len(v) == 2 and all(0 <= b < 1 for b in v), range="two numbers from 0 to below 1",
    )  # fmt: skip
    eps: float = setting(1e-8, "Added to the root of the second moment.", **above_zero())
    max_grad_norm: float = setting(1.0, "Clip the gradient to this norm; 0: never.", **from_zero())


@dataclass(frozen=True)
class Schedule(Checked):
    """The learning rate in optimizer steps. Ratios are of all steps."""

    kind: str = setting(
        "cosine", "`cosine` after the warmup, or `wsd`: warmup, stable, decay.", **one_of("cosine", "wsd", "constant")
    )
    warmup_ratio: float | None = setting(None, "Share of the steps that warm up, linearly.", **share())
    warmup_steps: int | None = setting(None, "The same as a number.", **whole(0))
    stable_ratio: float = setting(0.8, "wsd: share of the steps at the peak, after the warmup.", **share())
    decay: str = setting("linear", "wsd: the way down.", **one_of("linear", "cosine", "sqrt"))
    min_lr_ratio: float = setting(0.0, "Where the way down ends, as a share of the peak.", **share())


@dataclass(frozen=True)
class Precision(Checked):
    """Stentor2's T4 recipe; see precision.py."""

    mixed_precision: str = setting(
        "auto", "`auto` is bf16 where the hardware has it (GPU capability 8.0 up, any CPU), else fp16.",
        **one_of("auto", "fp16", "bf16", "no"),
    )  # fmt: skip
    fp32_norms: bool = setting(True, "Every RMSNorm in float32.")
    fp32_layers: int = setting(2, "So many first layers wholly in float32.", **whole(0))
    init_scale: float = setting(65536.0, "fp16: the first loss scale.", **above_zero())
    growth_interval: int = setting(2000, "fp16: steps without overflow until the scale doubles.", **whole(1))


@dataclass(frozen=True)
class Evaluation(Checked):
    eval_steps: int | None = setting(None, "Evaluate every so many steps; none: at the ends of epochs.", **whole(1))
    per_device_eval_batch_size: int = setting(16, "Blocks in one forward pass.", **whole(1))
    max_eval_samples: int | None = setting(None, "Evaluate on at most so many blocks.", **whole(1))
    best_eval_start_step: int = setting(0, "Keep the best checkpoint from this step on.", **whole(0))
    best_eval_steps: int | None = setting(None, "From there, evaluate every so many steps too.", **whole(1))


@dataclass(frozen=True)
class Saving(Checked):
    output: str = setting("", "Folder of the run; none: runs/NAME.")
    save_every_minutes: float = setting(30.0, "Save what a resume needs, by the clock.", **above_zero())
    save_steps: int | None = setting(None, "The same by steps.", **whole(1))
    save_total_limit: int = setting(2, "Keep so many of them.", **whole(1))
    save_dtype: str = setting("float32", "Type of the saved model's weights.", **one_of("float32", "float16"))
    logging_steps: int = setting(300, "Log every so many steps.", **whole(1))


@dataclass(frozen=True)
class Recipe:
    name: str = "run"
    model: Model = field(default_factory=Model)
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    precision: Precision = field(default_factory=Precision)
    evaluation: Evaluation = field(default_factory=Evaluation)
    saving: Saving = field(default_factory=Saving)
    description: str = ""

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.saving.output or f"runs/{self.name}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON can hold them."""
        return dataclasses.asdict(self)


# What may differ when a run is resumed: where and how often it writes, and how a step is shared out (the loop holds
# the blocks of a step to what they were), not what is computed.
FREE = frozenset(
    """description saving.output saving.save_every_minutes saving.save_steps saving.save_total_limit
    saving.logging_steps saving.save_dtype training.per_device_train_batch_size training.gradient_accumulation_steps
    data.workers data.cache evaluation.per_device_eval_batch_size training.compile""".split()
)


# What may differ besides when a run is extended: how long it is, how fast it learns from here on, and from what.
EXTENDABLE = FREE | frozenset(
    """training.token_budget training.num_train_epochs training.max_train_steps optimizer.learning_rate schedule.kind
    schedule.stable_ratio schedule.decay schedule.min_lr_ratio schedule.warmup_ratio schedule.warmup_steps
    data.sources""".split()
)
