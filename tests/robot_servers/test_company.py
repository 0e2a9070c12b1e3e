"""Two simulated arms over one table: each behind its own guard, with one time and one STOP."""

from __future__ import annotations

import numpy as np
import pytest

from robot_servers.company import Companion
from robot_servers.guarded import MAX_ADVANCE
from robot_servers.interface import Command, PlaceObjects, RobotError

pytest.importorskip("mujoco")
from robot_servers.__main__ import build, build_all
from robot_servers.drivers.mujoco import MujocoDriver, drivers_of

TURNED = np.array([-1.0, -1.0, 1.0])  # x, y, z of the right arm's base frame in the left one's


@pytest.fixture
def arms():
    left, right = build_all("mujoco", "handover", "lockstep", (), None)
    assert isinstance(left, Companion) and isinstance(right, Companion)
    left.connect()
    right.connect()
    yield left, right
    right.close()
    left.close()


def command(robot, metres: float, gripper: float | None = None) -> None:
    state = robot.state()
    robot.command(Command(state.pose + np.array([metres, 0, 0, 0, 0, 0, 0]), gripper, state.time))


def test_time_passes_for_both_in_step_whoever_asks(arms):
    """Guards the one clock: an arm that lags behind would see the other's past."""
    left, right = arms
    for asked in (left, right, left):
        before = left.state().time
        asked.advance(0.1)
        assert left.state().time == right.state().time == pytest.approx(before + 0.1)
    with pytest.raises(RobotError, match="at most"):
        left.advance(MAX_ADVANCE + 1)


def test_each_arm_obeys_its_own_commands_in_its_own_base_frame(arms):
    """Guards against crossed arms, and against a base frame that is the world's: the arms face each other."""
    left, right = arms
    here, there = left.state().pose, right.state().pose
    np.testing.assert_allclose(there[:3], here[:3], atol=2e-3)  # each 0.38 m before its base
    for _ in range(8):
        command(right, 0.03, 0.0)
        left.advance(0.1)
    moved = right.state().pose[:3] - there[:3]
    assert moved[0] > 0.03 and np.abs(moved[1:]).max() < 0.01 and right.state().gripper < 0.1
    np.testing.assert_allclose(left.state().pose[:3], here[:3], atol=2e-3)
    assert left.state().gripper > 0.9
    jacobian, state = right.state().jacobian, right.state()
    np.testing.assert_allclose(jacobian @ state.dq, state.vel, atol=1e-12)


def test_the_ground_truth_is_in_the_base_frame_of_who_is_asked(arms):
    """Guards experts and observations: the same bar, seen from opposite sides."""
    left, right = (robot.ground_truth()["bar"][:3] for robot in arms)
    np.testing.assert_allclose(right, np.array([1.0, 0, 0]) + TURNED * left, atol=1e-9)


def test_stop_of_one_stops_both(arms):
    """Guards whoever stands between the arms."""
    left, right = arms
    right.stop("a hand is in the way")
    assert [robot.status().mode for robot in arms] == ["stopped", "stopped"]
    left.recover()
    assert [robot.status().mode for robot in arms] == ["holding", "stopped"]


def test_hold_and_watchdog_are_each_arms_own(arms):
    """Guards against a guard that is shared: silence of one owner is none of the other's."""
    left, right = arms
    for _ in range(6):
        command(left, 0.0)
        left.advance(0.1)
    command(right, 0.01)
    for _ in range(6):
        command(left, 0.0)
        left.advance(0.1)
    assert left.status().mode == "moving" and right.status().mode == "holding"


def placed(robots, seed: int) -> np.ndarray:
    """Both arms reset from ``seed``: everything that can be seen, over some steps."""
    for robot in robots:
        robot.reset((PlaceObjects(seed),))
    seen = []
    for _ in range(5):
        robots[0].advance(0.1)
        for robot in robots:
            state = robot.state()
            seen.append(np.concatenate([state.pose, state.force, state.q, robot.ground_truth()["bar"]]))
    assert {robot.status().mode for robot in robots} == {"idle"}
    return np.array(seen)


def test_a_scene_starts_over_once_for_both_and_repeats_itself(arms):
    """Guards repeatability: the second arm's reset must not start over what the first has begun."""
    first, other = placed(arms, 3), placed(arms, 4)
    command(arms[1], 0.05, 0.0)
    arms[0].advance(0.3)
    np.testing.assert_array_equal(placed(arms, 3), first)
    assert np.abs(first - other).max() > 1e-3


def test_drivers_of_one_bench_start_over_together():
    """Guards the count behind that: again with the same seed is again, not the other arm's turn."""
    left, right = drivers_of("handover")
    left.connect()
    right.connect()
    assert left.bench is right.bench and left.bench.placements == 1
    left.place_objects(5)
    right.place_objects(5)
    assert left.bench.placements == 2
    left.place_objects(5)
    assert left.bench.placements == 3
    right.place_objects(6)
    assert left.bench.placements == 4


def test_hands_can_meet():
    """Guards the physics of a handover: two hands in one place would make it a fiction."""
    left, right = drivers_of("handover")
    left.connect()
    right.connect()
    for _ in range(200):
        for driver in (left, right):
            driver.track(np.array([0.52, 0, 0.2, 1, 0, 0, 0]), None)  # 4 cm past each other
            driver.cycle()
    assert left.state().pose[0] < 0.49 and np.linalg.norm(left.state().force) > 5.0


def test_cameras_are_called_as_their_arm_calls_them():
    """Guards against the left arm's pictures from the right one's wrist."""
    drivers = drivers_of("handover", cameras=("front", "wrist"))
    assert [list(driver.cameras) for driver in drivers] == [["front", "wrist"]] * 2
    assert [list(driver._views) for driver in drivers] == [["front", "wrist"], ["front", "right_wrist"]]
    with pytest.raises(RobotError, match="unknown camera"):
        drivers_of("handover", cameras=("wirst",))


def test_one_arm_of_two_must_be_named():
    """Guards against half a scene that is taken for the whole."""
    with pytest.raises(RobotError, match="handover/left, handover/right"):
        MujocoDriver("handover")
    with pytest.raises(RobotError, match="2 arms: name one"):
        build("mujoco", "handover", "lockstep")
    assert MujocoDriver("handover/right").scene == "handover/right"
