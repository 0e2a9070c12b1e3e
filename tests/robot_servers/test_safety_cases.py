"""No sequence of calls, however malformed, leads the arm where it must not be: 10 000 random ones on each arm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from guard_parts import TargetsSeen, recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_servers.drivers.fake import FakeDriver
from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.geometry import quat_angle, quat_mul, rotvec_to_quat
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Command, CommandRefused, Driver, Limits, MoveTo, RobotState, SetGripper

DRIVERS: dict[str, Callable[[], Driver]] = {"fake": FakeDriver, "mujoco": lambda: MujocoDriver("reach")}
CALLS = 500  # per example; 20 examples
ARRIVAL = 0.6  # s until the set point must have arrived, to the last digit
OVERSHOOT = 1.15  # of the measured speed over that of the target: an impedance may catch up


def random_pose(rng: np.random.Generator, state: RobotState) -> np.ndarray:
    """Near or far, tilted or not, and one in ten malformed."""
    turn = rng.normal(size=3) * rng.choice([0.0, 0.1, 2.0])
    pose = np.concatenate([state.pose[:3], quat_mul(rotvec_to_quat(turn), state.pose[3:])])
    pose[:3] += rng.normal(size=3) * rng.choice([0.005, 0.05, 0.5, 10.0])
    if rng.uniform() < 0.1:
        pose[rng.integers(7)] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
    return pose


def random_call(rng: np.random.Generator, robot: GuardedRobot) -> None:
    """One call of a client that means well, is broken, or means harm."""
    state = robot.state()
    pose = random_pose(rng, state)
    age = rng.choice([0.0, 0.0, 0.0, 1.0, -1.0])
    plan = (MoveTo(tuple(pose.tolist()), speed=rng.uniform(0.0, 0.6)), SetGripper(rng.uniform(-0.1, 1.1)))
    calls: list[Callable[[], Any]] = [
        lambda: robot.command(Command(pose, rng.uniform(-0.1, 1.1), state.time - age)),
        lambda: robot.reset(plan),
        lambda: robot.hold("a test"),
        lambda: robot.stop("a test"),
        robot.recover,
        robot.abandon,
    ]
    with contextlib.suppress(CommandRefused):
        calls[rng.choice(6, p=[0.9, 0.04, 0.01, 0.01, 0.03, 0.01])]()


def assert_within(seen: TargetsSeen, states: list[RobotState], limits: Limits) -> None:
    low, high, centre = np.array(limits.box_low), np.array(limits.box_high), np.array(limits.orientation)
    for target, _ in seen:
        assert (target[:3] >= low - 1e-9).all() and (target[:3] <= high + 1e-9).all()
        assert quat_angle(target[3:], centre) <= limits.tilt + 1e-6
    for state in states:
        assert (state.pose[:3] >= low - limits.margin).all() and (state.pose[:3] <= high + limits.margin).all()
        assert np.linalg.norm(state.vel[:3]) <= limits.speed * OVERSHOOT


@pytest.mark.parametrize("name", DRIVERS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_sequence_of_calls_leads_the_arm_out_of_its_limits(name: str, seed: int) -> None:
    """Guards against holes between commands, holds, resets, STOP and the watchdog: every target and pose is checked."""
    rng = np.random.default_rng(seed)
    driver = DRIVERS[name]()
    seen = recorded(driver)
    robot = GuardedRobot(driver)
    robot.connect()
    states = []
    for _ in range(CALLS):
        random_call(rng, robot)
        robot.advance(float(rng.choice([0.0, 0.01, 0.02, 0.1])))
        states.append(robot.state())
    robot.close()
    assert_within(seen, states, driver.limits)


@pytest.mark.parametrize(("name", "farthest"), [("fake", 1.0), ("mujoco", 0.03)])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_said_to_be_executed_is_executed(name: str, farthest: float, seed: int) -> None:
    """Guards against a recorded target that is not the one the arm was led to, bent or not.

    ``farthest`` m: the simulated arm follows slowly, and its set point waits for it on the way to far targets. The
    set point has `ARRIVAL`: 5 cm at the joints' accelerations, a fifth of the guard's in some postures, take 0.35 s.
    """
    rng = np.random.default_rng(seed)
    driver = DRIVERS[name]()
    driver.limits = replace(driver.limits, watchdog=2.0 * ARRIVAL)
    robot = GuardedRobot(driver)
    robot.connect()
    robot.advance(1.2)
    seen = recorded(driver)
    for _ in range(20):
        state = robot.state()
        pose = state.pose + np.append(rng.uniform(-farthest, farthest, 3), np.zeros(4))
        applied = robot.command(Command(pose, None, state.time))
        robot.advance(ARRIVAL)
        assert seen[-1][0] == pytest.approx(applied.pose, abs=1e-9)
    robot.close()
