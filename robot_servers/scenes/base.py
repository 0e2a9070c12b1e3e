# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""What a simulated scene is, and the few helpers that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from robot_servers.interface import Array, Limits

FRANKA = Path(__file__).with_name("franka.xml")
FINGER_TRAVEL = 0.04  # m per finger
OBJECT_BITS = {"contype": 2, "conaffinity": 3}  # meets the robot (bit 1) and other objects (bit 2)
LIVE_SOLVER = {"solref": (0.004, 1.0), "solimp": (0.97, 0.995, 0.0005, 0.5, 2.0)}  # the stiffest contact at 500 Hz


@dataclass(frozen=True)
class Mount:
    """Where an arm stands: ``prefix`` of its names in the model, ``pose`` (7,) of its base frame in the world's."""

    prefix: str = ""
    pose: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def _one_arm() -> Mapping[str, Mount]:
    return {"": Mount()}


@dataclass(frozen=True)
class Scene:
    """One simulated table. All functions are free of hidden state.

    ``build()`` makes a new model. ``place(model, data, rng)`` puts the objects where the generator says;
    the joints are home already. ``ground_truth(model, data)`` gives object poses (7,) m and quaternion
    xyzw in the world frame, and facts (bool), "success" among them. ``home_q`` (7,) rad; ``gripper`` is the
    opening at home (0 closed … 1 open); ``limits`` are the widest that a task may ask for. ``mounts`` names the
    arms, to all of which the rest applies; the only arm of a scene has no name, and its base frame is the world's.
    """

    name: str
    limits: Limits
    home_q: tuple[float, ...]
    gripper: float
    build: Callable[[], mujoco.MjModel]
    place: Callable[[mujoco.MjModel, mujoco.MjData, np.random.Generator], None]
    ground_truth: Callable[[mujoco.MjModel, mujoco.MjData], Mapping[str, Any]]
    mounts: Mapping[str, Mount] = field(default_factory=_one_arm)


def franka_on_table() -> mujoco.MjSpec:
    """The arm behind a table whose top is the plane z = 0 of the base frame, with the camera ``front``."""
    spec = mujoco.MjSpec.from_file(str(FRANKA))
    world = spec.worldbody
    box = mujoco.mjtGeom.mjGEOM_BOX
    world.add_geom(
        name="table", type=box, size=[0.36, 0.5, 0.02], pos=[0.5, 0, -0.02], rgba=[0.5, 0.58, 0.62, 1], **OBJECT_BITS
    )
    world.add_geom(type=box, size=[0.7, 0.9, 0.01], pos=[0.3, 0, -0.06], rgba=[0.3, 0.33, 0.38, 1], contype=0)
    world.add_geom(type=box, size=[0.01, 1.6, 1.2], pos=[-0.6, 0, 0.5], rgba=[0.5, 0.56, 0.6, 1], contype=0)
    world.add_camera(name="front", pos=[1.12, 0, 0.46], xyaxes=[0, 1, 0, -0.52, 0, 0.854], fovy=37)
    return spec


def add_block(spec: mujoco.MjSpec, name: str, half: tuple[float, float, float], x: float, mass: float) -> None:
    """A free red block on the table: ``half`` its half sizes m, ``x`` m, ``mass`` kg; body and joint have its name."""
    body = spec.worldbody.add_body(name=name, pos=[x, 0, half[2]])
    body.add_freejoint(name=name)
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=half,
        mass=mass,
        rgba=[0.86, 0.12, 0.1, 1],
        friction=[0.8, 0.02, 0.0002],
        condim=4,
        **OBJECT_BITS,
        **LIVE_SOLVER,
    )


def pose_of(position: Array, quat_wxyz: Array) -> Array:
    """Pose (7,) scalar-last from MuJoCo's position (3,) and scalar-first quaternion (4,)."""
    return np.array([*position, *quat_wxyz[1:], quat_wxyz[0]])


def set_free_pose(model: mujoco.MjModel, data: mujoco.MjData, joint: str, position: Array, yaw: float) -> None:
    """Put a free body at ``position`` (3,) m, turned by ``yaw`` rad about the vertical, at rest."""
    start = model.joint(joint).qposadr[0]
    data.qpos[start : start + 7] = [*position, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
    velocity = model.joint(joint).dofadr[0]
    data.qvel[velocity : velocity + 6] = 0.0
