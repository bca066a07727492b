"""The verb `doctor`: what is unusual about a model, what other tools will do with it, and how to fix it.

No model is run: files are mapped and examined tensor by tensor, without torch or a runtime, so that models of any size
can be examined on any machine. (An `.onnx` file is parsed by the package `onnx`.) The checks are in the modules of
`TOPICS`, one small function each; `checks.py` explains how to add one.
"""

import dataclasses
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.doctor import chat, config, files, gguf, onnx, tokens, weights
from edgekit.doctor.case import Case, open_case
from edgekit.doctor.checks import CHECKS
from edgekit.doctor.finding import LEVELS, Finding, counted, error
from edgekit.errors import EdgekitError
from edgekit.utils.guard import reading

TOPICS = (files, weights, config, tokens, chat, gguf, onnx)
"""The order of findings within a level."""

# Checks that explain why edgekit refuses a configuration, in more detail than the error message itself.
EXPLAIN = ("other-architecture", "unsupported-keys", "unsupported-gguf-keys", "ids-out-of-range", "damaged-json",
           "missing-tensors")  # fmt: skip

WIDTH = 110


@dataclass(frozen=True)
class Examination:
    """The result of `examine`, errors first."""

    path: Path
    name: str
    format: str
    findings: list[Finding]

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.findings)

    @property
    def usable(self) -> bool:
        """Whether edgekit can use the model: no finding is an error."""
        return not self.count("error")

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": str(self.path),
            "name": self.name,
            "format": self.format,
            "usable": self.usable,
            **{f"{level}s": self.count(level) for level in LEVELS},
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }


def examine(path: Path) -> Examination:
    """Examine a model folder, a `.gguf` or a `.onnx`.

    A damaged or foreign model is not an exception but a finding.

    Raises:
        CheckpointError: `path` is none of these.
        FileError: the system cannot read it.
        MissingExtraError: a `.onnx` without the package `onnx`.
    """
    with reading(path):
        case = open_case(path)
    findings = [dataclasses.replace(finding, name="unreadable") for finding in case.trouble]
    topics = {topic.__name__: place for place, topic in enumerate(TOPICS)}
    for name, kinds, function in sorted(CHECKS, key=lambda c: topics.get(c.function.__module__, len(topics))):
        if case.kind not in kinds:
            continue
        try:
            with reading(case.path):
                results = list(function(case))
        except EdgekitError as reason:  # a part that the check needed and could not read
            results = [error(str(reason), "edgekit refuses the model", "repair that part")]
        findings += [dataclasses.replace(finding, name=name) for finding in results]
    with reading(path):
        findings += _unexplained(case, findings)
    ordered = sorted(findings, key=lambda finding: LEVELS.index(finding.level))
    return Examination(case.path, case.name, case.format, ordered)


def _unexplained(case: Case, findings: list[Finding]) -> list[Finding]:
    """edgekit's own reason to refuse the configuration, if no check has explained it."""
    if not case.refusal or any(finding.level == "error" and finding.name in EXPLAIN for finding in findings):
        return []
    refusal = error(case.refusal, "edgekit refuses the model", "repair the configuration")
    return [dataclasses.replace(refusal, name="refused")]


def report(examination: Examination) -> str:
    """The findings as text."""
    lines = [f"{examination.name} · {examination.format}"]
    for finding in examination.findings:
        lines.append("")
        lines += _wrapped(f"{finding.level:<9}", finding.what)
        lines += _wrapped(" " * 9 + "so: ", finding.consequence)
        if finding.cure:
            lines += _wrapped(" " * 9 + "fix: ", finding.cure)
    counts = ", ".join(counted(n, level) for level in LEVELS if (n := examination.count(level)))
    return "\n".join([*lines, "", counts or "nothing unusual"])


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_long_words=False
    )
