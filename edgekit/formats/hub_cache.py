"""Where a file in huggingface_hub's cache comes from: `models--OWNER--NAME/snapshots/COMMIT/FILE`.

Files there are links to `blobs/SHA256`, so a name is never taken from the link's target.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

COMMIT = re.compile(r"[0-9a-f]{40}")


class Origin(NamedTuple):
    """A model on the Hub, at one commit."""

    repository: str
    revision: str
    """The commit, 40 hexadecimal digits."""
    file: str
    """Path in the repository; "" for the whole folder."""

    def record(self) -> dict[str, str]:
        """Plain values for JSON."""
        return {"repository": self.repository, "revision": self.revision} | ({"file": self.file} if self.file else {})


def origin(path: Path) -> Origin | None:
    """The origin of a file or folder in the cache; None for any other."""
    parts = Path(os.path.abspath(path)).parts
    for at in range(len(parts) - 2, 0, -1):
        folder, snapshots, commit = parts[at - 1 : at + 2]
        if snapshots == "snapshots" and folder.startswith("models--") and COMMIT.fullmatch(commit):
            return Origin(folder.removeprefix("models--").replace("--", "/"), commit, "/".join(parts[at + 2 :]))
    return None


def model_name(path: Path) -> str:
    """A model's name by its path, with the suffix of a file; that of the repository for a whole one."""
    found = origin(path)
    if found is not None and not found.file:
        return found.repository.rpartition("/")[2]
    return os.path.basename(os.path.abspath(path))
