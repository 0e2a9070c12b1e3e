"""Standing back for others on the same computer, also where the kernel shares its processors out by terminal.

Desktop Linux groups processes by session, one per terminal or service ("autogroup"), and gives every group the same
share: `nice` then counts only among the processes of one terminal, and a learner in the next one takes as much as
actor and server together, whatever its own nice value says. The group has a nice value of its own (sched(7)).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")  # e.g. "/autogroup-46 nice 0"
TRIES = 5  # the kernel takes at most ten changes a second from all users together


@contextlib.contextmanager
def standing_back(nice: int) -> Iterator[None]:
    """This process, to its end, and its session during the block, come ``nice`` steps (0 to 19) after others.

    The session is left alone if anybody but this process and its ancestors is in it: they would stand back as well.
    """
    os.nice(nice)
    before = session_nice()
    if not nice or before is None or not alone():
        yield
        return
    _set_session_nice(nice)
    try:
        yield
    finally:
        _set_session_nice(before)  # the shell goes on in it, and what is started from there next


def standing_in_front() -> None:
    """Take back what a learner that was killed in this terminal left behind: its session still stands back."""
    if (session_nice() or 0) > 0:
        _set_session_nice(0)


def session_nice() -> int | None:
    """The nice value of this process's session; None where the kernel knows none."""
    try:
        found = re.search(r"nice (-?\d+)", AUTOGROUP.read_text())
    except OSError:
        return None
    return int(found.group(1)) if found else None


def alone() -> bool:
    """Whether nobody but this process and its ancestors is in its session."""
    mine, session = {os.getpid(), *_ancestors()}, os.getsid(0)
    return all(pid in mine or _session_of(pid) != session for pid in _processes())


def _set_session_nice(nice: int) -> None:
    for _ in range(TRIES):
        try:
            AUTOGROUP.write_text(str(nice))
            return
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:  # a container may show it read-only; then the process's own value has to do
            return


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:  # ended meanwhile
        return -1


def _ancestors() -> Iterator[int]:
    pid = os.getppid()
    while pid > 0:
        yield pid
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        pid = int(status.rpartition(")")[2].split()[1])
