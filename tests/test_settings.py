"""Every settings class of the package: its bounds hold in Python, on the command line and in the web form alike."""

import ast
import importlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.cli._options import given as given_flags
from edgekit.cli._options import options
from edgekit.errors import EdgekitError, MissingExtraError, SettingError
from edgekit.settings import LARGEST, Checked, Drafting, Generating, Spec, setting, specs, split
from edgekit.web.validation import SETTINGS, RequestError, checked, ranges

ROOT = Path(__file__).resolve().parents[1]


def settings_files() -> list[Path]:
    """The files that define a subclass of `Checked`."""
    files = [path for top in ("edgekit", "training") for path in sorted((ROOT / top).rglob("*.py"))]
    return [path for path in files if "(Checked)" in path.read_text(encoding="utf-8")]


def classes() -> list[type]:
    found = []
    for path in settings_files():
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts if parts[0] == "edgekit" else ("edgekit", *parts))
        try:
            loaded = importlib.import_module(name)
        except (MissingExtraError, ModuleNotFoundError):
            continue
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found += [getattr(loaded, node.name) for node in nodes if isinstance(node, ast.ClassDef) and node.bases]
    return sorted({cls for cls in found if issubclass(cls, Checked)}, key=lambda cls: (cls.__module__, cls.__name__))


CLASSES = classes()
ALL = [pytest.param(cls, spec, id=f"{cls.__name__}.{spec.name}") for cls in CLASSES for spec in specs(cls).values()]
NUMBERS = [case for case in ALL if case.values[1].kind in (int, float)]
FLAGS = [case for case in ALL if case.values[1].flag and ".training." not in case.values[0].__module__]
"""Recipes are read from TOML and have no flags."""


def below(spec: Spec, bound: float) -> float:
    return bound - 1 if spec.kind is int else math.nextafter(bound, -math.inf)


def above(spec: Spec, bound: float) -> float:
    return bound + 1 if spec.kind is int else math.nextafter(bound, math.inf)


def inside_and_outside(spec: Spec) -> tuple[list[float], list[float]]:
    """Numbers at the bounds and next to them: those that are accepted, and those that are not."""
    inside: list[float] = []
    outside: list[float] = []
    if spec.ge is not None:
        inside, outside = [*inside, spec.ge], [*outside, below(spec, spec.ge)]
    if spec.le is not None:
        inside, outside = [*inside, spec.le], [*outside, above(spec, spec.le)]
    if spec.gt is not None:
        inside, outside = [*inside, above(spec, spec.gt)], [*outside, spec.gt]
    if spec.lt is not None:
        inside, outside = [*inside, below(spec, spec.lt)], [*outside, spec.lt]
    return inside, outside


def value_of(spec: Spec, number: float) -> object:
    """A number as the value of its setting; a tuple has as many as the default, so that fixed lengths fit."""
    return (number,) * max(1, len(spec.default)) if spec.many else number


@dataclass(frozen=True)
class Example(Checked):
    whole: int = setting(1, "...", ge=0)
    share: float = setting(0.5, "...", gt=0, le=1)
    decay: float = setting(0.5, "...", ge=0, lt=1)
    most: float = setting(1, "...", le=8)
    less: float = setting(1, "...", lt=8)
    any: float = setting(1, "...")
    lengths: tuple[int, ...] = setting((1,), "...", ge=1, le=64)
    threads: int | str = setting("auto", "...", ge=1, words=("auto",))
    mode: str = setting("a", "...", choices=("a", "b", "c"))
    verbose: bool = setting(False, "...")


def test_range_each_combination_is_a_plain_phrase():
    assert {name: spec.range for name, spec in specs(Example).items()} == {
        "whole": "a whole number of at least 0",
        "share": "a number above 0 and at most 1",
        "decay": "a number of at least 0 and below 1",
        "most": "a number of at most 8",
        "less": "a number below 8",
        "any": "a number",
        "lengths": "whole numbers from 1 to 64",
        "threads": "a whole number of at least 1, or `auto`",
        "mode": "a, b or c",
        "verbose": "true or false",
    }


def test_classes_of_every_folder_are_found():
    names = {cls.__name__ for cls in CLASSES}
    assert {"Sampling", "Generating", "Drafting", "Running", "Converting", "Choosing"} <= names
    assert {"Verifying", "Measuring", "Judging", "Benching", "VocabTraining", "Serving", "Optimizer"} <= names


@pytest.mark.parametrize("cls, spec", ALL)
def test_default_is_accepted(cls, spec):
    spec.validate(spec.default)
    assert spec.help and spec.range


@pytest.mark.parametrize("cls, spec", ALL)
def test_none_is_accepted_only_where_the_annotation_has_it(cls, spec):
    assert spec.accepts(None) is spec.optional


@pytest.mark.parametrize("cls, spec", NUMBERS)
def test_number_at_its_bound_is_accepted_and_outside_is_refused(cls, spec):
    inside, outside = inside_and_outside(spec)
    for number in inside:
        spec.validate(value_of(spec, number))
    for number in outside:
        value = value_of(spec, number)
        with pytest.raises(SettingError) as caught:
            cls(**{spec.name: value})
        assert str(caught.value) == f"{spec.name} must be {spec.range}, not {value!r}"
        for bound in (spec.ge, spec.gt, spec.le, spec.lt):
            assert bound is None or (str(bound) if bound != LARGEST else "2^63") in spec.range


@pytest.mark.parametrize("cls, spec", NUMBERS)
def test_number_refuses_what_is_not_a_finite_number(cls, spec):
    for wrong in (True, "many", math.nan, math.inf, -math.inf, 10**400, -(10**400), [], 2 + 1j):
        with pytest.raises(SettingError, match=f"^{spec.name} must be "):
            cls(**{spec.name: value_of(spec, wrong)})


@pytest.mark.parametrize("cls, spec", [case for case in NUMBERS if case.values[1].kind is int])
def test_whole_number_refuses_fractions_and_more_than_64_bits(cls, spec):
    for wrong in (1.5, 1.0, LARGEST + 1):
        with pytest.raises(SettingError, match=f"^{spec.name} must be "):
            cls(**{spec.name: value_of(spec, wrong)})


@pytest.mark.parametrize("cls, spec", [case for case in ALL if case.values[1].choices])
def test_choice_is_accepted_and_anything_else_refused(cls, spec):
    for choice in spec.choices:
        spec.validate((choice,) if spec.many else choice)
    for wrong in ("nonsense", "", spec.choices[0].upper(), 1, True):
        with pytest.raises(SettingError, match=f"^{spec.name} must be .*{spec.choices[-1]}, not "):
            cls(**{spec.name: (wrong,) if spec.many else wrong})


@pytest.mark.parametrize("cls, spec", [case for case in ALL if case.values[1].kind in (bool, str)])
def test_flag_and_text_refuse_another_type(cls, spec):
    for wrong in (1, 0.5, b"left", object()):
        with pytest.raises(SettingError, match=f"^{spec.name} must be "):
            cls(**{spec.name: (wrong,) if spec.many else wrong})


def flag_of(cls: type, spec: Spec, text: str) -> tuple[int, str, object]:
    """Exit status, output, and the value that a command with the flags of `cls` receives."""
    received: dict[str, object] = {}

    @click.command()
    @options(cls)
    def command(**values):
        received.update(given_flags(cls, values))

    result = CliRunner().invoke(command, [f"--{spec.name.replace('_', '-')}={text}"])
    if isinstance(result.exception, EdgekitError):
        return result.exception.exit_code, str(result.exception), None
    return result.exit_code, result.output, received.get(spec.name)


@pytest.mark.parametrize("cls, spec", [case for case in FLAGS if case in NUMBERS])
def test_number_on_the_command_line_has_the_same_bounds(cls, spec):
    inside, outside = inside_and_outside(spec)
    for number in inside:
        status, output, value = flag_of(cls, spec, repr(number))
        assert (status, output, value) == (0, "", (number,) if spec.many else number)
    for number in outside:
        value = (number,) if spec.many else spec.kind(number)
        assert flag_of(cls, spec, repr(number)) == (2, f"{spec.name} must be {spec.range}, not {value!r}", None)


@pytest.mark.parametrize("cls, spec", [case for case in FLAGS if case.values[1].choices])
def test_choice_on_the_command_line_has_the_same_values(cls, spec):
    for choice in spec.choices:
        assert flag_of(cls, spec, choice) == (0, "", choice)
    assert flag_of(cls, spec, "nonsense")[0] == 2


@pytest.mark.parametrize("cls, spec", [case for case in FLAGS if case.values[1].words])
def test_word_instead_of_a_number_is_accepted(cls, spec):
    for word in spec.words:
        expected = (word,) if spec.many else word
        cls(**{spec.name: expected})
        assert f"`{word}`" in spec.range and flag_of(cls, spec, word) == (0, "", expected)


@pytest.mark.parametrize("name", SETTINGS)
def test_web_form_has_the_same_bounds(name):
    spec, bounds = specs(Generating)[name], ranges()[name]
    inside, outside = inside_and_outside(spec) if spec.kind in (int, float) else ([], [])
    assert bounds["minimum"] == (spec.gt if spec.ge is None else spec.ge) and bounds["maximum"] == spec.le
    for number in inside:
        assert checked(name, number, "field") == number
        assert bounds["minimum"] is None or number >= bounds["minimum"]
        assert bounds["maximum"] is None or number <= bounds["maximum"]
    for number in outside:
        with pytest.raises(RequestError, match=re.escape(f"field must be {spec.range}, not ")):
            checked(name, number, "field")
        low = number < bounds["minimum"] or (bounds["above"] and number == bounds["minimum"])
        assert low or number > bounds["maximum"]


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none(), st.lists(st.text(max_size=3))))
@settings(max_examples=300, deadline=None)
def test_python_and_web_accept_the_same_json_values(value):
    for name in SETTINGS:
        if value is None or name == "stop":  # null is "not given" in JSON, and one stop may be a text
            continue
        try:
            Generating(**{name: value})
        except SettingError as error:
            with pytest.raises(RequestError) as caught:
                checked(name, value, name)
            assert str(caught.value).startswith(str(error).partition(", not ")[0] + ", not ")
        else:
            assert checked(name, value, name) == specs(Generating)[name].kind(value)


def test_split_sorts_by_class_and_refuses_unknown_names():
    generating, drafting = split({"draft_tokens": 3, "top_k": 4, "seed": 1}, Generating, Drafting)
    assert generating == {"top_k": 4, "seed": 1} and drafting == {"draft_tokens": 3}
    with pytest.raises(SettingError, match="^unknown setting 'topk': choose from bad_words_ids, .*, truncate$"):
        split({"topk": 4}, Generating)


def test_settings_of_two_objects_share_no_dict():
    one, other = Generating(), Generating()
    one.logit_bias[3] = 1.0
    assert other.logit_bias == {} == Generating().logit_bias
