"""Two servers taken for one task: each checked, owned and bound by its half, on either clock."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from robot_servers.client import RobotClient
from robot_servers.interface import ClockMode, NotOwner, RobotError
from robot_servers.server import Server
from serl_core import recover, stop
from serl_core.config import ConfigError
from serl_core.session import connected, episode_meta, make_env
from serl_core.tasks import load_task
from serl_core.teleop.scripted import OperatorConfig

pytest.importorskip("mujoco")
from robot_servers.__main__ import build_all

TASK = load_task("handover")
FREE = "tcp://127.0.0.1:*"


@contextlib.contextmanager
def serving(clock: ClockMode = "lockstep") -> Iterator[tuple[str, str]]:
    """Addresses of both arms, and of their ground truths, as the command line takes them."""
    with contextlib.ExitStack() as stack:
        servers = []
        for robot in build_all("mujoco", "handover", clock, (), None):
            stack.callback(robot.close)
            robot.connect()
            server = stack.enter_context(Server(robot, FREE, FREE))
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.stop)
            servers.append(server)
        yield ",".join(server.address for server in servers), ",".join(str(server.truth_address) for server in servers)


def test_both_arms_are_owned_bound_by_their_halves_and_released():
    """Guards against a second program on the other arm, and against a right arm that reaches for the table."""
    with serving() as (address, truth):
        right = address.split(",")[1]
        with connected(TASK, "state", address, truth) as session:
            env = make_env(session, TASK, "state", OperatorConfig("intervene"), seed=0)
            obs, _ = env.reset(seed=0)
            assert obs["state"].shape == (56,)
            down = np.zeros(14, np.float32)
            down[8] = 1.0  # z of the right TCP
            infos = [env.step(down)[4] for _ in range(30)]
            assert infos[-1]["target"][9] >= TASK.arms[1].limits.box_low[2] - 1e-9
            assert any(limit == "right box z" for info in infos for limit, *_ in info["bends"])
            assert all(info["skew"] == 0.0 for info in infos)
            with contextlib.closing(RobotClient(right)) as other:
                other.connect()
                with pytest.raises(NotOwner):
                    other.tighten(TASK.arms[1].limits)
            assert [one["scene"] for one in episode_meta(session, TASK, "state")["partners"]] == ["handover/right"]
        with connected(TASK, "state", address, truth, patience=0.0):
            pass


def test_crossed_or_missing_addresses_are_noticed():
    """Guards against left commands at the right arm, the mistake that costs a gripper."""
    with serving() as (address, _):
        left, right = address.split(",")
        with pytest.raises(RobotError, match="handover/right"):
            connected(TASK, "state", f"{right},{left}").__enter__()
        with pytest.raises(ConfigError, match="needs the robot as LEFT,RIGHT"):
            connected(TASK, "state", left).__enter__()
        with pytest.raises(ConfigError, match="needs the robot as ADDRESS"):
            connected(load_task("reach"), "state", address).__enter__()


def test_stop_and_recover_take_both_addresses():
    """Guards two robots of two servers: one that does not answer must not keep the other from stopping."""
    with serving() as (address, _):
        nobody = "tcp://127.0.0.1:1"
        with pytest.raises(RobotError, match="NOT STOPPED"):
            stop.main(stop.Config(f"{nobody},{address}", "smoke"))
        assert modes(address) == ["stopped", "stopped"]
        assert recover.main(recover.Config(address, yes=True)) == 0
        assert modes(address) == ["holding", "holding"]


def modes(address: str) -> list[str]:
    found = []
    for where in address.split(","):
        with RobotClient(where) as robot:
            found.append(robot.status().mode)
    return found


def test_in_real_time_each_servers_clock_is_translated():
    """Guards the skew: states of two servers, each in its own time, are compared on this process's clock."""
    with serving("realtime") as (address, truth), connected(TASK, "state", address, truth) as session:
        here = time.monotonic()
        for robot, local, ahead in zip((session.robot, *session.partners), session.local, (100.0, -7.0), strict=True):
            assert isinstance(robot, RobotClient)
            assert local(robot.state().time) == pytest.approx(here, abs=30.0)
            robot.offset.observe(here, here + ahead, here)  # a round trip that took no time: the best there can be
            assert local(here + ahead) == pytest.approx(here)
