"""How much memory replay may claim: better refused in the first second than killed in the third hour."""

from __future__ import annotations

import os
from pathlib import Path

from serl_core.data.segments import StoreError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Bytes that a process can still claim here: of the machine, and of the container it runs in."""
    return min(_of_machine(meminfo), _of_container(cgroup))


def check_memory(needed: int, available: int, what: str) -> None:
    """Raises `StoreError` naming both figures if ``what`` needs more than there is."""
    if needed > available:
        share = available / needed
        raise StoreError(
            f"{what} needs {gigabytes(needed)}, and this machine has {gigabytes(available)} left: "
            f"take {share:.0%} of the capacity or less (serl learner --capacity), or free memory"
        )


def gigabytes(size: int) -> str:
    """A size for people, e.g. "9.8 GB"."""
    return f"{size / 1e9:.1f} GB"


def _of_machine(meminfo: Path) -> int:
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # all of it: not every system tells what is free


def _of_container(cgroup: Path) -> int:
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if not (limit.exists() and used.exists()) or limit.read_text().strip() == "max":
        return 1 << 62
    return max(0, int(limit.read_text()) - int(used.read_text()))
