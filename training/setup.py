"""What a training run consists of, built from a recipe, and its state in a checkpoint.

`build` makes everything for a new run; `resume` then loads the newest checkpoint, if there is one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from numpy.typing import NDArray

from edgekit.errors import DataError, RecipeError, TrainingError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.training import checkpoints, data, hf_folder, optim, precision, shards, warm_start
from edgekit.training.evaluation import ValidationScore, evaluate
from edgekit.training.model import Llama, initialize
from edgekit.training.progress import Meter, silent
from edgekit.training.sections import Recipe
from edgekit.training.shards import Shards
from edgekit.training.state import Position, set_random_state
from edgekit.utils.guard import reading


@dataclass(frozen=True)
class Plan:
    """How long a run is and how large its steps are, over all processes."""

    blocks_per_step: int
    tokens_per_step: int
    steps: int
    """Optimizer steps until the run ends."""
    schedule_steps: int
    """Optimizer steps that the learning rate schedule spans."""


@dataclass
class Run:
    """Data, model, optimizer and position of a run: everything that a step uses.

    Attributes:
        meter: reports progress; silent in all processes but the main one.
        validation: uint16 (n, block size) by corpus; empty if the recipe has no validation data.
        bytes_per_token: of the validation text, by corpus.
        parallel: `model` as accelerate wraps it for several processes.
        float32_parts: which parts of the model stay in float32 under autocast.
    """

    recipe: Recipe
    accelerator: Accelerator
    meter: Meter
    dtype: torch.dtype
    vocabulary: Vocabulary
    config: LlamaConfig
    shards: Shards
    blocks: data.Blocks
    validation: Mapping[str, NDArray[np.uint16]]
    bytes_per_token: Mapping[str, float]
    model: Llama
    parallel: torch.nn.Module
    float32_parts: precision.Counts
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    plan: Plan
    position: Position = field(default_factory=Position)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.accelerator.is_main_process

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def world(self) -> int:
        """The number of processes."""
        return self.accelerator.num_processes

    def batch(self, micro: int) -> torch.Tensor:
        """This process's blocks for forward pass `micro` of the next step: int64 (batch, block size) on the device."""
        size = self.recipe.training.per_device_train_batch_size
        first = self.position.block + (micro * self.world + self.accelerator.process_index) * size
        ids = torch.from_numpy(self.blocks.batch(self.position.epoch, range(first, first + size)))
        if self.device.type == "cuda":
            return ids.pin_memory().to(self.device, non_blocking=True)
        return ids

    def advance(self) -> None:
        """Move the position past the blocks of one step. The rest of an epoch that fills no step is left out."""
        p, plan = self.position, self.plan
        p.step += 1
        p.tokens += plan.tokens_per_step
        p.block += plan.blocks_per_step
        if p.block + plan.blocks_per_step > self.blocks.count(p.epoch):
            p.epoch, p.block = p.epoch + 1, 0

    def evaluate(self) -> dict[str, ValidationScore]:
        """Scores of the validation data by corpus, and of all of it under ""; empty if there is none."""
        if not self.validation:
            return {}
        return evaluate(
            self.model, self.validation, self.bytes_per_token, accelerator=self.accelerator, dtype=self.dtype,
            batch_size=self.recipe.evaluation.per_device_eval_batch_size, meter=self.meter,
        )  # fmt: skip

    def state(self, random: list[Any]) -> dict[str, Any]:
        """What a checkpoint saves. `random` has every process's `random_state`."""
        return {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), "random": random, "position": dict(vars(self.position)),
            "blocks_per_step": self.plan.blocks_per_step, "data": self.shards.folder.name,
        }  # fmt: skip

    def load_state(self, state: dict[str, Any], *, other_data: bool = False) -> None:
        """Continue from what `state` returned. Other data is read from its beginning.

        Raises:
            TrainingError: the state is of other data (unless `other_data`) or of a step of another size.
        """
        current = {"blocks_per_step": self.plan.blocks_per_step, "data": self.shards.folder.name}
        for key, value in current.items():
            if state[key] != value and not (other_data and key == "data"):
                raise TrainingError(
                    f"{self.recipe.output} was trained with {key} {state[key]}, now it is {value}: resume with the "
                    "same data and the same batch over all processes, or start over with --fresh"
                )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        if state["data"] != current["data"]:
            self.position.epoch = self.position.block = 0
        set_random_state(state["random"][self.accelerator.process_index % len(state["random"])])


def build(recipe: Recipe, meter: Meter = silent) -> Run:
    """A run at its beginning: text tokenized, weights drawn, nothing read from or written to its folder yet.

    Raises:
        RecipeError: the batch, the vocabulary or the weights do not fit the recipe.
        DataError: too little text, or text that cannot be read.
    """
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # without this, several processes on a CPU do not find each other
        mixed_precision="no",  # autocast and scaler are edgekit's: their state must be saved, and checked on the CPU
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=timedelta(hours=12)),  # the others wait while one process tokenizes
        ],
    )
    if not accelerator.is_main_process:
        meter = silent
    blocks_per_step = _blocks_per_step(recipe, accelerator.num_processes)
    dtype = precision.choose(recipe.precision.mixed_precision, accelerator.device)

    vocabulary = data.vocabulary(recipe.tokenizer.vocabulary)
    config = hf_folder.config_for(recipe, vocabulary)
    with accelerator.main_process_first():
        tokens = shards.prepare(recipe.data, vocabulary, config.bos_token_id, config.eos_token_id[0], meter)
    weights = data.weights_of(recipe, tokens)
    blocks = data.Blocks(tokens, weights, recipe.data.block_size, recipe.training.seed)
    validation: dict[str, NDArray[np.uint16]] = {}
    bytes_per_token: dict[str, float] = {}
    if recipe.data.validation or recipe.data.validation_fraction:
        validation = data.validation(tokens, recipe.data.block_size, recipe.evaluation.max_eval_samples)
        bytes_per_token = data.bytes_per_token(tokens)

    model = Llama(config, recipe.training.dropout)
    initialize(model, recipe.model.initializer_range, recipe.training.seed)
    torch.manual_seed(recipe.training.seed + accelerator.process_index)  # for dropout, which differs by process
    model.to(accelerator.device)
    p, half = recipe.precision, dtype != torch.float32
    float32_parts = precision.apply(model, norms=p.fp32_norms and half, layers=p.fp32_layers if half else 0)
    optimizer = optim.make(model, recipe.optimizer)
    scaler = torch.amp.GradScaler(
        accelerator.device.type, init_scale=p.init_scale, growth_interval=p.growth_interval,
        enabled=dtype == torch.float16,
    )  # fmt: skip
    if recipe.training.compile:
        model.compile()
    return Run(
        recipe, accelerator, meter, dtype, vocabulary, config, tokens, blocks, validation, bytes_per_token, model,
        accelerator.prepare_model(model), float32_parts, optimizer, scaler, _plan(recipe, blocks, blocks_per_step),
    )  # fmt: skip


def resume(run: Run, *, fresh: bool = False, extend: bool = False) -> bool:
    """Load the newest checkpoint of the run's folder; whether there was one. `fresh` and `extend` as in `loop.train`.

    Without a checkpoint the weights of `model.weights` are loaded, if the recipe names a model.

    Raises:
        TrainingError: the checkpoint is of another recipe, batch or text, or cannot be read.
    """
    recipe = run.recipe
    if run.main:
        checkpoints.sweep(recipe.output)
        if fresh:
            checkpoints.clear(recipe.output)
    run.accelerator.wait_for_everyone()
    state = checkpoints.load(recipe.output, recipe, extend=extend)
    if state is not None:
        with reading(f"the checkpoint of {recipe.output}", TrainingError):
            run.load_state(state, other_data=extend)
    elif recipe.model.weights:
        drawn = run.model.state_dict()
        run.model.load_state_dict(drawn | warm_start.load(recipe.model.weights, run.config, run.vocabulary, drawn))
    return state is not None


def _blocks_per_step(recipe: Recipe, world: int) -> int:
    t = recipe.training
    blocks = t.per_device_train_batch_size * t.gradient_accumulation_steps * world
    if t.total_batch_size and t.total_batch_size != blocks:
        needed = t.total_batch_size / (t.per_device_train_batch_size * world)
        raise RecipeError(
            f"training.total_batch_size is {t.total_batch_size}, but batch {t.per_device_train_batch_size} x "
            f"accumulation {t.gradient_accumulation_steps} x {world} processes is {blocks}"
            + (f": --set gradient_accumulation_steps={int(needed)}" if needed >= 1 and needed % 1 == 0 else "")
        )
    return blocks


def _plan(recipe: Recipe, blocks: data.Blocks, blocks_per_step: int) -> Plan:
    """The run ends at the first of the limits that the recipe gives."""
    t, tokens_per_step = recipe.training, blocks_per_step * recipe.data.block_size
    if blocks.count(0) < blocks_per_step:
        raise DataError(
            f"an epoch has {blocks.count(0)} blocks of {recipe.data.block_size} tokens, fewer than one "
            f"optimizer step takes ({blocks_per_step}): lower the batch, or add text"
        )
    limits = [t.max_train_steps] if t.max_train_steps else []
    if t.token_budget:
        limits.append(-(-t.token_budget // tokens_per_step))
    if t.num_train_epochs:
        limits.append(sum(blocks.count(epoch) // blocks_per_step for epoch in range(t.num_train_epochs)))
    steps = min(limits)
    return Plan(blocks_per_step, tokens_per_step, steps, t.max_train_steps or steps)
