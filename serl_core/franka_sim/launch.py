"""Start the emulated Franka arm as a child process, in an environment that is made once and kept.

The emulator (PyPI ``franka-sim``) pins older versions of numpy and mujoco than ours, so it gets a virtual environment
in the user's cache. Every arm has a loopback address of its own: the FCI's ports are fixed, and several may run.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from serl_core.processes import Child, ChildFailed, children

PACKAGE = "franka-sim==1.1.7"
FCI_PORT = 1337
STARTS = 60.0  # s
INSTALLS = 600.0  # s


@contextlib.contextmanager
def emulated_franka(log: Path) -> Iterator[tuple[str, Child]]:
    """An arm of our own: its address, and the process, which is told what happens to the arm (`emulator`).

    Raises `ChildFailed` if the environment cannot be made, e.g. without network, or the emulator does not start.
    """
    with children() as running:
        emulator = start(log)
        running.append(emulator)
        yield emulator.ready(STARTS)[0], emulator


def start(log: Path) -> Child:
    """The emulator's process; it becomes ready with its address."""
    script = Path(__file__).with_name("emulator.py")
    return Child("franka-sim", (str(environment()), str(script), free_host()), log, listens=True)


def cache() -> Path:
    """Where the environment is kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "serl" / f"{PACKAGE.replace('==', '-')}-py{sys.version_info.major}{sys.version_info.minor}"


def environment() -> Path:
    """The emulator's Python; its environment is made if it is not there yet. Raises `ChildFailed`."""
    home = cache()
    python = home / "bin" / "python"
    if python.exists():
        return python
    home.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=home.parent))
    try:
        _run(sys.executable, "-m", "venv", fresh)
        _run(fresh / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE)
        with contextlib.suppress(OSError):  # somebody else's was ready first
            fresh.rename(home)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return python


def _run(*command: str | Path) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALLS)
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise ChildFailed(f"the environment of {PACKAGE} cannot be made: {said[-1] if said else error}") from error


def free_host(rng: random.Random | None = None) -> str:
    """A loopback address on which nobody serves an arm."""
    rng = rng or random.Random(os.getpid())
    while True:
        host = f"127.{rng.randint(1, 254)}.{rng.randint(1, 254)}.{rng.randint(1, 254)}"
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, FCI_PORT))
            return host
