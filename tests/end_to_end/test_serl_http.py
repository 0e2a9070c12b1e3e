"""Training through a lab's own SERL server: plain HTTP behind our guard, real processes, the wall clock."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from observed import episodes

from robot_servers.client import RobotClient
from robot_servers.drivers.serl_http import SerlHttpDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.scenes import load_scene
from robot_servers.server import Server
from serl_core.processes import Child, children
from serl_core.tasks import load_task

PEER = Path(__file__).parents[1] / "robot_servers" / "serl_peer.py"
TASK = load_task("pick_cube")
STEPS, LEARN_AFTER = 100, 30  # 10 s of motion
COMPILING = 240.0  # s


@contextlib.contextmanager
def plain_server(logs: Path) -> Iterator[tuple[str, str]]:
    """A lab's computer: the URL of its server, and the address of the simulated scene's truth."""
    with children() as running:
        running.append(Child("peer", [sys.executable, str(PEER)], logs / "peer.log"))
        url, _, truth = running[0].ready(60.0)
        yield url, truth


@contextlib.contextmanager
def guard_for(url: str) -> Iterator[str]:
    """Our server in front of it, in a thread of this process: its address."""
    robot = GuardedRobot(SerlHttpDriver(url, load_scene(TASK.scene).limits))
    robot.connect()
    with contextlib.closing(robot), Server(robot, "tcp://127.0.0.1:*") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.address
        finally:
            server.stop()
            thread.join()


def test_the_actor_trains_through_a_plain_serl_server(start, tmp_path):
    """Guards the way from a lab's HTTP server to the learner and back: transitions arrive, weights return, no fault."""
    run_dir = tmp_path / "run"
    with plain_server(tmp_path / "logs") as (url, truth), guard_for(url) as address:
        learner = start(
            *("learner", "--run-dir", run_dir, "--address", "tcp://127.0.0.1:*"),
            *("--start-after", LEARN_AFTER, "--env-steps", STEPS),
        )
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
    assert "aborted" not in actor.output()
    taken = episodes(run_dir)
    assert sum(len(steps) for _, steps in taken) >= STEPS
    assert any(step.who == "policy" for _, steps in taken for step in steps)
    figures = json.loads((run_dir / "learner.json").read_text())
    assert figures["env_steps"] >= STEPS and figures["grad_steps"] > 0 and figures["version"] > 1
