import os
import signal
import sys
import time

import pytest

from serl_core.processes import Child, ChildFailed, StopFlag, children

PYTHON = [sys.executable, "-c"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_children_end_when_the_parent_fails(tmp_path):
    """Guards against a server that goes on holding an arm after its demo has crashed."""
    with pytest.raises(ZeroDivisionError), children() as running:
        running.append(Child("sleeper", [*PYTHON, "import time; print('ready now', flush=True); time.sleep(60)"],
                             tmp_path / "log"))  # fmt: skip
        assert running[0].ready(10.0) == ["now"]
        _ = 1 / 0
    assert not running[0].running()


def test_a_child_that_fails_names_its_log(tmp_path):
    """Guards against "something went wrong" without a place to look."""
    child = Child("learner", [*PYTHON, "raise SystemExit('no such camera')"], tmp_path / "log")
    with pytest.raises(ChildFailed, match=r"(?s)learner ended with exit status 1; see .*log.*no such camera"):
        child.ready(10.0)


def test_children_of_a_killed_parent_end_too(tmp_path):
    """Guards against orphans: kill -9 of a demo must not leave an actor driving."""
    log = tmp_path / "log"
    script = (
        "import sys, time; from pathlib import Path; from serl_core.processes import Child\n"
        f"c = Child('c', [sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'], "
        f"Path({str(log)!r}))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    parent = Child("parent", [*PYTHON, script], tmp_path / "parent")
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    grandchild = int(log.read_text())
    os.kill(parent._process.pid, signal.SIGKILL)
    parent._process.wait()
    deadline = time.monotonic() + 20
    while alive(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_first_signal_asks_to_stop():
    """Guards Ctrl-C: the loop ends between two steps and saves, instead of dying inside one."""
    with StopFlag().on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()


def test_a_child_hears_ctrl_c_whatever_its_parent_ignores(tmp_path):
    """Guards a demo begun in the background (SIGINT ignored, and that is inherited): its children still stop."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        script = "import time\nprint('ready now', flush=True)\ntime.sleep(60)"
        child = Child("sleeper", [*PYTHON, script], tmp_path / "log")
    finally:
        signal.signal(signal.SIGINT, before)
    child.ready(20.0)
    os.kill(child._process.pid, signal.SIGINT)
    assert child._process.wait(20.0) != 0
