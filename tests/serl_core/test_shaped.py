from dataclasses import replace

import numpy as np
import pytest
from env_parts import Hand
from hypothesis import given
from hypothesis import strategies as st

from robot_servers.drivers.fake import HOME, FakeDriver
from robot_servers.geometry import quat_mul, quat_rotate, rotvec_to_quat
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import RobotError
from serl_core.config import ConfigError
from serl_core.envs.takeover_machine import TakeoverConfig, TakeoverMachine
from serl_core.teleop.device import Reading
from serl_core.teleop.pair import PairDevice
from serl_core.teleop.shaped import Shape, ShapedDevice, apply_deadband, turned

FORWARD, LEFT, UP = np.eye(6)[:3]
ROLL = np.eye(6)[3]


class Somewhere:
    """A robot's state with the pose (7,) that it was given."""

    def __init__(self, orientation: np.ndarray) -> None:
        robot = GuardedRobot(FakeDriver())
        robot.connect()
        self.state = robot.state()
        self.pose = np.concatenate([self.state.pose[:3], orientation])

    def __call__(self):
        return replace(self.state, pose=self.pose)


def shaped(twist: np.ndarray, shape: Shape, state=None) -> np.ndarray:
    return ShapedDevice(Hand([Reading(twist)]), shape, state).read().twist


@given(st.floats(-1, 1), st.floats(0, 0.5))
def test_the_dead_band_jumps_nowhere(value, deadband):
    """A step at the edge of the dead band would jerk the arm at each touch."""
    out = apply_deadband(np.full(6, value), deadband)[0]
    assert abs(out) <= abs(value) + 1e-12
    assert (out == 0.0) == (abs(value) <= deadband)
    assert apply_deadband(np.full(6, np.sign(value)), deadband)[0] == pytest.approx(np.sign(value))


def test_drift_within_the_dead_band_is_no_push():
    """A worn cap rests at a few percent: nobody has taken over."""
    assert not shaped(np.full(6, 0.04), Shape(deadband=0.05)).any()


def test_up_is_up_for_a_tool_that_points_down():
    """Pulling the cap up must not drive the tool into the table: a TCP's z axis points away from the hand."""
    world = quat_rotate(np.array(HOME[3:]), shaped(UP, Shape())[:3])
    np.testing.assert_allclose(world, [0, 0, 1], atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.0])
def test_in_the_base_frame_the_tool_does_not_matter(angle):
    """Someone who asked for the base frame pushes away from themselves, wherever the tool points."""
    tool = quat_mul(rotvec_to_quat(np.array([angle, 0.3, -0.2])), np.array(HOME[3:]))
    for push in (FORWARD, LEFT, UP):
        out = shaped(push, Shape(frame="base"), Somewhere(tool))
        np.testing.assert_allclose(quat_rotate(tool, out[:3]), push[:3], atol=1e-12)
    turn = shaped(ROLL, Shape(frame="base"), Somewhere(tool))
    np.testing.assert_allclose(quat_rotate(tool, turn[3:]), [1, 0, 0], atol=1e-12)


def test_both_frames_agree_for_a_tool_that_points_down():
    """Changing the frame must not change what forward means on the usual grasp."""
    push = np.array([0.3, -0.5, 0.2, 0.1, 0.4, -0.6])
    np.testing.assert_allclose(
        shaped(push, Shape()), shaped(push, Shape(frame="base"), Somewhere(np.array(HOME[3:]))), atol=1e-12
    )


@pytest.mark.parametrize(("turn", "direction"), [(0, [1, 0, 0]), (90, [0, 1, 0]), (180, [-1, 0, 0])])
def test_forward_is_where_the_person_looks(turn, direction):
    """Whoever faces the arm would otherwise push it the wrong way."""
    np.testing.assert_allclose(turned(FORWARD, turn)[:3], direction, atol=1e-12)
    np.testing.assert_allclose(turned(ROLL, turn)[3:], direction, atol=1e-12)


def test_gain_never_exceeds_the_range():
    """A gain above one must not ask for more than a full step."""
    assert np.abs(shaped(np.ones(6), Shape(gain=2.0))).max() == 1.0


@pytest.mark.parametrize("gain", [0.05, 0.5, 2.0])
def test_a_takeover_begins_with_the_same_push_whatever_the_gain(gain):
    """Guards slow hands: with a small gain not even a full push would count, with a great one drift would."""

    def takeovers(*pushes: float) -> list[int]:
        logic, hand = TakeoverMachine(), Hand([Reading(push * FORWARD) for push in pushes])
        device = ShapedDevice(hand, Shape(gain=gain))
        return [logic.update(device.read(), float(second)) for second in range(len(pushes))]

    assert takeovers(0.14, 0.16, 0.1) == [-1, 0, 0]
    both = PairDevice(*(ShapedDevice(Hand([Reading(0.16 * FORWARD)]), Shape(gain=gain)) for _ in range(2)))
    assert TakeoverMachine(TakeoverConfig(hands="each"), 2).update(both.read(), 0.0) == 0


def test_a_robot_that_does_not_answer_means_no_motion():
    """A reading must never raise: the step that follows meets the same robot and ends the episode properly."""

    def gone():
        raise RobotError("the server does not answer")

    assert not shaped(FORWARD, Shape(frame="base"), gone).any()


def test_what_is_not_finite_stays_visible():
    """A clipped NaN would look like a valid reading to whoever decides on takeovers."""
    assert np.isnan(shaped(np.full(6, np.nan), Shape())).all()


@pytest.mark.parametrize(
    "bad", [{"gain": 0.0}, {"gain": 3.0}, {"deadband": 0.6}, {"turn": float("inf")}, {"frame": "x"}]
)
def test_shapes_that_cannot_work_are_refused(bad):
    """A typo on the command line must not surprise at the arm."""
    with pytest.raises(ConfigError):
        Shape(**bad)
