from dataclasses import replace

import pytest

from robot_servers.__main__ import build
from robot_servers.arms import within
from robot_servers.interface import Limits, RobotError
from robot_servers.real import ARMS, Real

LIMITS = Limits((0.2, -0.2, 0.05), (0.5, 0.2, 0.4))


@pytest.mark.parametrize(
    "real, limits, text",
    [
        (Real(tool="franka-hand"), LIMITS, "needs its address"),
        (Real("172.16.0.2", tool="franka-hand"), None, "no default workspace"),
        (Real("172.16.0.2"), LIMITS, "what is mounted on the flange"),
        (Real("172.16.0.2", tool="franka_hand"), LIMITS, 'did you mean "franka-hand"'),
        (Real("172.16.0.2", gripper="franka-hnd"), LIMITS, 'did you mean "franka-hand"'),
    ],
)
def test_a_real_arm_of_which_too_little_is_known_is_refused(real, limits, text):
    """Guards against guesses about an arm that moves; the error says which option is missing."""
    with pytest.raises(RobotError, match=text):
        build("franka", limits=limits, real=real)


def test_a_real_arm_keeps_its_own_time():
    """Guards against a lockstep clock that a client believes in and the arm does not."""
    with pytest.raises(RobotError, match="leave out --clock lockstep"):
        build("franka", clock="lockstep", limits=LIMITS, real=Real("172.16.0.2", tool="none"))


@pytest.mark.parametrize(
    ("arm", "changes", "text"),
    [
        ("franka", {"box_high": (1.5, 0.2, 0.4)}, r"arm franka itself: .*box_high"),
        ("franka", {"acceleration": 12.0}, "acceleration 12.0 > 9.0"),
        ("ur5e", {"speed": 2.0}, "speed 2.0 > 1.0"),
        ("panda", {"watchdog": 5.0}, "watchdog 5.0 > 1.0"),
        ("serl_http", {"force": 500.0}, "force 500.0 > 150.0"),
    ],
)
def test_limits_larger_than_the_arms_own_start_nothing(arm, changes, text):
    """Guards against a typing error in a file of limits that takes the guard away."""
    with pytest.raises(RobotError, match=text):
        build(arm, limits=replace(LIMITS, **changes), real=Real("172.16.0.2", tool="none"))


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_knows_its_own_limits_and_takes_the_defaults(arm):
    """Guards against a new arm without limits of its own, and against defaults that are too much for one."""
    upright = replace(LIMITS, orientation=(0.0, 0.7071068, 0.7071068, 0.0))
    assert within(arm, upright).orientation == pytest.approx(upright.orientation)
