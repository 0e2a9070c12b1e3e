"""Real-time scheduling for the thread of the control cycle, where the machine allows it."""

from __future__ import annotations

import os
import resource
import sys

PRIORITY = 50  # of 99: above everything ordinary, below the kernel's own interrupt threads


def prefer_realtime(priority: int = PRIORITY) -> str:
    """Ask for SCHED_FIFO for the calling thread alone; says what was obtained, for logs and people.

    Threads and processes started by it later run as ordinary ones. Without the right to it nothing changes, and
    the text says what would give it.
    """
    if sys.platform != "linux":
        return f"ordinary scheduling: {sys.platform} has no SCHED_FIFO"
    allowed = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    for wanted in (priority, min(priority, allowed)):  # the limit does not bind who has CAP_SYS_NICE
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(wanted))
        except (OSError, ValueError):
            continue
        return f"SCHED_FIFO at priority {wanted}"
    return "ordinary scheduling: SCHED_FIFO is not allowed (give this user an rtprio limit, or CAP_SYS_NICE)"
