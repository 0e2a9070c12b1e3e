"""Rotations and poses: conventions that, once swapped, turn an arm the wrong way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_servers import geometry as g
from robot_servers.interface import Array

ANGLE = st.floats(-3.1, 3.1)
VECTOR = st.tuples(ANGLE, ANGLE, ANGLE).map(np.array)
SEED = st.integers(0, 2**32 - 1)


def random_pose(seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(-1, 1, 3), g.quat_normalise(rng.normal(size=4))])


def same_rotation(a: Array, b: Array, tolerance: float = 1e-6) -> bool:
    return g.quat_angle(a, b) < tolerance


@settings(max_examples=300, deadline=None)
@given(SEED, VECTOR)
def test_translation_in_the_tcp_frame_does_not_rotate(seed: int, move: Array) -> None:
    """Guards against a pure TCP-frame translation that turns the arm in the base frame."""
    pose = random_pose(seed)
    moved = g.apply_delta(pose, np.concatenate([move, np.zeros(3)]))
    assert np.abs(moved[3:] - g.quat_normalise(pose[3:])).max() < 1e-12
    assert np.linalg.norm(moved[:3] - pose[:3]) == pytest.approx(np.linalg.norm(move), abs=1e-12)


@settings(max_examples=300, deadline=None)
@given(SEED, VECTOR, st.floats(0.0, 3.1))
def test_action_to_base_to_tcp_round_trips(seed: int, move: Array, angle: float) -> None:
    """Guards against an action that, sent to the base frame and read back in the TCP frame, is another action."""
    pose = random_pose(seed)
    axis = random_pose(seed + 1)[3:6]
    delta = np.concatenate([move, axis / np.linalg.norm(axis) * angle])
    assert np.abs(g.delta_between(pose, g.apply_delta(pose, delta)) - delta).max() < 1e-6


@settings(max_examples=300, deadline=None)
@given(SEED)
def test_euler_round_trips(seed: int) -> None:
    """Guards against another Euler order or a scalar-first quaternion on one side of the conversion."""
    quat = random_pose(seed)[3:]
    assert same_rotation(g.euler_to_quat(g.quat_to_euler(quat)), quat)


@settings(max_examples=200, deadline=None)
@given(ANGLE, st.sampled_from([-math.pi / 2, math.pi / 2]), ANGLE)
def test_euler_round_trips_in_gimbal_lock(roll: float, pitch: float, yaw: float) -> None:
    """Guards against a jump of the orientation where roll and yaw are one axis."""
    quat = g.euler_to_quat(np.array([roll, pitch, yaw]))
    assert same_rotation(g.euler_to_quat(g.quat_to_euler(quat)), quat, 1e-5)


def test_quaternions_are_scalar_last() -> None:
    """Guards against the scalar-first convention: a quarter turn about z takes x to y."""
    quarter = np.array([0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5)])
    assert g.quat_rotate(quarter, np.array([1.0, 0.0, 0.0])) == pytest.approx([0.0, 1.0, 0.0])
    assert g.euler_to_quat(np.array([0.0, 0.0, math.pi / 2])) == pytest.approx(quarter)
    assert g.quat_to_rotvec(quarter) == pytest.approx([0.0, 0.0, math.pi / 2])


def test_euler_angles_are_extrinsic_xyz() -> None:
    """Guards against intrinsic angles: first about the fixed x axis, then y, then z."""
    x, y, z = (g.quat_to_matrix(g.rotvec_to_quat(a * e)) for a, e in zip((0.3, -0.5, 0.7), np.eye(3), strict=True))
    assert g.quat_to_matrix(g.euler_to_quat(np.array([0.3, -0.5, 0.7]))) == pytest.approx(z @ y @ x)


@settings(max_examples=300, deadline=None)
@given(SEED)
def test_matrices_rotation_vectors_and_inverses_agree(seed: int) -> None:
    """Guards against one representation that disagrees with the others."""
    pose, other = random_pose(seed), random_pose(seed + 1)
    matrix = g.quat_to_matrix(pose[3:])
    assert matrix @ matrix.T == pytest.approx(np.eye(3), abs=1e-12) and np.linalg.det(matrix) == pytest.approx(1.0)
    assert same_rotation(g.matrix_to_quat(matrix), pose[3:])
    assert same_rotation(g.rotvec_to_quat(g.quat_to_rotvec(pose[3:])), pose[3:])
    assert matrix @ g.quat_to_matrix(other[3:]) == pytest.approx(g.quat_to_matrix(g.quat_mul(pose[3:], other[3:])))
    assert g.pose_mul(pose, g.pose_inv(pose)) == pytest.approx([0, 0, 0, 0, 0, 0, 1], abs=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-14, 1e-9, 1e-5, math.pi - 1e-7, math.pi])
def test_small_and_half_turns(angle: float) -> None:
    """Guards against division by the sine of an angle that is nearly zero or nearly π."""
    vector = np.array([0.6, 0.0, 0.8]) * angle
    back = g.quat_to_rotvec(g.rotvec_to_quat(vector))
    assert min(np.abs(back - vector).max(), np.abs(back + vector).max()) < 1e-9


def test_angle_takes_the_shorter_way() -> None:
    """Guards against q and −q, the same orientation, being taken for a full turn."""
    quat = random_pose(3)[3:]
    assert g.quat_angle(quat, -quat) == pytest.approx(0.0, abs=1e-7)
