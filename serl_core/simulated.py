"""A simulated robot of our own: a child process that serves it, and how it is started. Needs no jax."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from serl_core.config import Observation
from serl_core.pairs import AnyTask
from serl_core.processes import Child, children, serl


@contextlib.contextmanager
def simulated_server(task: AnyTask, obs: Observation, logs: Path) -> Iterator[tuple[str, str]]:
    """A simulated robot of our own under the lockstep clock: its address and that of its ground truth."""
    with children() as running:
        server = Child("server", serl("server", "mujoco", *server_options(task, obs)), logs / "server.log")
        running.append(server)
        robot, _, truth = server.ready(timeout=60.0)
        yield robot, truth


def server_options(task: AnyTask, obs: Observation) -> list[str]:
    """Options of ``serl server mujoco`` for a task: its scene, free ports, and cameras where they are looked at."""
    cameras = ["--cameras", *task.cameras] if obs == "pixels" else []
    return ["--scene", task.scene, "--port", "0", "--truth-port", "0", "--clock", "lockstep", *cameras]
