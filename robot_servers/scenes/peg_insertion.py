# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""A round 16 mm peg, held by friction only, for a 17 mm hole in a block on the table.

The hole is a ring of boxes whose inner faces touch a circle of 8.5 mm radius from outside, above it a
ring of tilted boxes: a chamfer of 1.5 mm at 45°. A box may be wider than its share of the ring without
entering the hole, so wide boxes make the solid block as well. The peg is a cylinder with a half
ellipsoid as its rounded tip and a box as its head, which the fingers hold flat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from robot_servers.interface import Limits
from robot_servers.scenes.base import LIVE_SOLVER, OBJECT_BITS, Scene, franka_on_table, pose_of, set_free_pose

HOME_Q = (0.0, 0.17433755879686857, 0.0, -2.3998953892260455, 0.0, 2.5742329480229142, np.pi / 4)  # TCP (0.5, 0, 0.14)
LIMITS = Limits((0.4, -0.12, 0.06), (0.6, 0.12, 0.35), tilt=0.6, step=0.1, turn=0.5, speed=1.0, acceleration=13.0)

PEG_RADIUS = 0.008  # m
TIP = 0.003  # height of the rounded tip
SHAFT = 0.050  # tip to head
HEAD = (0.009, 0.008, 0.012)  # half sizes; the fingers press on ±y
GRASP_HEIGHT = SHAFT + HEAD[2]  # TCP above the peg's tip
PEG_MASS = 0.05  # kg

HOLE_RADIUS = 0.0085
BLOCK_HEIGHT = 0.025
BLOCK_RADIUS = 0.032
CHAMFER = 0.0015
SEGMENTS = 16
FIELD = ((0.48, 0.52), (-0.02, 0.02))  # m, x and y of the hole
DEPTH = 0.020  # success: the tip this far below the block's top …
CENTRED = 0.003  # … and this near to the hole's axis

PEG_MATERIAL = {"friction": [0.25, 0.005, 0.0001], "condim": 3, **OBJECT_BITS, **LIVE_SOLVER}
BOX = mujoco.mjtGeom.mjGEOM_BOX


def _add_peg(spec: mujoco.MjSpec) -> None:
    """The body's origin is the tip, its z axis points to the head."""
    peg = spec.worldbody.add_body(name="peg", pos=[0.5, 0, 0.08])
    peg.add_freejoint(name="peg")
    half = (SHAFT - TIP) / 2
    colour = {"rgba": [0.95, 0.78, 0.1, 1], **PEG_MATERIAL}
    peg.add_geom(
        name="shaft",
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[PEG_RADIUS, half, 0],
        pos=[0, 0, TIP + half],
        mass=PEG_MASS * 0.5,
        **colour,
    )
    peg.add_geom(
        name="tip",
        type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        size=[PEG_RADIUS, PEG_RADIUS, TIP],
        pos=[0, 0, TIP],
        mass=PEG_MASS * 0.1,
        **colour,
    )
    head = colour | {"rgba": [0.1, 0.35, 0.85, 1]}
    peg.add_geom(name="head", type=BOX, size=HEAD, pos=[0, 0, SHAFT + HEAD[2]], mass=PEG_MASS * 0.4, **head)


def _add_ring(block: mujoco.MjsBody, radius: float, low: float, high: float) -> None:
    """Upright boxes from ``radius`` outwards, between the heights ``low`` and ``high`` of the block's frame."""
    thickness = (BLOCK_RADIUS - radius) / 2
    size = [thickness, BLOCK_RADIUS * np.tan(np.pi / SEGMENTS), (high - low) / 2]
    for angle in np.arange(SEGMENTS) * 2 * np.pi / SEGMENTS:
        out = np.array([np.cos(angle), np.sin(angle), 0.0])
        block.add_geom(
            type=BOX,
            size=size,
            pos=out * (radius + thickness) + [0, 0, (low + high) / 2],
            quat=[np.cos(angle / 2), 0, 0, np.sin(angle / 2)],
            rgba=[0.12, 0.55, 0.35, 1],
            **PEG_MATERIAL,
        )


def _add_chamfer(block: mujoco.MjsBody) -> None:
    """Boxes tilted by 45° whose faces lead from ``HOLE_RADIUS + CHAMFER`` at the top to the hole's wall."""
    depth = CHAMFER / 2  # half thickness below the slanting face
    size = [CHAMFER / np.sqrt(2), (HOLE_RADIUS + CHAMFER) * np.tan(np.pi / SEGMENTS), depth]
    for angle in np.arange(SEGMENTS) * 2 * np.pi / SEGMENTS:
        out = np.array([np.cos(angle), np.sin(angle), 0.0])
        centre = out * (HOLE_RADIUS + CHAMFER / 2 + depth / np.sqrt(2)) - [0, 0, CHAMFER / 2 + depth / np.sqrt(2)]
        slant = [np.cos(np.pi / 8), 0.0, -np.sin(np.pi / 8), 0.0]  # about y, the inner edge down
        turned = np.zeros(4)
        mujoco.mju_mulQuat(turned, np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)]), np.array(slant))
        block.add_geom(type=BOX, size=size, pos=centre, quat=turned, rgba=[0.95, 0.95, 0.95, 1], **PEG_MATERIAL)


def _build() -> mujoco.MjModel:
    spec = franka_on_table()
    block = spec.worldbody.add_body(name="hole", pos=[0.5, 0, BLOCK_HEIGHT])  # origin: centre of the hole's mouth
    _add_ring(block, HOLE_RADIUS, -BLOCK_HEIGHT, -CHAMFER)
    _add_ring(block, HOLE_RADIUS + CHAMFER, -CHAMFER, 0.0)
    _add_chamfer(block)
    _add_peg(spec)
    return spec.compile()


def _place(model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator) -> None:
    """Bolt the block down somewhere and put the peg between the almost closed fingers."""
    model.body("hole").pos[:2] = [rng.uniform(*bounds) for bounds in FIELD]
    for finger in ("left_finger", "right_finger"):
        data.qpos[model.joint(finger).qposadr[0]] = HEAD[1] + 0.0002
    mujoco.mj_kinematics(model, data)
    set_free_pose(model, data, "peg", data.site("tcp").xpos - [0.0, 0.0, GRASP_HEIGHT], 0.0)


def _ground_truth(model: mujoco.MjModel, data: mujoco.MjData) -> Mapping[str, Any]:
    peg, hole = data.body("peg"), data.body("hole")
    offset = peg.xpos - hole.xpos
    inserted = offset[2] <= -DEPTH and np.linalg.norm(offset[:2]) <= CENTRED
    return {
        "peg": pose_of(peg.xpos, peg.xquat),
        "hole": pose_of(hole.xpos, hole.xquat),
        "success": bool(inserted),
    }


SCENE = Scene("peg_insertion", LIMITS, HOME_Q, 0.0, _build, _place, _ground_truth)
