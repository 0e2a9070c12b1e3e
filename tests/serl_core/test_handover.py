"""The scripted person of the task with two arms, where it once waited for ever."""

from __future__ import annotations

import numpy as np
import pytest

from examples.tasks.handover import GRIP, approach, reach
from robot_servers.interface import RobotState

AT = np.array([0.4, 0.0, 0.15])  # m, where the bar is to be taken


def hand(above: float, opening: float) -> RobotState:
    """A hand at rest, so many metres above its grip."""
    pose = np.array([*AT[:2], AT[2] + above, 1.0, 0.0, 0.0, 0.0])
    zero3, zero6, zero7 = np.zeros(3), np.zeros(6), np.zeros(7)
    return RobotState(0.0, pose, zero6, zero3, zero3, zero7, zero7, np.zeros((6, 7)), opening)


@pytest.mark.parametrize("opening", [0.0, 0.3, 0.6])
def test_fingers_that_close_above_the_bar_are_opened(opening: float) -> None:
    """Bug: closed on nothing 2.4 cm above the bar, the hand was told to go on closing, for ever."""
    goal = approach(hand(0.024, opening), AT)
    assert goal.gripper == 1.0 and goal.pose[2] == pytest.approx(AT[2] + 0.024)  # on the way down they would push it
    assert reach(hand(0.024, opening), AT) > 0.024 + GRIP  # and that counts as a way to go


@pytest.mark.parametrize("above", [-0.025, 0.0, 0.018])
def test_fingers_that_will_catch_the_bar_go_on_closing(above: float) -> None:
    """Guards against a hand that opens again around the bar that it is about to hold."""
    assert approach(hand(above, 0.6), AT).gripper == 0.0
