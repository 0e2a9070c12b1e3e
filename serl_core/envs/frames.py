"""The relative frame: what is observed and commanded does not depend on where in the base frame it happens.

Positions and orientations are given relative to the episode's first TCP frame, velocities and
actions in the current TCP frame (HIL-SERL, arXiv 2410.21845, supplementary "relative frame").
A twist or delta is (6,): translation, then rotation vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from robot_servers.geometry import (
    apply_delta,
    pose_inv,
    pose_mul,
    quat_conj,
    quat_mul,
    quat_rotate,
    quat_to_matrix,
    quat_to_rotvec,
    rotvec_to_quat,
)
from robot_servers.interface import Array
from serl_core.config import AXES, Task


def relative_pose(origin: Array, pose: Array) -> Array:
    """``pose`` (7,) seen from ``origin`` (7,) as (9,): position m, then the first two columns of the rotation.

    Two columns of the matrix are continuous in the rotation, which quaternions and angles are not
    (Zhou et al. 2019, arXiv 1812.07035).
    """
    relative = pose_mul(pose_inv(origin), pose)
    return np.concatenate([relative[:3], quat_to_matrix(relative[3:])[:, :2].T.ravel()])


def in_tcp_frame(pose: Array, twist: Array) -> Array:
    """A base-frame ``twist`` (6,) at the TCP ``pose`` (7,), in the TCP's own frame."""
    inverse = quat_conj(pose[3:])
    return np.concatenate([quat_rotate(inverse, twist[:3]), quat_rotate(inverse, twist[3:])])


def in_base_frame(pose: Array, twist: Array) -> Array:
    """The inverse of `in_tcp_frame`."""
    return np.concatenate([quat_rotate(pose[3:], twist[:3]), quat_rotate(pose[3:], twist[3:])])


def point_in_tcp_frame(pose: Array, point: Array) -> Array:
    """A base-frame ``point`` (3,) m seen from the TCP ``pose`` (7,)."""
    return quat_rotate(quat_conj(pose[3:]), point - pose[:3])


def axis_scales(task: Task) -> Array:
    """What action 1 means on each of the six axes (6,): m, then rad."""
    return np.repeat([task.step_translation, task.step_rotation], 3)


def axis_indices(axes: Sequence[str]) -> list[int]:
    """Where the named axes sit in a twist."""
    return [AXES.index(axis) for axis in axes]


def action_to_delta(task: Task, action: npt.NDArray[np.floating]) -> Array:
    """The delta (6,) m and rad, TCP frame, that an action (A,) asks for; axes that are not controlled get 0."""
    delta = np.zeros(6)
    chosen = axis_indices(task.axes)
    delta[chosen] = action[: len(chosen)]
    return delta * axis_scales(task)


def delta_to_action(task: Task, delta: Array) -> npt.NDArray[np.float32]:
    """The motion entries of the action (len(axes),) that ask for ``delta``; the inverse of `action_to_delta`."""
    return (delta / axis_scales(task))[axis_indices(task.axes)].astype(np.float32)


def next_target(measured: Array, start: Array, delta: Array, axes: Sequence[str]) -> Array:
    """The target pose (7,): ``measured`` moved by ``delta`` in its own frame; other axes stay as in ``start``.

    Starting from the measured pose bounds the pressing force: the target never runs ahead by more
    than one step. Axes not in ``axes`` (of the frame of ``start``) would drift with every error of
    the measured pose, so they hold the start pose instead.
    """
    target = apply_delta(measured, delta)
    free = np.zeros(6, bool)
    free[axis_indices(axes)] = True
    if not free[:3].all():
        offset = np.where(free[:3], quat_rotate(quat_conj(start[3:]), target[:3] - start[:3]), 0.0)
        target[:3] = start[:3] + quat_rotate(start[3:], offset)
    if not free[3:].all():
        turn = np.where(free[3:], quat_to_rotvec(quat_mul(quat_conj(start[3:]), target[3:])), 0.0)
        target[3:] = quat_mul(start[3:], rotvec_to_quat(turn))
    return target
