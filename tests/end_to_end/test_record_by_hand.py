"""A person at a terminal records with the keyboard, on the simulated arm in real time, as the real command."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serl_core.data.episodes import EpisodeStore
from serl_core.processes import Child, serl
from serl_core.summary import read_json
from serl_core.types import Step

STEP = re.compile(r"step (\d+)")
BOUND = 90.0  # s for each thing that is waited for


class Typist:
    """A command that believes to run in a terminal; keys are typed, and what it shows is read."""

    def __init__(self, *arguments: str | Path) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            serl(*arguments), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)

    def until(self, done: Callable[[str], bool], key: str = "") -> None:
        """Read until the newest output is so; ``key`` is held meanwhile, as far as a terminal knows holding."""
        deadline = time.monotonic() + BOUND
        self.shown = ""
        while not done(self.shown):
            assert time.monotonic() < deadline and self.process.poll() is None, self.shown
            if key:
                self.press(key)
            if select.select([self._master], [], [], 0.03)[0]:
                self.shown += os.read(self._master, 65536).decode(errors="replace")

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def close(self) -> int:
        """The exit status."""
        status = self.process.wait(BOUND)
        os.close(self._master)
        return status


@pytest.fixture
def robot(start: Callable[..., Child]) -> Iterator[str]:
    """Without ground truth: whether it is a success is for the person to say."""
    server = start("server", "mujoco", "--scene", "reach", "--port", 0, "--clock", "realtime")
    yield server.ready(60.0)[0]


def test_a_demonstration_by_keyboard_and_a_verdict_by_key(robot: str, tmp_path: Path) -> None:
    """Guards the first minutes of a user: begin, lead the arm, say that it succeeded, take it back, quit."""
    out, file = tmp_path / "demos", tmp_path / "demos.json"
    typist = Typist(
        "record", "--task", "reach", "--out", out, "--robot", robot, "--operator", "keyboard:terminal",
        "--episodes", "1", "--max-steps", "200", "--who", "anna", "--console-keys", "p=quit",
        "--json", file,
    )  # fmt: skip
    try:
        typist.until(lambda shown: "waits for begin" in shown)
        typist.press("\r")
        typist.until(lambda shown: "your hand" in shown)
        typist.until(lambda shown: any(int(number) >= 8 for number in STEP.findall(shown)), key="w")
        typist.press("y")
        typist.until(lambda shown: "1 kept" in shown)
        typist.press("z")
        typist.until(lambda shown: "taken back" in shown)
        typist.press("p")
        assert typist.close() == 1  # not as many as were asked for
    finally:
        typist.process.kill()
    store = EpisodeStore(out)
    steps = [record for record in store.records(as_recorded=True) if isinstance(record, Step)]
    assert len(steps) >= 8 and steps[-1].success and steps[0].who == "operator" and steps[0].action[0] != 0.0
    assert [label.verdict for label in store.labels.news()] == ["discarded", "success", "discarded"]
    assert store.labels.news()[-1].who == "anna"
    said = read_json(file)  # although the person ended before there was enough
    assert [said[name] for name in ("kind", "kept", "attempts", "discarded", "successes", "steps")] == [
        "demo", 0, 1, 1, 0, 0,
    ]  # fmt: skip
    assert said["folder"] == str(out) and said["warnings"].keys() == {"idle", "long", "saturated"}
