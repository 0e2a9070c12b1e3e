import pytest

from robot_servers.__main__ import build
from robot_servers.interface import Limits, RobotError
from robot_servers.real import Real

LIMITS = Limits((0.3, -0.2, 0.05), (0.6, 0.2, 0.4))


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
