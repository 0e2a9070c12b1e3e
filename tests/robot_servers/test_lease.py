"""The lease: one client at a time changes what the robot does, and no limits outlive or miss their owner."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import served_at

from examples.benchmarks.ports import free_address
from robot_servers import wire
from robot_servers.answering import answer_request
from robot_servers.client import RobotClient
from robot_servers.drivers.fake import HOME, LIMITS, FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.hello import STATE_PORT, STOP_PORT
from robot_servers.interface import Applied, Command, CommandRefused, Compliance, MoveTo, NotOwner, SetCompliance
from robot_servers.lease import Client, Lease
from robot_servers.server import robot_calls

NARROW = replace(LIMITS, step=0.02)
PLAN = (MoveTo(HOME),)
SOFT = Compliance(translational_stiffness=500.0)


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


def push(client: RobotClient) -> Applied:
    """Ask for a target 5 cm ahead."""
    state = client.state()
    return client.command(Command(state.pose + np.array([0.05, 0, 0, 0, 0, 0, 0]), None, state.time))


def wait_until_free(client: RobotClient, seconds: float = 10.0) -> None:
    """Ask until the lease is given."""
    end = time.monotonic() + seconds
    while True:
        try:
            return client.tighten(LIMITS)
        except NotOwner:
            assert time.monotonic() < end, "the lease is never given"
            time.sleep(0.01)


# ── who may do what ──


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_two_clients_never_both_command(seed: int) -> None:
    """Guards the one rule, over 6 000 random calls of two clients: only the owner changes anything."""
    rng = np.random.default_rng(seed)
    fight = Fight(duration=1.0)
    for _ in range(40):
        fight.wait(float(rng.choice([0.0, 0.3, 0.9, 1.1])))
        fight.call(int(rng.integers(2)), str(rng.choice(["acquire", "release", "state", "hold", *fight.changes])))


class Fight:
    """Two clients at one server, against a model of who owns the robot."""

    changes = ("command", "reset", "confirm", "advance", "command")

    def __init__(self, duration: float) -> None:
        self.now = 0.0
        self.robot = GuardedRobot(FakeDriver())
        self.robot.connect()
        self.lease = Lease(duration, self.robot.abandon, lambda: self.now)
        self.calls = robot_calls(self.robot, self.lease)
        self.owner: int | None = None
        self.heard = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.now - self.heard > self.lease.duration:
            self.owner = None

    def call(self, who: int, name: str) -> None:
        before = self.counts()
        answer = self.ask(who, name)
        if name == "acquire" and self.owner is None:
            self.owner = who
        allowed = self.owner == who or name not in (*self.changes, "acquire")
        refused = answer.get("error", {}).get("kind") == "NotOwner"
        assert refused is not allowed, (name, who, self.owner, answer)
        assert allowed or self.counts() == before, "nothing moves because of a refused call"
        self.heard = self.now if self.owner == who else self.heard
        if name == "release" and self.owner == who:
            self.owner = None

    def ask(self, who: int, name: str) -> dict[str, Any]:
        state = self.robot.state()
        args = {
            "acquire": [None],
            "hold": ["a test"],
            "command": [wire.to_tree(Command(state.pose, None, state.time))],
            "reset": [wire.to_tree(PLAN)],
            "advance": [0.05],
        }
        client = wire.to_tree(Client(str(who), f"host:{who}"))
        request = {"id": 1, "call": name, "args": args.get(name, []), "client": client}
        frames = [bytes(frame) for frame in wire.encode(request)]
        return wire.decode(answer_request(frames, self.calls, self.lease))

    def counts(self) -> tuple[int, int, float]:
        status = self.robot.status()
        return status.commands, status.resets, status.time


def test_two_programs_at_once(robot: GuardedRobot) -> None:
    """Guards the same over real sockets: while one drives, the other is refused every single time."""
    accepted: dict[str, int] = {}
    barrier = threading.Barrier(2)

    def fight(name: str, address: str) -> None:
        with RobotClient(address) as client:
            barrier.wait()
            for _ in range(50):
                with contextlib.suppress(NotOwner):
                    push(client)
                    accepted[name] = accepted.get(name, 0) + 1
            barrier.wait()

    with served_at(robot) as address:
        threads = [threading.Thread(target=fight, args=(name, address)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert list(accepted.values()) == [50] and robot.status().commands == 50


def test_a_refusal_says_who_and_how_long(robot: GuardedRobot) -> None:
    """Guards against a person who looks for the other program on every machine of the lab."""
    with served_at(robot) as address, RobotClient(address) as owner, RobotClient(address) as other:
        push(owner)
        with pytest.raises(CommandRefused, match=r"in the hands of .+:\d+, whose lease runs for another (30|29)\.\d s"):
            push(other)


def test_everyone_may_look_and_hold(robot: GuardedRobot) -> None:
    """Guards against a viewer that takes the robot away, and an owner that drives on after it was stopped."""
    with served_at(robot) as address, RobotClient(address) as owner, RobotClient(address) as viewer:
        push(owner)
        assert viewer.state().pose.shape == (7,) and viewer.frames() == {} and viewer.metadata.limits == LIMITS
        viewer.hold("a person says so")
        assert viewer.status().mode == "holding"
        with pytest.raises(CommandRefused, match="held: a person says so; reset, or a person confirms, to go on"):
            push(owner)
        assert owner.status().mode == "holding"
        owner.reset(PLAN)
        owner.advance(1.0)
        push(owner)
        assert owner.status().mode == "moving"


# ── how it ends ──


def test_closing_gives_it_back(robot: GuardedRobot) -> None:
    """Guards against a wait between two programs that run one after the other."""
    with served_at(robot) as address, RobotClient(address) as second:
        for _ in range(3):
            with RobotClient(address) as first:
                push(first)
        push(second)


def test_a_reset_ends_with_its_owner(robot: GuardedRobot) -> None:
    """Guards against an arm that drives on for a program that is gone, and a robot nobody can reset any more."""
    with served_at(robot) as address:
        with RobotClient(address) as first:
            first.reset((SetCompliance(SOFT), MoveTo((0.7, 0.3, 0.1, *HOME[3:]))))
            first.advance(0.5)
            assert first.status().mode == "resetting"
        assert robot.status().mode == "holding" and "owner is gone" in robot.status().reason
        with RobotClient(address) as second:
            push(second)
            second.reset(PLAN)
            second.advance(5.0)
            assert second.status().mode == "idle"


def test_compliance_ends_with_its_owner(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against a task that runs with the stiffness of the one before."""
    with served_at(robot) as address:
        with RobotClient(address) as first:
            first.reset((SetCompliance(SOFT),))
            first.advance(1.5)  # past the soft start
            assert driver.compliance == SOFT
        with RobotClient(address) as second:
            second.advance(0.1)
            assert driver.compliance == second.metadata.compliance


OWNER = """
import sys, time
from robot_servers.answering import answer_request
from robot_servers.client import RobotClient
from robot_servers.hello import STATE_PORT, STOP_PORT
from robot_servers.interface import Command
client = RobotClient(sys.argv[1])
client.connect()
while True:
    state = client.state()
    client.command(Command(state.pose, None, state.time))
    print("moving", flush=True)
    time.sleep(0.02)
"""


def test_a_killed_owner_blocks_nobody() -> None:
    """Guards against a robot that stays with a dead program, and against an arm that goes on moving for it."""
    robot = GuardedRobot(FakeDriver(clock="realtime"))
    robot.connect()
    with served_at(robot) as address, RobotClient(address) as second:
        with subprocess.Popen([sys.executable, "-c", OWNER, address], stdout=subprocess.PIPE) as owner:
            assert owner.stdout is not None and owner.stdout.readline()
            with pytest.raises(NotOwner):
                push(second)
            owner.kill()
        wait_until_free(second)
        assert robot.status().mode == "holding", "the watchdog comes before the end of the lease"
        push(second)
    robot.close()


# ── limits ──


def test_limits_bind_their_owner_and_nobody_else(robot: GuardedRobot) -> None:
    """Guards a task's limits at the robot, and the next task against those of the one before."""
    with served_at(robot) as address:
        with RobotClient(address) as client:
            client.tighten(NARROW)
            assert [bend.limit for bend in push(client).bends] == ["step"]
            client.tighten(replace(LIMITS, step=0.03))  # looser than before, but not than the robot's
            assert push(client).bends[0].bound == 0.03
        with RobotClient(address) as client:
            assert push(client).bends == ()


def test_limits_come_back_with_the_lease(robot: GuardedRobot) -> None:
    """Guards against commands without the task's limits after a pause in which somebody else drove."""
    with served_at(robot, silence=0.5) as address, RobotClient(address) as task:
        task.tighten(NARROW)
        with RobotClient(address) as other:
            wait_until_free(other)
            assert push(other).bends == ()
        assert [bend.limit for bend in push(task).bends] == ["step"]


def test_limits_come_back_after_a_restart_of_the_server() -> None:
    """Guards against a new server that knows nothing of the task of a client that stayed."""
    first, second = GuardedRobot(FakeDriver()), GuardedRobot(FakeDriver())
    first.connect()
    second.connect()
    with served_at(first, free_address((STOP_PORT, STATE_PORT))) as address:
        task = RobotClient(address)
        task.tighten(NARROW)
    with served_at(second, address):
        assert [bend.limit for bend in push(task).bends] == ["step"]
        task.close()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"step": 0.2}, "step 0.2 > 0.1"),
        ({"turn": 0.7}, "turn 0.7 > 0.6"),
        ({"tilt": 1.3}, "tilt"),
        ({"watchdog": 1.0}, "watchdog"),
        ({"box_low": (0.2, -0.4, 0.02)}, "box_low"),
        ({"box_high": (0.75, 0.4, float("nan"))}, "finite"),
    ],
)
def test_looser_limits_are_refused_with_their_name(robot: GuardedRobot, change: dict[str, Any], field: str) -> None:
    """Guards against a task that loosens the robot's limits, or that drives on without its own."""
    with served_at(robot) as address, RobotClient(address) as task, RobotClient(address) as other:
        with pytest.raises(CommandRefused, match=field):
            task.tighten(replace(LIMITS, **change))
        push(other)  # the lease was not given


def test_resets_are_bound_by_the_robots_own_limits(robot: GuardedRobot) -> None:
    """Guards against a reset that a task's box forbids, though only the server's motions lead through it."""
    robot.tighten(replace(LIMITS, box_low=(0.55, -0.4, 0.02)))
    robot.reset((MoveTo((0.45, 0.0, 0.3, *HOME[3:])),))
    robot.advance(0.1)
    robot.hold("on its way")
    held = robot.state().pose[0]
    robot.advance(1.0)
    assert held < 0.5 and robot.state().pose[0] == pytest.approx(held, abs=0.02), "a hold pulls nothing into the box"


def test_a_motion_out_of_new_limits_ends(robot: GuardedRobot) -> None:
    """Guards against the last target of a wider box staying the target in a narrower one."""
    state = robot.state()
    robot.command(Command(state.pose + np.array([0.08, 0, 0, 0, 0, 0, 0]), None, state.time))
    robot.tighten(LIMITS)
    assert robot.status().mode == "moving", "the same limits change nothing"
    robot.tighten(replace(LIMITS, box_high=(0.53, 0.4, 0.6)))
    robot.advance(0.2)
    assert robot.status().mode == "holding" and robot.state().pose[0] <= 0.53
