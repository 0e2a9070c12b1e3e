"""The porting guide's worked example: its code is taken from the guide and run."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from robot_servers import arms, real
from robot_servers.__main__ import build
from robot_servers.drivers.ur_kinematics import ARMS
from robot_servers.geometry import delta_between, quat_rotate
from robot_servers.grippers.none import NoGripper
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Command, Compliance, JointReset, Limits, RobotError, Tool
from robot_servers.limits import check_state

GUIDE = Path(__file__).parents[2] / "robot_servers" / "PORTING.md"
ARM, FLANGE = ARMS["ur5e"], np.array((0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0))
PATIENCE = 20.0  # s; generous, for busy machines


class FakeSdk:
    """The vendor's library as the guide describes it: an arm that goes a tenth of the way each time it is told."""

    def __init__(self) -> None:
        self.q = np.array((0.1, -1.5, 1.5, -1.6, -1.5, 0.1))
        self.wrench = np.zeros(6)
        self.trouble, self.there, self.enabled, self.free, self.unplugged = "", True, False, False, False
        self.sent: list[np.ndarray] = []

    def open(self, timeout: float) -> bool:
        return self.there

    def close(self) -> None: ...

    def read(self) -> tuple[np.ndarray, ...]:
        return self.q.copy(), np.zeros(6), ARM.tcp(self.q, FLANGE), self.wrench

    def jacobian(self, q: np.ndarray) -> np.ndarray:
        return ARM.jacobian(q, FLANGE)

    def error(self) -> str:
        return self.trouble

    def clear_error(self) -> bool:
        self.trouble = "" if self.trouble == "collision" else self.trouble
        return not self.trouble

    def enable(self, on: bool) -> None:
        self.enabled = on

    def freedrive(self, on: bool) -> None:
        self.free = on

    def servo(self, pose: np.ndarray) -> None:
        if self.unplugged:
            raise OSError("cable")
        here = self.read()[2]
        self.sent.append(pose - here)
        if self.enabled:
            way = delta_between(here, pose)
            base = np.concatenate([pose[:3] - here[:3], quat_rotate(here[3:], way[3:])])
            self.q = self.q + 0.1 * np.linalg.solve(self.jacobian(self.q), base)

    def move_joints(self, q: np.ndarray) -> None:
        self.q = q.copy()


def executed(block: int, names: dict[str, Any]) -> dict[str, Any]:
    """One of the guide's blocks of Python, run among these ``names``: the driver, what makes it, its own limits."""
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    exec(compile(blocks[block], str(GUIDE), "exec"), names)
    return names


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The guide's driver, executed."""
    return executed(0, {"__name__": "porting_example"})


@pytest.fixture
def sdk() -> FakeSdk:
    return FakeSdk()


@pytest.fixture
def driver(example: dict[str, Any], sdk: FakeSdk) -> Any:
    home = ARM.tcp(np.array(example["AcmeDriver"].home_q), FLANGE)
    limits = Limits((-0.9, -0.6, 0.0), (0.0, 0.4, 1.0), tuple(home[3:].tolist()), tilt=1.0)
    return example["AcmeDriver"](sdk, limits, tuple(home.tolist()), Tool(), NoGripper())


@pytest.fixture
def robot(driver: Any) -> Iterator[GuardedRobot]:
    robot = GuardedRobot(driver)
    robot.connect()
    yield robot
    robot.close()


def until(condition: Callable[[], bool], what: str) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < PATIENCE, what
        time.sleep(0.02)


def test_moves_resets_and_stops_behind_the_guard(robot: GuardedRobot, sdk: FakeSdk):
    """A guide whose code does not run costs its reader the afternoon that it promises to save."""
    goal = robot.state().pose.copy()
    goal[2] += 0.01

    def arrived() -> bool:
        state = robot.state()
        robot.command(Command(goal, None, state.time))
        return abs(state.pose[2] - goal[2]) < 1e-3

    until(arrived, "the command was not carried out")
    robot.reset((JointReset(),))
    until(lambda: robot.status().mode != "resetting", "the reset does not end")
    assert not robot.status().health.fault
    robot.stop("test")
    assert not sdk.enabled
    robot.recover()
    assert sdk.enabled and robot.status().mode == "holding"


def test_states_are_what_the_guard_expects(driver: Any):
    """Shapes and frames of the example are copied into every driver that is written after it."""
    driver.connect()
    driver._sdk.wrench = np.array((0.0, 0.0, 10.0, 0.0, 0.0, 0.0))
    state = driver.state()
    check_state(state, 6)
    assert np.allclose(quat_rotate(state.pose[3:], state.force), (0.0, 0.0, 10.0))


def test_push_is_bounded_by_the_clip(driver: Any, sdk: FakeSdk):
    """An arm that follows positions pushes with all its strength towards a far target."""
    driver.connect()
    driver.set_compliance(Compliance(translational_clip=(0.005, 0.01, 0.01)))
    far = driver.state().pose
    far[:3] += (0.2, -0.2, 0.2)
    driver.track(far, None)
    driver.cycle()
    assert np.allclose(sdk.sent[-1][:3], (0.005, -0.01, 0.01))


def test_faults_need_what_the_guide_says(driver: Any, sdk: FakeSdk):
    """What a person must clear is not cleared by a program; what the network did is said as that."""
    driver.connect()
    sdk.trouble = "joint 3 is too hot"
    assert driver.health().fault == "protective"
    with pytest.raises(RobotError, match="at its own panel"):
        driver.recover()
    sdk.trouble = "collision"
    driver.recover()
    sdk.unplugged = True
    driver.cycle()
    assert driver.health().fault == "communication"


def test_absent_arm_is_an_error(driver: Any, sdk: FakeSdk):
    """Before anything moves."""
    sdk.there = False
    with pytest.raises(RobotError, match="switched on"):
        driver.connect()


@pytest.fixture
def named(example: dict[str, Any], sdk: FakeSdk, monkeypatch: pytest.MonkeyPatch) -> Limits:
    """The guide's arm in the tables, as the guide puts it there; returns limits of a table for it."""
    library, module = ModuleType("acme_sdk"), ModuleType("robot_servers.drivers.acme")
    vars(library)["Arm"], vars(module)["AcmeDriver"] = lambda address: sdk, example["AcmeDriver"]
    for made in (library, module):
        monkeypatch.setitem(sys.modules, made.__name__, made)
    for table in (real.ARMS, arms.OWN):  # so that what the guide puts there is taken out again
        monkeypatch.setitem(table, "acme", None)
        del table["acme"]
    home = executed(1, {**vars(real)})["ACME_HOME"]
    executed(2, {**vars(arms)})
    there = ARM.tcp(np.array(example["AcmeDriver"].home_q), FLANGE)
    assert np.allclose(delta_between(there, np.array(home)), 0.0, atol=1e-3)
    return Limits((-0.8, -0.6, 0.0), (0.0, 0.4, 0.8), home[3:], tilt=1.0)


def test_named_arm_is_served(named: Limits):
    """What makes an arm from the command line is what a reader cannot guess from the driver."""
    robot = build("acme", limits=named, real=real.Real("10.0.0.2", tool="none"))
    robot.connect()
    try:
        assert robot.metadata.robot == "acme"
        assert robot.metadata.limits.box_high == named.box_high and robot.metadata.limits.speed == named.speed
    finally:
        robot.close()


def test_named_arm_keeps_to_its_own_limits_and_guesses_nothing(named: Limits):
    """An arm without limits of its own ends in a traceback; one whose table is guessed moves into it."""
    with pytest.raises(RobotError, match=r"of the arm acme itself: .*speed 2.0 > 1.0"):
        build("acme", limits=replace(named, speed=2.0), real=real.Real("10.0.0.2", tool="none"))
    for limits, said in ((None, real.Real("10.0.0.2", tool="none")), (named, real.Real(tool="none"))):
        with pytest.raises(RobotError, match="only you know them"):
            build("acme", limits=limits, real=said)


def test_example_has_every_member_of_the_contract(example: dict[str, Any], driver: Any):
    """A member that is added to `Driver` must be added to the guide."""
    from robot_servers.interface import Driver

    members = {name for name in (*vars(Driver), *Driver.__annotations__) if not name.startswith("_")}
    assert not {name for name in members if name not in dir(driver)}
    assert set(re.findall(r"`(\w+)`", GUIDE.read_text().partition("## A whole")[0])) >= members - {
        *("name", "scene", "clock", "cameras", "limits_enforced"),
    }
