"""How much memory replay may claim, and where: better refused in the first second than killed in the third hour."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from serl_core.data.segments import StoreError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
RESERVE = 2_000_000_000  # bytes of the machine that networks, minibatches and everybody else keep
FOR_FRAMES = 0.8  # of what a device has left: networks, minibatches and what XLA needs beside them take the rest


def available_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Bytes that a process can still claim here: of the machine, and of the container it runs in."""
    return min(_of_machine(meminfo), _of_container(cgroup))


def spare_memory() -> int:
    """Bytes that replay may claim here: what is left beside everything else."""
    return max(0, available_memory() - RESERVE)


def check_memory(needed: int, available: int, what: str) -> None:
    """Raises `StoreError` naming both figures if ``what`` needs more than there is."""
    if needed > available:
        share = max(0, int(100 * available / needed))  # rounded down: what is advised must fit
        raise StoreError(
            f"{what} needs {gigabytes(needed)}, and this machine has {gigabytes(available)} left: "
            f"take {share} % of the capacity or less (serl learner --capacity), or free memory"
        )


def device_memory(devices: Iterable[Any]) -> int | None:
    """Bytes that the fullest of these devices has left; None where they have no memory of their own."""
    figures = [device.memory_stats() for device in devices]
    return min((known["bytes_limit"] - known["bytes_in_use"] for known in figures if known), default=None)


def place_frames(
    capacity: int, stored: Mapping[str, npt.NDArray[Any]], devices: Iterable[Any]
) -> tuple[Literal["device", "host"], Callable[[], int]]:
    """Where replay keeps ``capacity`` frames like ``stored``, and what tells how many bytes are available there.

    On the device if they fit, as gathering costs least there; otherwise in the machine's memory, which is said.
    """
    free = device_memory(devices)
    if free is None:
        return "device", spare_memory
    needed, room = capacity * sum(x.nbytes for x in stored.values()), int(FOR_FRAMES * free)
    if needed <= room:
        return "device", lambda: free
    sizes = f"{gigabytes(needed)}, and replay can have {gigabytes(room)} of the device"
    print(f"frames stay in the machine's memory: {sizes}", flush=True)
    return "host", spare_memory


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
