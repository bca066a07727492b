"""The verb `doctor`: what is unusual in a model, what other tools will do with it, and the cure.

Nothing is run and nothing is loaded: files are mapped and looked at, tensor by tensor, so that a model of any size
can be examined on any machine, without torch, onnx or a runtime. What is looked for stands in the files of `TOPICS`,
one small function each; `finding.py` says how to add one.
"""

import dataclasses
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.doctor import config, files, gguf, onnx, tokens, weights
from edgekit.doctor.case import Case, open_case
from edgekit.doctor.checks import CHECKS
from edgekit.doctor.finding import LEVELS, Finding, counted, error
from edgekit.errors import EdgekitError

TOPICS = (files, weights, config, tokens, gguf, onnx)
"""Within a level, findings are shown in this order."""

# Checks that explain why edgekit refuses a configuration, each better than edgekit's own one line does.
EXPLAIN = ("other-architecture", "unsupported-keys", "unsupported-gguf-keys", "ids-out-of-range", "damaged-json",
           "missing-tensors")  # fmt: skip

WIDTH = 110


@dataclass(frozen=True)
class Examination:
    """What the doctor found, errors first."""

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
    """Look at a model folder, a `.gguf` or a `.onnx`.

    A damaged or foreign model is no exception but a finding.

    Raises:
        CheckpointError: `path` is none of these.
        FileError: the system cannot read it.
    """
    case = open_case(path)
    findings = [dataclasses.replace(finding, name="unreadable") for finding in case.trouble]
    topics = {topic.__name__: place for place, topic in enumerate(TOPICS)}
    for name, kinds, function in sorted(CHECKS, key=lambda c: topics.get(c.function.__module__, len(topics))):
        if case.kind not in kinds:
            continue
        try:
            found = list(function(case))
        except EdgekitError as reason:  # a part that a check needed and could not read
            found = [error(str(reason), "edgekit refuses the model", "mend that part")]
        findings += [dataclasses.replace(finding, name=name) for finding in found]
    findings += _unexplained(case, findings)
    ordered = sorted(findings, key=lambda finding: LEVELS.index(finding.level))
    return Examination(case.path, case.name, case.format, ordered)


def _unexplained(case: Case, findings: list[Finding]) -> list[Finding]:
    """What edgekit itself says of the configuration, where no check has explained it."""
    if not case.refusal or any(finding.level == "error" and finding.name in EXPLAIN for finding in findings):
        return []
    said = error(case.refusal, "edgekit refuses the model", "mend the configuration")
    return [dataclasses.replace(said, name="refused")]


def report(examination: Examination) -> str:
    """The text that a person reads."""
    lines = [f"{examination.name} · {examination.format}"]
    for finding in examination.findings:
        lines.append("")
        lines += _wrapped(f"{finding.level:<9}", finding.what)
        lines += _wrapped(" " * 9 + "so: ", finding.consequence)
        if finding.cure:
            lines += _wrapped(" " * 9 + "cure: ", finding.cure)
    counts = ", ".join(counted(n, level) for level in LEVELS if (n := examination.count(level)))
    return "\n".join([*lines, "", counts or "nothing unusual"])


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_long_words=False
    )
