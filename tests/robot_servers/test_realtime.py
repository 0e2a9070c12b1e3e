"""Real-time scheduling: what is claimed is what the kernel says."""

from __future__ import annotations

import os
import threading

import pytest

from robot_servers.realtime import prefer_realtime


def in_a_thread() -> tuple[str, int, int]:
    found: list[tuple[str, int, int]] = []

    def ask() -> None:
        text = prefer_realtime(1)
        found.append((text, os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(0).sched_priority))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


def test_what_is_said_is_what_was_obtained() -> None:
    """Guards against a cycle that believes it is real-time and is not, and against a whole process made so."""
    text, policy, priority = in_a_thread()
    assert (policy == os.SCHED_FIFO) == text.startswith("SCHED_FIFO at priority")
    assert priority == (1 if policy == os.SCHED_FIFO else 0)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_without_the_right_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a server that does not start for a user without the right, or does not say so."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert "rtprio" in prefer_realtime()
