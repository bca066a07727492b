"""The engine's own test programs, which `make -C engine test` runs with more rounds."""

import subprocess

import pytest
from engine_build import ENGINE, make


def run(program: str, *arguments: str) -> str:
    make(f"build/{program}")
    done = subprocess.run(
        [ENGINE / "build" / program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.parametrize("program", ["arithmetic", "kernels"])
def test_program_passes(program):
    run(program)


# The sources are compiled once more, with the sanitizers: half a minute.
@pytest.mark.slow
def test_damaged_files_under_sanitizers_are_refused_or_run():
    assert "1500 damaged files" in run("checked/fuzz", "1500", "7")


@pytest.mark.slow
def test_sampler_and_masks_under_sanitizers_stay_in_their_blocks():
    assert "1500 texts, 300 vocabularies" in run("checked/sampler")
