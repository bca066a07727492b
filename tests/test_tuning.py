"""Threads by measurement: what is tried, what is chosen, and what is remembered. No test depends on real time."""

import dataclasses
import json

import numpy as np
import pytest

from edgekit.conversion import cache
from edgekit.errors import CheckpointError, ContextError
from edgekit.inference import threads as tuning
from edgekit.inference.runtime import check_forward, check_rewind
from edgekit.inference.threads import Choice, best, choose, measure, remembered, settled, step_seconds
from edgekit.settings import Running


class Clock:
    """Stands still until something takes its time."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A runtime whose steps take as long as a table says, by number of threads."""

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


class Flexible(Fake):
    def set_threads(self, threads):
        self.threads = threads


def tried(costs, first, cores, *, kind=Fake, load=0.0):
    """The numbers of threads that were opened, in order, and what was measured."""
    clock, opened = Clock(), []

    def open(threads):
        opened.append(threads)
        clock.now += load
        return kind(clock, costs, threads)

    return opened, measure(open, first, cores, clock=clock)


@pytest.mark.parametrize("costs, first, cores, order, chosen", [
    ({1: 10, 2: 6, 4: 4, 8: 5}, 1, 8, [1, 2, 4, 8], 4),  # up while it pays
    ({1: 10, 2: 12}, 1, 8, [1, 2], 1),
    ({1: 10, 2: 9.7, 4: 1}, 1, 4, [1, 2], 1),  # too little gain to go on for
    ({1: 4, 2: 5, 4: 7, 8: 9}, 4, 8, [4, 8, 2, 1], 1),  # down while it does not hurt
    ({2: 5.1, 1: 9, 4: 5, 8: 9}, 4, 8, [4, 8, 2, 1], 2),  # fewer threads where it makes no difference
    ({1: 9, 2: 6, 4: 4, 6: 3}, 2, 6, [2, 4, 6], 6),  # the cores themselves, power of two or not
    ({1: 3, 2: 2}, 3, 2, [2, 1], 2),  # a rule that knew of more cores
    ({1: 2, 2: 3}, 0, 2, [1, 2], 1),
])  # fmt: skip
def test_climbing(costs, first, cores, order, chosen):
    opened, seconds = tried({n: each / 1e4 for n, each in costs.items()}, first, cores)
    assert opened == order and list(seconds) == order and best(seconds) == chosen
    assert all(seconds[n] == pytest.approx(costs[n] / 1e4) for n in seconds)


def test_a_slow_model_gets_two_tries_and_no_third():
    slow = {1: 4.0, 2: 2.0, 4: 1.0}
    opened, seconds = tried(slow, 1, 4)
    assert opened == [1, 2] and best(seconds) == 2


def test_threads_that_fight_for_a_core_are_left_alone_soon():
    clock = Clock()
    fake = Fake(clock, {2: 4.3}, 2)
    assert step_seconds(fake, clock) == pytest.approx(4.3) and clock.now == pytest.approx(8.6)


def test_measuring_stays_short():
    clock = Clock()
    measure(lambda n: Fake(clock, {1: 5e-4, 2: 4e-4, 4: 3e-4, 8: 2e-4, 16: 1e-4}, n), 1, 16, clock=clock)
    assert clock.now < 0.5


def test_a_runtime_that_can_change_its_threads_is_opened_once():
    opened, seconds = tried({1: 1e-3, 2: 6e-4, 4: 4e-4}, 1, 4, kind=Flexible)
    assert opened == [1] and best(seconds) == 4


def test_steps_stay_inside_a_short_context():
    clock = Clock()
    fake = Fake(clock, {1: 1e-3}, 1, context_length=3)
    assert step_seconds(fake, clock) == pytest.approx(1e-3) and fake.length == 0
    with pytest.raises(ContextError):
        fake.forward([1] * 4)


def test_the_median_forgives_a_hiccup():
    clock = Clock()

    class Hiccup(Fake):
        def forward(self, tokens, *, every=False):
            self.clock.now += 0.5 if self.length == 20 else 0
            return super().forward(tokens)

    assert step_seconds(Hiccup(clock, {1: 1e-4}, 1), clock) == pytest.approx(1e-4)


# ---- what is remembered ----


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eight cores, a CPU with a name, a cache folder of its own, and a model file."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "physical_cores", lambda: 8)
    monkeypatch.setattr(tuning, "cpu", lambda: "Some CPU")
    model = tmp_path / "m.onnx"
    model.write_bytes(b"weights")
    return model


class Loads:
    """A runtime's `load` that counts."""

    def __init__(self, costs=None):
        self.clock, self.costs, self.threads = Clock(), costs or {1: 9e-4, 2: 5e-4, 4: 6e-4, 8: 9e-4}, []

    def __call__(self, path, running):
        self.threads.append(running.threads)
        return Fake(self.clock, self.costs, running.threads)


def chosen(model, loads, running=Running()) -> Choice:  # noqa: B008
    return choose(model, "onnx", running, loads, clock=loads.clock)


def test_a_choice_is_remembered_for_this_file_runtime_and_machine(machine, monkeypatch):
    assert remembered(machine, "onnx", Running()) is None
    found = chosen(machine, Loads())
    assert found.threads == 2 and set(found.seconds) == {1, 2, 4}
    assert remembered(machine, "onnx", Running()) == 2
    assert remembered(machine, "torch", Running()) is None
    assert remembered(machine, "onnx", Running(kv_type="f32")) is None, "another setting, another speed"
    assert remembered(machine, "onnx", Running(threads=7)) == 2, "what was asked for is no part of the key"
    monkeypatch.setattr(tuning, "cpu", lambda: "Another CPU")
    assert remembered(machine, "onnx", Running()) is None


def test_a_changed_model_or_machine_is_measured_anew(machine, monkeypatch):
    chosen(machine, Loads())
    with monkeypatch.context() as less:
        less.setattr(tuning, "physical_cores", lambda: 4)
        assert remembered(machine, "onnx", Running()) is None
    with monkeypatch.context() as newer:
        newer.setattr(tuning, "__version__", "9")
        assert remembered(machine, "onnx", Running()) is None
    machine.write_bytes(b"WEIGHTS")
    assert remembered(machine, "onnx", Running()) is None


def test_the_path_is_no_part_of_the_key(machine, tmp_path):
    chosen(machine, Loads())
    assert remembered(machine.rename(tmp_path / "moved.onnx"), "onnx", Running()) == 2


def test_a_folder_is_known_by_its_weights(machine, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"a")
    assert chosen(folder, Loads()).threads == remembered(folder, "onnx", Running()) == 2
    (folder / "notes.txt").write_text("of no weight")
    assert remembered(folder, "onnx", Running()) == 2
    (folder / "model.safetensors").write_bytes(b"b and more")
    assert remembered(folder, "onnx", Running()) is None


@pytest.mark.parametrize("content", [
    b"", b"{", b"\xff\xfe", b"[]", b"3", b"null", b'"x"', b'{"threads": null}', b'{"threads": "2"}', b'{"threads": 0}',
    b'{"threads": true}', b'{"threads": 2.0}', b'{"threads": 9}', b'{"threads": -1}', b"[" * 100_000,
])  # fmt: skip
def test_a_damaged_cache_file_is_ignored(machine, content):
    chosen(machine, Loads())
    (kept,) = tuning.folder().iterdir()
    kept.write_bytes(content)
    assert remembered(machine, "onnx", Running()) is None
    assert chosen(machine, Loads()).threads == remembered(machine, "onnx", Running()) == 2


def test_what_is_kept_says_what_it_is(machine):
    chosen(machine, Loads())
    (kept,) = tuning.folder().iterdir()  # no temporary file is left beside it
    record = json.loads(kept.read_bytes())
    assert record["threads"] == 2 and record["model"] == "m.onnx" and record["runtime"] == "onnx"
    assert record["seconds"]["2"] == pytest.approx(5e-4)


def test_a_cache_that_cannot_be_written_does_no_harm(machine, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    assert chosen(machine, Loads()).threads == 2
    assert remembered(machine, "onnx", Running()) is None


def test_one_core_needs_no_measurement(machine, monkeypatch):
    monkeypatch.setattr(tuning, "physical_cores", lambda: 1)
    loads = Loads()
    assert chosen(machine, loads) == Choice(1) and not loads.threads


# ---- opening a model ----


def auto() -> Running:
    running = Running()
    object.__setattr__(running, "threads", "auto")
    return running


def test_a_number_wins(machine):
    chosen(machine, Loads())
    loads = Loads()
    assert settled(machine, "onnx", Running(threads=5), loads).threads == 5 and not loads.threads


def test_nothing_is_measured_unasked(machine, monkeypatch):
    loads = Loads()
    with monkeypatch.context() as fresh:
        fresh.setattr(tuning, "key", None)  # where nothing was ever measured, nothing is even read
        assert settled(machine, "onnx", Running(), loads).threads is None
    chosen(machine, Loads())
    assert settled(machine, "onnx", Running(kv_type="f32"), loads).threads is None
    found = settled(machine, "onnx", Running(), loads)
    assert found == dataclasses.replace(Running(), threads=2) and not loads.threads


def test_auto_measures_once(machine):
    loads = Loads()
    found = settled(machine, "onnx", auto(), loads)  # by the real clock: any number may come out
    assert isinstance(found.threads, int) and 1 <= found.threads <= 8 and len(loads.threads) >= 2
    again = Loads()
    assert settled(machine, "onnx", auto(), again) == found and not again.threads


def test_a_model_that_is_not_there_is_said_by_its_runtime(machine, tmp_path):
    def load(path, running):
        raise CheckpointError(f"cannot read {path}")

    assert settled(tmp_path / "none.onnx", "onnx", Running(), load).threads is None
    with pytest.raises(CheckpointError, match="cannot read"):
        settled(tmp_path / "none.onnx", "onnx", auto(), load)


@pytest.mark.parametrize(
    "environment", [{}, {"EDGEKIT_CACHE": "/a"}, {"XDG_CACHE_HOME": "/b"}, {"XDG_CACHE_HOME": " "}]
)
def test_choices_lie_beside_the_converted_models(monkeypatch, environment):
    for name in ("EDGEKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tuning.folder() == cache.folder().parent / "threads"


def test_this_machine_has_a_name():
    assert tuning.cpu_name() and tuning.cpu()
