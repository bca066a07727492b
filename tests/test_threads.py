"""The number of threads: the rule by size, and `auto`, which measures. Time is simulated except in one test."""

import numpy as np
import pytest

from edgekit.errors import CheckpointError, ContextError
from edgekit.inference import threads
from edgekit.inference.runtime import check_forward, check_rewind
from edgekit.inference.threads import (
    Choice,
    best,
    choose,
    choose_threads,
    measure,
    resolve_auto,
    step_seconds,
    weight_bytes,
)
from edgekit.settings import Running
from edgekit.utils import machine


class Clock:
    """A clock that moves only when a test moves it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeRuntime:
    """A runtime whose steps take the time in a table, by number of threads."""

    vocab_size, files = 50, {}

    def __init__(self, clock, costs, threads, context_length=1024):
        self.clock, self.costs, self.threads, self.context_length, self.length = (
            clock,
            costs,
            threads,
            context_length,
            0,
        )

    def forward(self, tokens, *, every=False):
        check_forward(self, tokens)
        self.clock.now += self.costs[self.threads]
        self.length += len(tokens)
        return np.zeros(self.vocab_size, np.float32)

    def rewind(self, length):
        check_rewind(self, length)
        self.length = length


class FlexibleRuntime(FakeRuntime):
    def set_threads(self, threads):
        self.threads = threads


def run_measure(costs, first, cores, *, kind=FakeRuntime):
    """The numbers of threads that were opened, in order, and the measured seconds."""
    clock, opened = Clock(), []

    def open(threads):
        opened.append(threads)
        return kind(clock, costs, threads)

    return opened, measure(open, first, cores, clock=clock)


@pytest.mark.parametrize("costs, first, cores, order, chosen", [
    ({1: 10, 2: 6, 4: 4, 8: 5}, 1, 8, [1, 2, 4, 8], 4),  # up while it pays
    ({1: 10, 2: 12}, 1, 8, [1, 2], 1),
    ({1: 10, 2: 9.7, 4: 1}, 1, 4, [1, 2], 1),  # the gain is too small to continue
    ({1: 4, 2: 5, 4: 7, 8: 9}, 4, 8, [4, 8, 2, 1], 1),  # down while fewer are not slower
    ({2: 5.1, 1: 9, 4: 5, 8: 9}, 4, 8, [4, 8, 2, 1], 2),  # fewer threads where it makes no difference
    ({1: 9, 2: 6, 4: 4, 6: 3}, 2, 6, [2, 4, 6], 6),  # all cores, even if not a power of two
    ({1: 3, 2: 2}, 3, 2, [2, 1], 2),  # the rule names more threads than cores
    ({1: 2, 2: 3}, 0, 2, [1, 2], 1),
])  # fmt: skip
def test_measure_by_cost_tries_in_order_and_chooses_fewest_fast(costs, first, cores, order, chosen):
    opened, seconds = run_measure({n: each / 1e4 for n, each in costs.items()}, first, cores)
    assert opened == order and list(seconds) == order and best(seconds) == chosen
    assert all(seconds[n] == pytest.approx(costs[n] / 1e4) for n in seconds)


def test_measure_slow_model_tries_only_two():
    slow = {1: 4.0, 2: 2.0, 4: 1.0}
    opened, seconds = run_measure(slow, 1, 4)
    assert opened == [1, 2] and best(seconds) == 2


def test_step_seconds_contended_core_stops_after_two_steps():
    clock = Clock()
    fake = FakeRuntime(clock, {2: 4.3}, 2)
    assert step_seconds(fake, clock) == pytest.approx(4.3) and clock.now == pytest.approx(8.6)


def test_measure_many_cores_stays_short():
    clock = Clock()
    measure(lambda n: FakeRuntime(clock, {1: 5e-4, 2: 4e-4, 4: 3e-4, 8: 2e-4, 16: 1e-4}, n), 1, 16, clock=clock)
    assert clock.now < 0.5


def test_measure_runtime_with_set_threads_opens_once():
    opened, seconds = run_measure({1: 1e-3, 2: 6e-4, 4: 4e-4}, 1, 4, kind=FlexibleRuntime)
    assert opened == [1] and best(seconds) == 4


def test_step_seconds_short_context_stays_inside():
    clock = Clock()
    fake = FakeRuntime(clock, {1: 1e-3}, 1, context_length=3)
    assert step_seconds(fake, clock) == pytest.approx(1e-3) and fake.length == 0
    with pytest.raises(ContextError):
        fake.forward([1] * 4)


def test_step_seconds_one_slow_step_is_ignored():
    clock = Clock()

    class Hiccup(FakeRuntime):
        def forward(self, tokens, *, every=False):
            self.clock.now += 0.5 if self.length == 20 else 0
            return super().forward(tokens)

    assert step_seconds(Hiccup(clock, {1: 1e-4}, 1), clock) == pytest.approx(1e-4)


# ---- opening a model ----


@pytest.fixture
def artefact(monkeypatch, tmp_path):
    """A model file on a machine with eight cores."""
    monkeypatch.setattr(threads, "physical_cores", lambda: 8)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"weights")
    return path


class CountingLoad:
    """A plugin's `load` that records the numbers of threads it was called with."""

    def __init__(self):
        self.clock, self.costs, self.threads = Clock(), {1: 9e-4, 2: 5e-4, 4: 6e-4, 8: 9e-4}, []

    def __call__(self, path, running):
        self.threads.append(running.threads)
        return FakeRuntime(self.clock, self.costs, running.threads)


def test_choose_fastest_number_returns_it_with_all_times(artefact):
    load = CountingLoad()
    choice = choose(artefact, Running(), load, clock=load.clock)
    assert choice.threads == 2 and set(choice.seconds) == {1, 2, 4} and load.threads == [1, 2, 4]
    assert choice.seconds[2] == pytest.approx(5e-4)


def test_choose_one_core_opens_nothing(artefact, monkeypatch):
    monkeypatch.setattr(threads, "physical_cores", lambda: 1)
    load = CountingLoad()
    assert choose(artefact, Running(), load, clock=load.clock) == Choice(1, {}) and not load.threads


@pytest.mark.parametrize("number", [None, 5])
def test_resolve_auto_without_auto_measures_nothing(artefact, number):
    load, running = CountingLoad(), Running(threads=number)
    assert resolve_auto(artefact, running, load) is running and not load.threads


def test_resolve_auto_measures_in_each_call(artefact):
    for _ in range(2):
        load = CountingLoad()
        resolved = resolve_auto(artefact, Running(threads="auto", kv_type="f32"), load)
        # By the real clock: any number may be the fastest.
        assert isinstance(resolved.threads, int) and 1 <= resolved.threads <= 8 and len(load.threads) >= 2
        assert resolved.kv_type == "f32"


def test_resolve_auto_missing_model_raises_the_error_of_load(artefact, tmp_path):
    def load(path, running):
        raise CheckpointError(f"cannot read {path}")

    missing = tmp_path / "none.onnx"
    assert resolve_auto(missing, Running(), load).threads is None
    with pytest.raises(CheckpointError, match="cannot read"):
        resolve_auto(missing, Running(threads="auto"), load)


@pytest.mark.parametrize("setting, size, expected", [
    (3, 1 << 40, 3), (None, 0, 1), (None, 1, 1), (None, 16 << 20, 1), (None, (16 << 20) + 1, 2), ("auto", 49 << 20, 4),
    (None, 1 << 40, 4),
])  # fmt: skip
def test_choose_threads_by_weight_bytes(monkeypatch, setting, size, expected):
    monkeypatch.setattr(threads, "physical_cores", lambda: 8)
    assert choose_threads(setting, size) == expected


def test_weight_bytes_folder_counts_safetensors_only(tmp_path):
    for name, size in (("a.safetensors", 5), ("b.safetensors", 7), ("config.json", 100)):
        (tmp_path / name).write_bytes(bytes(size))
    assert weight_bytes(tmp_path) == 12 and weight_bytes(tmp_path / "config.json") == 100
    assert weight_bytes(tmp_path / "none") == 0


def test_cpu_name_on_this_machine_is_not_empty():
    assert machine.cpu_name()
