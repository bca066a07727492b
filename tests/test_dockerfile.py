"""The Dockerfile, without Docker: its image has every package that the server imports, and no other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCKERFILE = (Path(__file__).resolve().parents[1] / "Dockerfile").read_text()

IMPORTED = """
import sys, edgekit.web.app, edgekit.web.server, edgekit.web.models, edgekit.tokenizers.render, platformdirs
import edgekit.runtimes.native, edgekit.cli.serve
files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
print(*{name.partition(".")[0] for name, file in files.items() if "-packages" in file})
"""


def copied() -> set[str]:
    """The packages that the last stage gets, by the names that Python imports."""
    command = re.search(r"RUN cp -r (.*?) /image", DOCKERFILE.replace("\\\n", ""))[1]
    return {name.removesuffix(".py") for name in command.split() if "*" not in name}


def test_image_has_the_packages_that_the_server_imports():
    pytest.importorskip("starlette", reason="needs starlette: pip install 'edgekit-lm[serve]'")
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = {
        name for name in done.stdout.split() if not name.startswith(("_", "zz_")) and not name.endswith("finder")
    }
    elsewhere = {"numpy", "sniffio"}  # Debian's, and a package of older versions of anyio
    assert imported - elsewhere - copied() == set()
    assert copied() <= imported | {"edgekit", "h11", "idna", "anyio"}


def test_image_runs_as_another_user_and_answers_to_health():
    lines = DOCKERFILE.splitlines()
    assert "USER 65534:65534" in lines[lines.index("FROM scratch") :]
    assert "/health" in next(line for line in lines if line.startswith("HEALTHCHECK"))
