from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from examples.benchmarks.ports import free_address
from robot_servers.channel import NoAnswer
from robot_servers.client import RobotClient
from robot_servers.drivers.fake import HOME, LIMITS, FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.hello import STATE_PORT, STOP_PORT
from robot_servers.interface import RobotError
from robot_servers.server import Server
from serl_core.clock import LockstepClock
from serl_core.config import StartPose, Task
from serl_core.envs.robot_env import RobotEnv
from serl_core.outage import OutlivesServer

TASK = Task(
    name="still", scene="", max_steps=5, start=StartPose(HOME, noise=(0.0, 0.0, 0.0)), limits=LIMITS, axes=("x",),
    gripper=False, cameras=(),
)  # fmt: skip


@contextlib.contextmanager
def serving(address: str, scene: str = "") -> Iterator[None]:
    """A server at ``address`` in a thread."""
    robot = GuardedRobot(FakeDriver(scene, clock="lockstep"))
    robot.connect()
    server = Server(robot, address)
    server.bind()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join()
        server.close()
        robot.close()


@contextlib.contextmanager
def interrupted(
    say: Callable[[str, str, contextlib.ExitStack], None],
    stop: Callable[[], bool] = lambda: False,
    hear: Callable[[], object] = lambda: None,
) -> Iterator[OutlivesServer]:
    """An environment amid an episode whose server is gone; ``say`` may start another at the address."""
    address = free_address((STOP_PORT, STATE_PORT))
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(contextlib.closing(RobotClient(address, timeout=0.5)))
        with serving(address):
            client.connect()
            env = RobotEnv(client, TASK, LockstepClock(0.1, client.advance), "pixels")
            outliving = OutlivesServer(env, [client], stop, lambda text: say(text, address, stack), hear=hear)
            outliving.reset(seed=0)
            outliving.step(np.zeros(1, np.float32))
        yield outliving


def test_the_episode_ends_and_the_next_one_waits_for_the_server() -> None:
    """Guards against an actor that ends with its server, and leaves a learner without data over night."""
    said, heard = list[str](), list[int]()

    def restart(text: str, address: str, stack: contextlib.ExitStack) -> None:
        said.append(text)
        if len(said) == 1:
            stack.enter_context(serving(address))

    with interrupted(restart, hear=lambda: heard.append(1)) as env:
        *_, truncated, info = env.step(np.zeros(1, np.float32))
        assert truncated and "no answer" in info["abort"]
        env.reset(seed=1)
        assert "waiting until it is started again" in said[0] and said[1:] == ["the robot server is back"]
        assert heard  # while it waited: a person must not speak into the void
        *_, truncated, info = env.step(np.zeros(1, np.float32))
        assert not truncated and "abort" not in info


def test_another_robot_is_not_driven_unasked() -> None:
    """Guards against a policy that goes on in a scene it was not made for."""

    def restart(text: str, address: str, stack: contextlib.ExitStack) -> None:
        stack.enter_context(serving(address, scene="elsewhere"))

    with interrupted(restart) as env, pytest.raises(RobotError, match="came back with another robot"):
        env.reset(seed=1)


def test_whoever_waits_can_be_stopped() -> None:
    """Guards against a Ctrl-C that waits for a server."""
    with interrupted(lambda *_: None, stop=lambda: True) as env, pytest.raises(NoAnswer):
        env.reset(seed=1)
