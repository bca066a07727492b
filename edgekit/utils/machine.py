"""What this machine is: its CPU and the cores that this process may use."""

import os
import platform
import re
from pathlib import Path


def physical_cores() -> int:
    """The physical cores that this process may use.

    Hyper-threads share one core's arithmetic units, so they are not counted where Linux tells them apart.
    """
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
    cores = set()
    for cpu in allowed:
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            siblings = str(cpu)
        cores.add(siblings.strip())
    return max(1, len(cores))


def cpu_name() -> str:
    """The CPU's model name, or the most specific name that the system gives."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            if match := re.search(r"^model name\s*:\s*(.+)$", file.read(8192), re.M):
                return match.group(1).strip()
    except OSError:
        pass
    try:  # single-board computers name the board
        return Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        return platform.processor() or platform.machine() or os.name
