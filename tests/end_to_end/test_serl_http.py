"""Training through a lab's own SERL server: plain HTTP behind our guard, real processes, the wall clock."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from observed import complaint, episodes

from robot_servers.client import RobotClient
from robot_servers.scenes import load_scene
from serl_core.processes import Child, children
from serl_core.tasks import load_task

PEER = Path(__file__).parents[1] / "robot_servers" / "serl_peer.py"
TASK = load_task("pick_cube")
STEPS, LEARN_AFTER = 80, 30  # 8 s of motion
COMPILING = 240.0  # s


@contextlib.contextmanager
def plain_server(logs: Path) -> Iterator[tuple[str, str]]:
    """A lab's computer: the URL of its server, and the address of the simulated scene's truth."""
    with children() as running:
        running.append(Child("peer", [sys.executable, str(PEER)], logs / "peer.log"))
        url, _, truth = running[0].ready(60.0)
        yield url, truth


def test_the_actor_trains_through_a_plain_serl_server(start, tmp_path):
    """Guards the way from a lab's HTTP server to the learner and back: transitions arrive, weights return, no fault."""
    run_dir = tmp_path / "run"
    limits = tmp_path / "limits.json"
    limits.write_text(json.dumps(asdict(load_scene(TASK.scene).limits)))
    with plain_server(tmp_path / "logs") as (url, truth):
        server = start("server", "serl_http", "--address", url, "--limits", limits, "--port", 0)
        (address,) = server.ready(60.0)
        options = ("--start-after", LEARN_AFTER, "--env-steps", STEPS)
        learner = start("learner", "--run-dir", run_dir, "--address", "tcp://127.0.0.1:*", *options)
        os.setpriority(os.PRIO_PROCESS, learner._process.pid, 5)  # the arm comes first
        (link,) = learner.ready(60.0)
        actor = start(
            *("actor", "--run-dir", run_dir, "--robot", address, "--truth", truth),
            *("--learner", link, "--env-steps", STEPS),
        )
        actor.wait(COMPILING)
        learner.wait(COMPILING)
        with RobotClient(address) as robot:
            status = robot.status()
    assert status.mode not in ("fault", "stopped", "user-stopped"), status.reason
    taken = episodes(run_dir)
    assert sum(len(steps) for _, steps in taken) >= STEPS
    assert any(step.who == "policy" for _, steps in taken for step in steps)
    figures = json.loads((run_dir / "learner.json").read_text())
    assert figures["env_steps"] >= STEPS and figures["grad_steps"] > 0 and figures["version"] > 1


def test_a_server_with_its_http_face_says_where_both_are(start):
    """Guards the line that scripts wait for, and the way from the command line to the routes."""
    server = start("server", "fake", "--port", 0, "--http-port", 0, "--http-dialect", "serl")
    address, url = server.ready(60.0)
    with urllib.request.urlopen(urllib.request.Request(url + "get_gripper", method="POST"), timeout=20.0) as answer:
        assert json.load(answer) == {"gripper": 0.0}  # a Robotiq's own number: open
    with RobotClient(address) as robot:
        assert robot.state().gripper == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("fake", "--http-port", 0, "--clock", "lockstep"), "leave out --clock lockstep"),
        (("fake", "--http-port", 0, "--http-host", "0.0.0.0"), "refusing to serve HTTP"),
        (("serl_http", "--address", "http://127.0.0.1:9/"), "--limits"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(options, words):
    """Guards against an arm that others can move, or that nobody has told its table."""
    assert words in complaint("server", *options, "--port", 0)
