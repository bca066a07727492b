"""The training loop: one optimizer step after another, evaluated, saved and resumable at any of them.

    result = train(load("smoke"))

Every process of `accelerate launch` runs it. A step takes `total` blocks of the epoch in order, process r the r-th
part of each forward pass, so that the gradient is the same whatever the number of processes.
"""

import contextlib
import logging
import math
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object

from edgekit.errors import DataError, RecipeError, TrainingError
from edgekit.training import (
    card,
    checkpoints,
    curves,
    data,
    hf_folder,
    interrupts,
    logs,
    optim,
    precision,
    shards,
    warm_start,
)
from edgekit.training.evaluation import Score, evaluate
from edgekit.training.model import Llama, flops_per_token, initialize, parameters
from edgekit.training.schedule import factor
from edgekit.training.sections import Recipe
from edgekit.training.shards import Meter, silent
from edgekit.training.speed import peak
from edgekit.training.state import Position, random_state, set_random_state
from edgekit.utils import files, plot, registry

log = logging.getLogger(__name__)

LOWEST_SCALE = 2.0**-14
"""A loss scale below this does not help any more: the gradients overflow whatever they are scaled by."""


@dataclass(frozen=True)
class Result:
    folder: Path
    position: Position
    scores: dict[str, Score]
    """The last evaluation; empty without validation data."""
    finished: bool


def train(
    recipe: Recipe,
    *,
    fresh: bool = False,
    extend: bool = False,
    stop_at: int | None = None,
    meter: Meter = silent,
) -> Result:
    """Train a recipe to its end, going on from the run's last checkpoint if there is one.

    Writes into `recipe.output`: checkpoints/, best/ and model/ (Hugging Face folders with a card), training_curves.csv
    and .svg, training_log.jsonl.

    Args:
        fresh: delete what an earlier run left in the folder, and begin anew.
        extend: go on although the recipe has another length, learning rate, schedule or text than the run had until
            now; other text is begun from its beginning.
        stop_at: save and stop after this optimizer step, as if interrupted.
        meter: told of the progress; only the main process calls it.

    Raises:
        RecipeError, DataError: what the recipe asks for cannot be.
        TrainingError: the loss or the gradient is not finite, or the folder is another recipe's or in use.
        FileError: the disk is full or forbidden; the last checkpoint is whole.
    """
    first = os.environ.get("RANK", "0") == "0"
    with checkpoints.alone(recipe.output) if first else contextlib.nullcontext():
        run = _Run(recipe, fresh, extend, meter)
        with interrupts.listening(run.interrupt):
            return run.go(stop_at)


class _Run:
    def __init__(self, recipe: Recipe, fresh: bool, extend: bool, meter: Meter):
        self.recipe, self.folder = recipe, recipe.output
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),  # said, or several processes on a CPU would not find each other
            mixed_precision="no",  # autocast and scaler are ours: their state must be saved, and checked on the CPU
            kwargs_handlers=[
                DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timedelta(hours=12)),  # others wait while one tokenizes
            ],
        )
        self.main, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.meter = meter if self.main else silent
        self.asked_to_stop = self.interrupted = False  # by a signal here; and as all processes agreed
        t = recipe.training
        self.blocks_per_step = t.per_device_train_batch_size * t.gradient_accumulation_steps * self.world
        if t.total_batch_size and t.total_batch_size != self.blocks_per_step:
            needed = t.total_batch_size / (t.per_device_train_batch_size * self.world)
            raise RecipeError(
                f"training.total_batch_size is {t.total_batch_size}, but batch {t.per_device_train_batch_size} x "
                f"accumulation {t.gradient_accumulation_steps} x {self.world} processes is {self.blocks_per_step}"
                + (f": --set gradient_accumulation_steps={int(needed)}" if needed >= 1 and needed % 1 == 0 else "")
            )
        self.dtype = precision.choose(recipe.precision.mixed_precision, self.device)
        self._open_data()
        self._make_model()
        self._plan()
        self._resume(fresh, extend)

    def interrupt(self) -> None:
        """Stop after the step at hand, with a checkpoint."""
        self.asked_to_stop = True

    @property
    def world(self) -> int:
        return self.accelerator.num_processes

    # ---- setting up ------------------------------------------------------------------------------------------------

    def _open_data(self) -> None:
        recipe = self.recipe
        self.vocabulary = data.vocabulary(recipe.tokenizer.vocabulary)
        self.config = hf_folder.config_for(recipe, self.vocabulary)
        with self.accelerator.main_process_first():
            bos, eos = self.config.bos_token_id, self.config.eos_token_id[0]
            self.shards = shards.prepare(recipe.data, self.vocabulary, bos, eos, self.meter)
        weights = data.weights_of(recipe, self.shards)
        self.blocks = data.Blocks(self.shards, weights, recipe.data.block_size, recipe.training.seed)
        self.validation = {}
        if recipe.data.validation or recipe.data.validation_fraction:
            self.validation = data.validation(self.shards, recipe.data.block_size, recipe.evaluation.max_eval_samples)
            self.bytes_per_token = data.bytes_per_token(self.shards)

    def _make_model(self) -> None:
        recipe, p = self.recipe, self.recipe.precision
        self.model = Llama(self.config, recipe.training.dropout)
        initialize(self.model, recipe.model.initializer_range, recipe.training.seed)
        torch.manual_seed(recipe.training.seed + self.accelerator.process_index)  # dropout, which is each process's own
        self.model.to(self.device)
        half = self.dtype != torch.float32
        self.counts = precision.apply(self.model, norms=p.fp32_norms and half, layers=p.fp32_layers if half else 0)
        self.optimizer = optim.make(self.model, recipe.optimizer)
        self.scaler = torch.amp.GradScaler(
            self.device.type, init_scale=p.init_scale, growth_interval=p.growth_interval,
            enabled=self.dtype == torch.float16,
        )  # fmt: skip
        if recipe.training.compile:
            self.model.compile()
        self.parallel = self.accelerator.prepare_model(self.model)

    def _plan(self) -> None:
        """How many optimizer steps there will be: the first of the ends that the recipe names."""
        t = self.recipe.training
        self.tokens_per_step = self.blocks_per_step * self.recipe.data.block_size
        if self.blocks.count(0) < self.blocks_per_step:
            raise DataError(
                f"an epoch has {self.blocks.count(0)} blocks of {self.recipe.data.block_size} tokens, fewer than one "
                f"optimizer step takes ({self.blocks_per_step}): lower the batch, or add text"
            )
        ends = [t.max_train_steps] if t.max_train_steps else []
        if t.token_budget:
            ends.append(-(-t.token_budget // self.tokens_per_step))
        if t.num_train_epochs:
            ends.append(sum(self.blocks.count(e) // self.blocks_per_step for e in range(t.num_train_epochs)))
        self.steps = min(ends)
        self.horizon = t.max_train_steps or self.steps

    def _resume(self, fresh: bool, extend: bool) -> None:
        self.position = Position()
        if self.main:
            checkpoints.sweep(self.folder)
            if fresh:
                checkpoints.clear(self.folder)
        self.accelerator.wait_for_everyone()
        state = checkpoints.load(self.folder, self.recipe, extend=extend)
        if state is None and self.recipe.model.weights:
            drawn = self.model.state_dict()
            first = warm_start.load(self.recipe.model.weights, self.config, self.vocabulary, drawn)
            self.model.load_state_dict(drawn | first)
        if state is not None:
            other_text = state["data"] != self.shards.folder.name
            for key, now in (("blocks_per_step", self.blocks_per_step), ("data", self.shards.folder.name)):
                if state[key] != now and not (extend and key == "data"):
                    raise TrainingError(
                        f"{self.folder} was trained with {key} {state[key]}, now it is {now}: resume with the same "
                        "data and the same batch over all processes, or begin anew with --fresh"
                    )
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.position = Position(**state["position"])
            if other_text:
                self.position.epoch = self.position.block = 0
            set_random_state(state["random"][self.accelerator.process_index % len(state["random"])])
        self.logs = logs.Logs(self.folder, self.position.step) if self.main else None
        self.saved_step = self.position.step if state is not None else -1

    # ---- the loop --------------------------------------------------------------------------------------------------

    def go(self, stop_at: int | None) -> Result:
        recipe, p = self.recipe, self.position
        self._say_what()
        began, last_save, began_at = time.monotonic() - p.seconds, time.monotonic(), p.step
        scores: dict[str, Score] = {}
        peak_flops = peak(self.device, self.dtype)
        while p.step < self.steps and not self.interrupted and (stop_at is None or p.step < stop_at):
            before = time.monotonic()
            loss, norm, flags = self._step(time.monotonic() - last_save > 60 * recipe.saving.save_every_minutes)
            p.sums = [p.sums[0] + loss, p.sums[1] + 1, p.sums[2] + time.monotonic() - before]
            ended = p.block == 0
            row = self._row(loss, norm) if p.step % recipe.saving.logging_steps == 0 or p.step == self.steps else {}
            if self.validation and self._evaluation_due(ended):
                scores = self._evaluate()
                row |= self._judge(scores)
            p.seconds = time.monotonic() - began
            best = row.get("note") == "best"
            if row:
                self._log(row, peak_flops)
            if best and self.main:
                self._write_model(self.folder / "best", scores, f"the best validation loss, step {p.step}")
            rate = self.tokens_per_step / (time.monotonic() - before)
            self.meter("training", p.step, self.steps, "steps", f"loss {loss:.3f} · {rate:,.0f} tokens/s")
            if flags or (recipe.saving.save_steps and p.step % recipe.saving.save_steps == 0):
                self._save()
                last_save = time.monotonic()
        p.seconds = time.monotonic() - began
        if self.saved_step != p.step:
            self._save()
        finished = p.step >= self.steps
        if finished and began_at == self.steps and (self.folder / "model").is_dir():
            log.info("%s is finished already: --fresh trains it anew", self.folder)
        elif finished:
            scores = scores or (self._evaluate() if self.validation else {})
            if self.main:
                self._write_model(self.folder / "model", scores, "the last step")
                log.info("%s: step %d, %s", self.folder / "model", p.step, card.brief(scores))
        else:
            log.info("stopped at step %d of %d: the same command goes on from here", p.step, self.steps)
        self.accelerator.wait_for_everyone()
        return Result(self.folder, p, scores, finished)

    def _step(self, save_due: bool) -> tuple[float, float, bool]:
        """One optimizer step: mean loss over all processes, norm of the gradient, and whether to save now."""
        p, t = self.position, self.recipe.training
        rate = self.recipe.optimizer.learning_rate * factor(self.recipe.schedule, p.step, self.horizon)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = torch.zeros((), device=self.device)
        for micro in range(t.gradient_accumulation_steps):
            ids = self._batch(micro)
            last = micro == t.gradient_accumulation_steps - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.parallel):
                with precision.autocast(self.device, self.dtype):
                    loss = self.parallel(ids) / t.gradient_accumulation_steps
                self.scaler.scale(loss).backward()
            losses += loss.detach()
        self.scaler.unscale_(self.optimizer)
        limit = self.recipe.optimizer.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        # One exchange a step: the loss, and whether any process wants to save or to stop.
        facts = torch.stack(
            [losses.double(), norm.double(), *torch.tensor([save_due, self.asked_to_stop]).double().to(self.device)]
        )
        facts = self.accelerator.reduce(facts, "sum")
        total, norms, saving, stopping = facts.tolist()
        mean, norm_value = total / self.world, norms / self.world
        self.interrupted = stopping > 0
        scale = self.scaler.get_scale()
        overflowed = self.scaler.is_enabled() and not math.isfinite(norm_value)
        if not math.isfinite(mean) or (not math.isfinite(norm_value) and (not overflowed or scale < LOWEST_SCALE)):
            self._give_up(mean, norm_value, rate, scale)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        p.skipped += overflowed
        p.step += 1
        p.tokens += self.tokens_per_step
        p.block += self.blocks_per_step
        if p.block + self.blocks_per_step > self.blocks.count(p.epoch):
            p.epoch, p.block = p.epoch + 1, 0
        return mean, norm_value, saving > 0

    def _batch(self, micro: int) -> torch.Tensor:
        """This process's blocks of one forward pass: int64 (batch, block size) on the device."""
        size = self.recipe.training.per_device_train_batch_size
        first = self.position.block + (micro * self.world + self.accelerator.process_index) * size
        ids = torch.from_numpy(self.blocks.batch(self.position.epoch, range(first, first + size)))
        if self.device.type == "cuda":
            return ids.pin_memory().to(self.device, non_blocking=True)
        return ids

    def _give_up(self, loss: float, norm: float, rate: float, scale: float) -> None:
        p, kept = self.position, checkpoints.folders(self.folder)
        what = "loss" if not math.isfinite(loss) else "gradient norm"
        if self.logs:
            self.logs.add(step=p.step + 1, epoch=p.epoch, tokens=p.tokens, lr=rate, note=f"stopped: {what} not finite")
        raise TrainingError(
            f"step {p.step + 1}: the {what} is {loss if what == 'loss' else norm} (loss {loss:.4g}, gradient norm "
            f"{norm:.4g}, learning rate {rate:.3g}, loss scale {scale:g}, epoch {p.epoch}, blocks {p.block} to "
            f"{p.block + self.blocks_per_step - 1}); "
            + (f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint was saved yet")
        )

    # ---- evaluation, logs, saving ----------------------------------------------------------------------------------

    def _evaluation_due(self, epoch_ended: bool) -> bool:
        e, step = self.recipe.evaluation, self.position.step
        since = step - e.best_eval_start_step
        best = e.best_eval_steps is not None and since >= 0 and since % e.best_eval_steps == 0
        return best or epoch_ended or step == self.steps or (e.eval_steps is not None and step % e.eval_steps == 0)

    def _evaluate(self) -> dict[str, Score]:
        return evaluate(
            self.model, self.validation, self.bytes_per_token, accelerator=self.accelerator, dtype=self.dtype,
            batch_size=self.recipe.evaluation.per_device_eval_batch_size, meter=self.meter,
        )  # fmt: skip

    def _judge(self, scores: dict[str, Score]) -> dict[str, Any]:
        """The log's part of an evaluation; noted as best if it is the best so far."""
        p, score = self.position, scores[""]
        row: dict[str, Any] = {
            "eval_loss": score.loss, "eval_ppl": score.perplexity, "bits_per_byte": score.bits_per_byte,
            "corpora": {name: [s.loss, s.bits_per_byte] for name, s in scores.items() if name},
        }  # fmt: skip
        if score.loss < p.best_loss and p.step >= self.recipe.evaluation.best_eval_start_step:
            p.best_loss, p.best_step = score.loss, p.step
            row["note"] = "best"
        return row

    def _row(self, loss: float, norm: float) -> dict[str, Any]:
        p = self.position
        total, steps, seconds = p.sums
        p.sums = [0.0, 0.0, 0.0]
        return {
            "train_loss": total / steps,
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": norm if math.isfinite(norm) else None,
            "loss_scale": self.scaler.get_scale() if self.scaler.is_enabled() else None,
            "tokens_per_s": steps * self.tokens_per_step / seconds,
        }

    def _log(self, row: dict[str, Any], peak_flops: float | None) -> None:
        p = self.position
        row = {
            "step": p.step,
            "epoch": round(p.epoch + p.block / self.blocks.count(p.epoch), 4),
            "tokens": p.tokens,
            **row,
        }
        if self.logs is None:
            return
        if p.skipped:
            row["note"] = f"{row.get('note', '')} {p.skipped} skipped".strip()
        self.logs.add(**row)
        used = row.get("tokens_per_s", 0.0) * flops_per_token(self.config, self.recipe.data.block_size) / self.world
        log.info("%s", logs.line(row, self.steps, used / peak_flops if peak_flops else None))
        if "eval_loss" in row and plot.installed():
            files.write_bytes(self.folder / curves.SVG, curves.svg(self.logs.rows, self.recipe.name).encode())

    def _save(self) -> None:
        """A checkpoint; every process gives its random state, the main one writes."""
        random = gather_object([random_state()])
        self.saved_step = self.position.step
        if self.main:
            state = {
                "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(), "random": random, "position": dict(vars(self.position)),
                "blocks_per_step": self.blocks_per_step, "data": self.shards.folder.name,
            }  # fmt: skip
            saved = checkpoints.save(
                self.folder, self.position.step, state, self.recipe, self.recipe.saving.save_total_limit
            )
            log.info("saved %s", saved)

    def _write_model(self, folder: Path, scores: dict[str, Score], which: str) -> None:
        assert self.logs is not None
        beside = {
            "README.md": card.text(
                self.recipe, self.config, self.shards.summary(), self.position, scores, which=which,
                world=self.world, device=_name(self.device), dtype=self.dtype, counts=self.counts, steps=self.steps,
                figure=plot.installed(),
            ).encode(),
            logs.CSV: files.read_bytes(self.folder / logs.CSV),
        }  # fmt: skip
        if plot.installed():
            beside[curves.SVG] = curves.svg(self.logs.rows, self.recipe.name).encode()
        hf_folder.save(
            folder, self.config, self.model.state_dict(), self.vocabulary, dtype=self.recipe.saving.save_dtype,
            initializer_range=self.recipe.model.initializer_range, add_bos=self.recipe.data.add_bos, beside=beside,
        )  # fmt: skip

    def _say_what(self) -> None:
        if self.main:
            log.info(
                "%s: %s parameters, %s tokens an epoch, %d steps of %s tokens, %s on %d x %s%s",
                self.recipe.name, f"{parameters(self.config):,}", f"{self.blocks.tokens:,.0f}", self.steps,
                f"{self.tokens_per_step:,}", str(self.dtype).removeprefix("torch."), self.world, _name(self.device),
                f", from step {self.position.step}" if self.position.step else "",
            )  # fmt: skip
            if not plot.installed():
                log.info("training curves are not drawn without matplotlib: %s", registry.install_command("plot"))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.get_num_threads()} threads)"
