"""What a run writes into its folder: log rows, curves, checkpoints, and models with their cards."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import gather_object

from edgekit.training import card, checkpoints, curves, hf_folder, logs
from edgekit.training.evaluation import ValidationScore
from edgekit.training.model import flops_per_token, parameters
from edgekit.training.setup import Run
from edgekit.training.speed import peak
from edgekit.training.state import random_state
from edgekit.utils import files, plot, registry

log = logging.getLogger(__name__)


class Output:
    """The folder of a run. Every process has one and calls it at the same points; only the main process writes.

    Args:
        resumed: whether the run's position comes from a checkpoint. Log rows of later steps are dropped: these steps
            are trained again.
    """

    def __init__(self, run: Run, *, resumed: bool):
        self.run, self.folder = run, run.recipe.output
        self.saved_step = run.position.step if resumed else None
        if run.main:
            self.logs = logs.Logs(self.folder, run.position.step)
            self.peak_flops = peak(run.device, run.dtype)

    def announce(self) -> None:
        """Log what is about to be trained."""
        run = self.run
        if not run.main:
            return
        log.info(
            "%s: %s parameters, %s tokens an epoch, %d steps of %s tokens, %s on %d x %s%s",
            run.recipe.name, f"{parameters(run.config):,}", f"{run.blocks.tokens:,.0f}", run.plan.steps,
            f"{run.plan.tokens_per_step:,}", str(run.dtype).removeprefix("torch."), run.world,
            _device_name(run.device), f", from step {run.position.step}" if run.position.step else "",
        )  # fmt: skip
        if not plot.installed():
            log.info("training curves are not drawn without matplotlib: %s", registry.install_command("plot"))

    def add_row(self, values: Mapping[str, Any]) -> None:
        """Add a row of `logs.COLUMNS` at the run's position; redraw the curves if it has an evaluation."""
        run, p = self.run, self.run.position
        if not run.main:
            return
        row = {
            "step": p.step,
            "epoch": round(p.epoch + p.block / run.blocks.count(p.epoch), 4),
            "tokens": p.tokens,
            **values,
        }
        if p.skipped:
            row["note"] = f"{row.get('note', '')} {p.skipped} skipped".strip()
        self.logs.add(**row)
        flops = row.get("tokens_per_s", 0.0) * flops_per_token(run.config, run.recipe.data.block_size) / run.world
        log.info("%s", logs.line(row, run.plan.steps, flops / self.peak_flops if self.peak_flops else None))
        if "eval_loss" in row and plot.installed():
            files.write_bytes(self.folder / curves.SVG, self._curves())

    def add_failure(self, note: str, rate: float) -> None:
        """Add a row for the step that could not be taken."""
        p = self.run.position
        if self.run.main:
            self.logs.add(step=p.step + 1, epoch=p.epoch, tokens=p.tokens, lr=rate, note=note)

    def save_checkpoint(self) -> None:
        """Save the run's state, unless this step is saved already. Raises `FileError`."""
        run, step = self.run, self.run.position.step
        if self.saved_step == step:
            return
        random = gather_object([random_state()])  # of every process
        self.saved_step = step
        if run.main:
            keep = run.recipe.saving.save_total_limit
            log.info("saved %s", checkpoints.save(self.folder, step, run.state(random), run.recipe, keep))

    def save_model(self, name: str, scores: Mapping[str, ValidationScore], which: str) -> None:
        """Write the current weights as a Hugging Face folder with a model card. Raises `FileError`.

        Args:
            name: of the folder, "best" or "model".
            which: completes the card's "these are the weights of ...".
        """
        run, recipe = self.run, self.run.recipe
        if not run.main:
            return
        text = card.text(
            recipe, run.config, run.shards.summary(), run.position, scores, which=which, world=run.world,
            device=_device_name(run.device), dtype=run.dtype, counts=run.float32_parts, steps=run.plan.steps,
            figure=plot.installed(),
        )  # fmt: skip
        other_files = {"README.md": text.encode(), logs.CSV: files.read_bytes(self.folder / logs.CSV)}
        if plot.installed():
            other_files[curves.SVG] = self._curves()
        hf_folder.save(
            self.folder / name, run.config, run.model.state_dict(), run.vocabulary, dtype=recipe.saving.save_dtype,
            initializer_range=recipe.model.initializer_range, add_bos=recipe.data.add_bos, other_files=other_files,
        )  # fmt: skip

    def _curves(self) -> bytes:
        return curves.svg(self.logs.rows, self.run.recipe.name).encode()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.get_num_threads()} threads)"
