"""The sections of a recipe: a dataclass for each table of the file, a field for each key."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.settings import Checked, is_finite, setting


@dataclass(frozen=True)
class Model(Checked):
    """The shape of the Llama, with Hugging Face's names, and its initial weights."""

    hidden_size: int = setting(256, "Width of the residual stream.", ge=1)
    intermediate_size: int = setting(768, "Width of the feed-forward layers.", ge=1)
    num_hidden_layers: int = setting(12, "Layers.", ge=1)
    num_attention_heads: int = setting(4, "Query heads.", ge=1)
    num_key_value_heads: int | None = setting(None, "Key and value heads; none: as many as query heads.", ge=1)
    head_dim: int | None = setting(None, "Width of a head; none: hidden_size / heads.", ge=2)
    max_position_embeddings: int = setting(1024, "Context length in tokens.", ge=2)
    rms_norm_eps: float = setting(1e-5, "Added under the root in every norm.", gt=0)
    rope_theta: float = setting(10000.0, "Base of the rotary embedding.", gt=0)
    tie_word_embeddings: bool = setting(True, "Use one matrix for embedding and output.")
    initializer_range: float = setting(0.02, "Standard deviation of the initial weights; norms start at 1.", gt=0)
    vocab_size: int | None = setting(None, "Rows of the embedding; none: the vocabulary, padded.", ge=1)
    pad_vocab_multiple: int = setting(128, "Pad the vocabulary to a multiple of this.", ge=1)
    weights: str | None = setting(
        None, "Start with the weights of this model folder or Hub id (`bundled`: edgekit's own); none: random weights. "
        "The vocabulary may differ: see warm_start.py.",
    )  # fmt: skip


@dataclass(frozen=True)
class Tokenizer(Checked):
    vocabulary: str = setting(
        "english-8000-strict-nocapcode-v1",
        "A .vocab file, the name of a published TokenMonster vocabulary, or `bytes` (256 tokens, one per byte).",
    )


@dataclass(frozen=True)
class Source(Checked):
    """A source of text: exactly one of `path`, `hub` and `builtin` is given."""

    path: str | None = setting(None, "A .txt, .jsonl or .jsonl.gz file, or a folder of them.")
    hub: str | None = setting(None, "A dataset of the Hugging Face Hub, streamed.")
    builtin: str | None = setting(None, "`python`: the language reference that comes with Python.", choices=("python",))
    name: str | None = setting(
        None, "Name of its corpus; by default the one in each record, else the name of the file or dataset."
    )
    text_field: str = setting("text", "The field of a record that has its text.")
    split: str = setting("train", "hub: the split.")
    subset: str | None = setting(None, "hub: the configuration of the dataset.")
    revision: str | None = setting(None, "hub: branch, tag or commit.")
    weight: float = setting(1.0, "How often an epoch repeats each of its documents.", ge=0)
    weights: dict[str, float] = setting(
        {}, "The same by corpus, where it differs from `weight`.",
        check=lambda v: isinstance(v, dict) and all(is_finite(w) and 0 <= w < 1000 for w in v.values()),
        range="numbers from 0 to 1000",
    )  # fmt: skip
    tokens: int | None = setting(None, "Take at most this many tokens of it.", ge=1)


@dataclass(frozen=True)
class Data(Checked):
    block_size: int = setting(1024, "Tokens of a training sequence; documents are packed into it.", ge=2)
    cleaning: str = setting(
        "collapse",
        "`collapse`: NFKC and single spaces, as Stentor2; `lines`: the same within lines, with line breaks kept; "
        "`none`.",
        choices=("collapse", "lines", "none"),
    )
    add_bos: bool = setting(
        False, "Start every document, and every prompt of the finished model, with BOS. Documents always end with EOS."
    )
    sources: tuple[Source, ...] = field(default=())
    validation: tuple[Source, ...] = field(default=())
    validation_fraction: float = setting(
        0.0, "Hold out this share of the documents, chosen by a hash, instead of `validation`.", ge=0, le=0.5
    )
    source_token_budget: int | None = setting(None, "Tokenize at most this many tokens, over all sources.", ge=1)
    workers: int | None = setting(None, "Processes that tokenize; none: one per core.", ge=1)
    cache: str | None = setting(None, "Folder for tokenized data; none: the user's cache folder.")


@dataclass(frozen=True)
class Training(Checked):
    seed: int = setting(42, "Seed of the initial weights and of the order of the data.", ge=0)
    per_device_train_batch_size: int = setting(32, "Blocks in one forward pass of one process.", ge=1)
    gradient_accumulation_steps: int = setting(1, "Forward passes in one optimizer step.", ge=1)
    total_batch_size: int | None = setting(
        None, "Blocks in one optimizer step over all processes; it is an error if the other settings give another "
        "number.", ge=1,
    )  # fmt: skip
    num_train_epochs: int | None = setting(None, "Stop after this many passes over the weighted data.", ge=1)
    token_budget: int | None = setting(None, "Stop after this many tokens.", ge=1)
    max_train_steps: int | None = setting(
        None, "Stop after this many optimizer steps. The schedule ends there too, if given.", ge=1
    )
    dropout: float = setting(
        0.0, "Share of the embedding, and of what each layer adds to the residual stream, that is dropped, against "
        "memorizing a small text.", ge=0, lt=1,
    )  # fmt: skip
    compile: bool = setting(False, "torch.compile the model: faster steps after a minute of compiling.")


@dataclass(frozen=True)
class Optimizer(Checked):
    """AdamW, or Muon for the linear layers and AdamW for the rest. Only weights of linear layers decay."""

    algorithm: str = setting(
        "adamw", "`adamw`, or `muon`: orthogonalized momentum for the linear layers, AdamW for the rest.",
        choices=("adamw", "muon"),
    )  # fmt: skip
    momentum: float = setting(0.95, "muon: decay of the momentum.", ge=0, lt=1)
    learning_rate: float = setting(8e-4, "The peak.", gt=0)
    weight_decay: float = setting(0.01, "Decoupled decay.", ge=0)
    betas: tuple[float, float] = setting(
        (0.9, 0.95), "Decays of the two moments.", ge=0, lt=1, check=lambda v: len(v) == 2,
        range="two numbers from 0 to below 1",
    )  # fmt: skip
    eps: float = setting(1e-8, "Added to the root of the second moment.", gt=0)
    max_grad_norm: float = setting(1.0, "Clip the gradient to this norm; 0: never.", ge=0)


@dataclass(frozen=True)
class Schedule(Checked):
    """The learning rate by optimizer step. Ratios are of all steps."""

    kind: str = setting(
        "cosine", "`cosine` or `constant` after the warmup, or `wsd`: warmup, stable, decay.",
        choices=("cosine", "wsd", "constant"),
    )  # fmt: skip
    warmup_ratio: float | None = setting(None, "Share of the steps with linear warmup.", ge=0, le=1)
    warmup_steps: int | None = setting(None, "The same as a number of steps.", ge=0)
    stable_ratio: float = setting(0.8, "wsd: share of the steps at the peak, after the warmup.", ge=0, le=1)
    decay: str = setting("linear", "wsd: shape of the decay.", choices=("linear", "cosine", "sqrt"))
    min_lr_ratio: float = setting(0.0, "The final learning rate as a share of the peak.", ge=0, le=1)


@dataclass(frozen=True)
class Precision(Checked):
    """Stentor2's recipe for the T4; see precision.py."""

    mixed_precision: str = setting(
        "auto", "`auto` is bf16 where the hardware has it (GPU capability 8.0 and up, any CPU), else fp16.",
        choices=("auto", "fp16", "bf16", "no"),
    )  # fmt: skip
    fp32_norms: bool = setting(True, "Every RMSNorm in float32.")
    fp32_layers: int = setting(2, "This many first layers entirely in float32.", ge=0)
    init_scale: float = setting(65536.0, "fp16: the initial loss scale.", gt=0)
    growth_interval: int = setting(2000, "fp16: steps without overflow until the scale doubles.", ge=1)


@dataclass(frozen=True)
class Evaluation(Checked):
    eval_steps: int | None = setting(None, "Evaluate every N steps; none: at the end of each epoch.", ge=1)
    per_device_eval_batch_size: int = setting(16, "Blocks in one forward pass.", ge=1)
    max_eval_samples: int | None = setting(None, "Evaluate on at most this many blocks.", ge=1)
    best_eval_start_step: int = setting(0, "Keep the best model from this step on.", ge=0)
    best_eval_steps: int | None = setting(None, "From there on, also evaluate every N steps.", ge=1)


@dataclass(frozen=True)
class Saving(Checked):
    output: str = setting("", "Folder of the run; none: runs/NAME.")
    save_every_minutes: float = setting(30.0, "Save a checkpoint every N minutes.", gt=0)
    save_steps: int | None = setting(None, "Save a checkpoint every N steps.", ge=1)
    save_total_limit: int = setting(2, "Keep this many checkpoints.", ge=1)
    save_dtype: str = setting("float32", "Type of the saved model's weights.", choices=("float32", "float16"))
    logging_steps: int = setting(300, "Log every N steps.", ge=1)


@dataclass(frozen=True)
class Recipe:
    """A whole recipe: one field for each table of its TOML file."""

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
        """All values as dicts, tuples and scalars, for JSON."""
        return dataclasses.asdict(self)


FREE = frozenset(
    """description saving.output saving.save_every_minutes saving.save_steps saving.save_total_limit
    saving.logging_steps saving.save_dtype training.per_device_train_batch_size training.gradient_accumulation_steps
    data.workers data.cache evaluation.per_device_eval_batch_size training.compile""".split()
)
"""Keys that may change when a run is resumed: where and how often it writes, and how a step is divided into forward
passes (the number of blocks in a step must stay the same), not what is computed."""

EXTENDABLE = FREE | frozenset(
    """training.token_budget training.num_train_epochs training.max_train_steps optimizer.learning_rate schedule.kind
    schedule.stable_ratio schedule.decay schedule.min_lr_ratio schedule.warmup_ratio schedule.warmup_steps
    data.sources""".split()
)
"""Keys that may also change when a run is extended: its length, its learning rate from here on, and its text."""
