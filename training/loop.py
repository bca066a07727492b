"""The training loop: one optimizer step after another, evaluated, saved, and resumable at each of them.

    result = train(load("smoke"))

Every process of `accelerate launch` runs it. A step takes the next blocks of the epoch in order; process r takes the
r-th part of each forward pass, so the gradient is the same for any number of processes.
"""

import contextlib
import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgekit.errors import TrainingError
from edgekit.training import card, checkpoints, interrupts, precision, setup
from edgekit.training.evaluation import ValidationScore
from edgekit.training.progress import Meter, silent
from edgekit.training.saving import Output
from edgekit.training.schedule import factor
from edgekit.training.sections import Recipe
from edgekit.training.setup import Run
from edgekit.training.state import Position

log = logging.getLogger(__name__)

LOWEST_SCALE = 2.0**-14
"""With a loss scale below this, gradients overflow because of their own size: a lower scale does not help."""


@dataclass(frozen=True)
class Result:
    folder: Path
    position: Position
    scores: dict[str, ValidationScore]
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
    """Train a recipe to its end, from the run's last checkpoint if there is one.

    Writes into `recipe.output`: checkpoints/, best/ and model/ (Hugging Face folders with a card), training_curves.csv
    and training_log.jsonl, and training_curves.svg if matplotlib is installed.

    Args:
        fresh: delete what an earlier run left in the folder, and start over.
        extend: continue although the recipe has another length, learning rate, schedule or text than the run had so
            far; other text is read from its beginning.
        stop_at: save and stop after this optimizer step, as if interrupted.
        meter: reports progress; called by the main process only.

    Raises:
        RecipeError, DataError: the recipe or its text cannot be trained on.
        TrainingError: the loss or the gradient is not finite, or the folder belongs to another recipe or is in use.
        FileError: the disk is full or not writable; the last checkpoint is whole.
    """
    first_process = os.environ.get("RANK", "0") == "0"
    with checkpoints.lock(recipe.output) if first_process else contextlib.nullcontext():
        run = setup.build(recipe, meter)
        resumed = setup.resume(run, fresh=fresh, extend=extend)
        loop = Loop(run, Output(run, resumed=resumed))
        with interrupts.on_signal(loop.interrupt):
            return loop.run_until(stop_at)


@dataclass(frozen=True)
class Step:
    """What one optimizer step reports, the same in every process."""

    loss: float
    gradient_norm: float
    save_due: bool
    """Some process wants a checkpoint now."""


class Loop:
    """Takes the steps of a run and decides when to evaluate, log, save and stop."""

    def __init__(self, run: Run, output: Output):
        self.run, self.output = run, output
        self.signalled = False
        """This process has received a signal."""
        self.stopping = False
        """Some process has: all of them stop after this step."""

    def interrupt(self) -> None:
        """Stop after the current step, with a checkpoint."""
        self.signalled = True

    def run_until(self, stop_at: int | None = None) -> Result:
        """Take steps to the run's end, to `stop_at` or to an interrupt, and save."""
        run, output, p, last = self.run, self.output, self.run.position, self.run.plan.steps
        saving = run.recipe.saving
        output.announce()
        started, last_save, first_step = time.monotonic() - p.seconds, time.monotonic(), p.step
        scores: dict[str, ValidationScore] = {}
        while p.step < last and not self.stopping and (stop_at is None or p.step < stop_at):
            before = time.monotonic()
            step = self._step(save_due=before - last_save > 60 * saving.save_every_minutes)
            p.sums = [p.sums[0] + step.loss, p.sums[1] + 1, p.sums[2] + time.monotonic() - before]
            row = self._training_row(step) if p.step % saving.logging_steps == 0 or p.step == last else {}
            if run.validation and self._evaluation_due():
                scores = run.evaluate()
                row |= self._evaluation_row(scores)
            p.seconds = time.monotonic() - started
            if row:
                output.add_row(row)
            if row.get("note") == "best":
                output.save_model("best", scores, f"the best validation loss, step {p.step}")
            speed = run.plan.tokens_per_step / (time.monotonic() - before)
            run.meter("training", p.step, last, "steps", f"loss {step.loss:.3f} · {speed:,.0f} tokens/s")
            if step.save_due or (saving.save_steps and p.step % saving.save_steps == 0):
                output.save_checkpoint()
                last_save = time.monotonic()
        p.seconds = time.monotonic() - started
        output.save_checkpoint()
        finished = p.step >= last
        if finished and first_step == last and (output.folder / "model").is_dir():
            log.info("%s is finished already: --fresh trains it again", output.folder)
        elif finished:
            scores = scores or run.evaluate()
            output.save_model("model", scores, "the last step")
            if run.main:
                log.info("%s: step %d, %s", output.folder / "model", p.step, card.brief(scores))
        else:
            log.info("stopped at step %d of %d: the same command continues from here", p.step, last)
        run.accelerator.wait_for_everyone()
        return Result(output.folder, p, scores, finished)

    def _step(self, *, save_due: bool) -> Step:
        """One optimizer step, with the position moved past it. Raises `TrainingError` if it is not finite."""
        run, accelerator, scaler = self.run, self.run.accelerator, self.run.scaler
        passes, p = run.recipe.training.gradient_accumulation_steps, run.position
        rate = run.recipe.optimizer.learning_rate * factor(run.recipe.schedule, p.step, run.plan.schedule_steps)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        loss_sum = torch.zeros((), device=run.device)
        for micro in range(passes):
            ids = run.batch(micro)
            # Gradients are exchanged in the last pass only.
            with contextlib.nullcontext() if micro == passes - 1 else accelerator.no_sync(run.parallel):
                with precision.autocast(run.device, run.dtype):
                    loss = run.parallel(ids) / passes
                scaler.scale(loss).backward()
            loss_sum += loss.detach()
        scaler.unscale_(run.optimizer)
        limit = run.recipe.optimizer.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), limit)
        # One exchange per step: the loss, and whether any process wants to save or to stop.
        flags = torch.tensor([save_due, self.signalled]).double().to(run.device)
        sums = accelerator.reduce(torch.stack([loss_sum.double(), norm.double(), *flags]), "sum")
        losses, norms, saving, stopping = sums.tolist()
        step = Step(losses / run.world, norms / run.world, saving > 0)
        self.stopping = stopping > 0
        overflowed = scaler.is_enabled() and not math.isfinite(step.gradient_norm)
        skippable = overflowed and scaler.get_scale() >= LOWEST_SCALE
        if not math.isfinite(step.loss) or (not math.isfinite(step.gradient_norm) and not skippable):
            self._fail(step, rate)
        scaler.step(run.optimizer)
        scaler.update()
        run.optimizer.zero_grad(set_to_none=True)
        p.skipped += overflowed
        run.advance()
        return step

    def _fail(self, step: Step, rate: float) -> None:
        run, p, saved = self.run, self.run.position, checkpoints.folders(self.output.folder)
        what, value = ("loss", step.loss) if not math.isfinite(step.loss) else ("gradient norm", step.gradient_norm)
        self.output.add_failure(f"stopped: {what} not finite", rate)
        raise TrainingError(
            f"step {p.step + 1}: the {what} is {value} (loss {step.loss:.4g}, gradient norm {step.gradient_norm:.4g}, "
            f"learning rate {rate:.3g}, loss scale {run.scaler.get_scale():g}, epoch {p.epoch}, blocks {p.block} to "
            f"{p.block + run.plan.blocks_per_step - 1}); "
            + (f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved yet")
        )

    def _evaluation_due(self) -> bool:
        e, p = self.run.recipe.evaluation, self.run.position
        since = p.step - e.best_eval_start_step
        best = e.best_eval_steps is not None and since >= 0 and since % e.best_eval_steps == 0
        regular = e.eval_steps is not None and p.step % e.eval_steps == 0
        epoch_ended = p.block == 0
        return best or regular or epoch_ended or p.step == self.run.plan.steps

    def _training_row(self, step: Step) -> dict[str, Any]:
        """The log's values since its last row."""
        run, p = self.run, self.run.position
        loss_sum, steps, seconds = p.sums
        p.sums = [0.0, 0.0, 0.0]
        return {
            "train_loss": loss_sum / steps,
            "lr": run.optimizer.param_groups[0]["lr"],
            "grad_norm": step.gradient_norm if math.isfinite(step.gradient_norm) else None,
            "loss_scale": run.scaler.get_scale() if run.scaler.is_enabled() else None,
            "tokens_per_s": steps * run.plan.tokens_per_step / seconds,
        }

    def _evaluation_row(self, scores: dict[str, ValidationScore]) -> dict[str, Any]:
        """The log's values of an evaluation, with the note "best" if it is the best so far."""
        p, score = self.run.position, scores[""]
        row: dict[str, Any] = {
            "eval_loss": score.loss, "eval_ppl": score.perplexity, "bits_per_byte": score.bits_per_byte,
            "corpora": {name: [s.loss, s.bits_per_byte] for name, s in scores.items() if name},
        }  # fmt: skip
        if score.loss < p.best_loss and p.step >= self.run.recipe.evaluation.best_eval_start_step:
            p.best_loss, p.best_step = score.loss, p.step
            row["note"] = "best"
        return row
