import numpy as np
from env_parts import REACH
from hypothesis import given
from hypothesis import strategies as st

from robot_servers.geometry import delta_between, pose_mul, quat_angle, quat_normalise, rotvec_to_quat
from serl_core.config import AXES
from serl_core.envs.frames import (
    action_to_delta,
    delta_to_action,
    in_base_frame,
    in_tcp_frame,
    next_target,
    point_in_tcp_frame,
    relative_pose,
)

number = st.floats(-1.0, 1.0)
vectors = st.lists(number, min_size=3, max_size=3).map(np.array)
poses = st.tuples(vectors, vectors).map(lambda pair: np.concatenate([pair[0], quat_normalise(rotvec_to_quat(pair[1]))]))
twists = st.lists(number, min_size=6, max_size=6).map(np.array)


@given(poses, vectors)
def test_a_pure_translation_in_the_tcp_frame_turns_nothing_in_the_base_frame(pose, move):
    """Guards against rotations leaking in through the change of frame (an adjoint with a lever arm would)."""
    twist = np.array([*move, 0, 0, 0])
    assert not in_base_frame(pose, twist)[3:].any()
    target = next_target(pose, pose, 0.01 * twist, AXES)
    assert quat_angle(target[3:], pose[3:]) < 1e-7


@given(poses, twists)
def test_action_to_base_and_back_round_trips(pose, twist):
    """Guards against a wrong scale, axis order or inverse rotation, each of which would spoil every demonstration."""
    np.testing.assert_allclose(in_tcp_frame(pose, in_base_frame(pose, twist)), twist, atol=1e-6)
    task = REACH.__class__(**{**vars(REACH), "axes": AXES})
    action = twist.astype(np.float32)
    target = next_target(pose, pose, action_to_delta(task, action), AXES)
    np.testing.assert_allclose(delta_to_action(task, delta_between(pose, target)), action, atol=1e-6)


@given(poses, poses, twists)
def test_axes_that_are_not_controlled_hold_the_start_pose(measured, start, delta):
    """Guards against drift: without this, every error of the measured orientation would be kept for good."""
    target = next_target(measured, start, 0.01 * delta, ("x", "y", "z"))
    assert quat_angle(target[3:], start[3:]) < 1e-7
    flat = next_target(measured, start, 0.01 * delta, ("x", "y", "rz"))
    offset = delta_between(start, flat)
    np.testing.assert_allclose(offset[[2, 3, 4]], 0.0, atol=1e-9)


@given(poses, poses, poses)
def test_relative_poses_do_not_depend_on_where_the_robot_stands(base, origin, pose):
    """Guards the point of the relative frame: the same motion looks the same from every start."""
    seen = relative_pose(origin, pose)
    moved = relative_pose(pose_mul(base, origin), pose_mul(base, pose))
    np.testing.assert_allclose(seen, moved, atol=1e-9)
    np.testing.assert_allclose(point_in_tcp_frame(pose, pose_mul(pose, origin)[:3]), origin[:3], atol=1e-9)
