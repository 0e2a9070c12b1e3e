"""Resets that do not end: held by a person, by an alarm, or given up. On an arm without physics, through its guard."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from env_parts import REACH, Arm

from robot_servers.interface import CommandRefused, Health
from serl_core.clock import LockstepClock
from serl_core.envs.resetting import PAUSE, TRIES
from serl_core.envs.robot_env import RobotEnv

STAY = np.zeros(4, np.float32)
PERIOD = 1.0 / REACH.control_hz


class Watched:
    """An arm on whose clock ``meanwhile(n)`` is called before the n-th period; questions are kept."""

    def __init__(self, meanwhile: Callable[[int], None] = lambda n: None, stop: Callable[[], bool] = lambda: False):
        self.arm = Arm()
        self.ticks = 0
        self.questions: list[str] = []
        self._meanwhile = meanwhile
        clock = LockstepClock(PERIOD, self._advance)
        self.env = RobotEnv(self.arm.robot, REACH, clock, "state", self.arm.truth, self.questions.append, stop)

    def _advance(self, seconds: float) -> None:
        self.ticks += 1
        assert self.ticks < 1000, "it waits for ever"
        self._meanwhile(self.ticks)
        self.arm.robot.advance(seconds)


@pytest.mark.parametrize("end", ["confirm", "recover"])
def test_a_person_who_holds_a_reset_is_waited_for(end: str) -> None:
    """Guards against an actor that ends, or drives on, because somebody held the arm during a reset."""

    def meanwhile(tick: int) -> None:
        if tick == 3:
            watched.arm.robot.hold("my hand is in there")
        elif tick == 40:
            assert watched.arm.robot.status().mode == "holding", "nobody has said that it may go on"
            getattr(watched.arm.robot, end)()

    watched = Watched(meanwhile)
    watched.env.reset(seed=0)
    assert watched.ticks > 40
    assert watched.questions == ["the robot is held: my hand is in there; when it is safe: serl recover"]
    assert "abort" not in watched.env.step(STAY)[4]


def test_a_hold_during_an_episode_outlasts_its_end() -> None:
    """Guards whoever held the arm: the next reset, a second later, must not be what ends it."""

    def meanwhile(tick: int) -> None:
        if len(watched.questions) and watched.arm.robot.status().held:
            watched.arm.robot.recover()

    watched = Watched(meanwhile)
    watched.env.reset(seed=0)
    watched.arm.robot.hold("wait")
    *_, truncated, info = watched.env.step(STAY)
    assert truncated and "held: wait" in info["abort"]
    assert watched.arm.robot.status().held == "wait", "the environment's own hold does not cover it"
    watched.env.reset(seed=1)
    assert watched.questions == ["the robot is held: wait; when it is safe: serl recover"]


def test_own_holds_and_those_from_before_do_not_need_a_person() -> None:
    """Guards the actor that was ended by Ctrl-C, and its own end of an aborted episode."""
    watched = Watched()
    watched.arm.robot.hold("nobody waits for the reset any more")
    watched.env.reset(seed=0)
    watched.arm.robot.advance(1.0)  # the observation is too old by now
    assert "stale" in watched.env.step(STAY)[4]["abort"]
    watched.env.reset(seed=1)
    assert watched.questions == []


def test_a_force_that_passes_is_waited_out() -> None:
    """Guards unattended nights: a peg that sticks as the reset begins and comes loose must not end the actor."""

    def meanwhile(tick: int) -> None:
        watched.arm.driver.force = np.array([0.0, 0.0, 100.0 if 2 < tick < 20 else 0.0])

    watched = Watched(meanwhile)
    watched.env.reset(seed=0)
    assert watched.questions == [] and watched.ticks > PAUSE / PERIOD
    assert "abort" not in watched.env.step(STAY)[4]


def test_a_force_that_stays_is_left_to_a_person() -> None:
    """Guards what is pressed on: no number of resets may push against it for ever."""
    resets = []

    def meanwhile(tick: int) -> None:
        robot = watched.arm.robot
        resets.append(robot.status().resets)
        pressing = not watched.questions
        watched.arm.driver.force = np.array([0.0, 0.0, 100.0 if pressing else 0.0])
        if not pressing and robot.status().held:
            robot.recover()

    watched = Watched(meanwhile)
    watched.env.reset(seed=0)
    assert len(watched.questions) == 1 and "3 resets in a row" in watched.questions[0]
    assert "force 100.0 N" in watched.questions[0] and "serl recover" in watched.questions[0]
    assert max(resets) == TRIES + 1


def test_a_gripper_in_trouble_is_said_once_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Guards a night of empty grasps against a gripper of which only the robot's computer knows that it is stuck."""
    watched = Watched()
    watched.arm.driver.trouble = Health(gripper="stuck at 100 of 255")
    for seed in range(3):
        watched.env.reset(seed=seed)
    assert "abort" not in watched.env.step(STAY)[4]
    assert [record.message for record in caplog.records] == ["the gripper needs a person: stuck at 100 of 255"]


@pytest.mark.parametrize("held", [True, False])
def test_whoever_waits_can_be_stopped(held: bool) -> None:
    """Guards against a Ctrl-C that waits for a person, or for a motion of seconds; the arm holds."""

    def meanwhile(tick: int) -> None:
        if held and tick == 3:
            watched.arm.robot.hold("wait")

    watched = Watched(meanwhile, stop=lambda: watched.ticks >= 5)
    watched.env.reset(seed=0)
    assert watched.ticks <= 6 and watched.arm.robot.status().mode == "holding"


def test_nothing_is_confirmed_that_nobody_asked_for() -> None:
    """Guards against a confirmation in advance, which would end a hold that comes later."""
    robot = Arm().robot
    with pytest.raises(CommandRefused, match="nobody holds the arm"):
        robot.confirm()
    robot.stop("STOP")
    robot.hold("wait")
    robot.confirm()  # ends the hold, never the STOP
    assert robot.status().mode == "stopped" and robot.status().held == ""
