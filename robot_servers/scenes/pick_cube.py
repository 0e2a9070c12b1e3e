# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""A 4 cm cube anywhere in a 20 × 20 cm field of the table; success is the cube held 10 cm higher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from robot_servers.interface import Limits
from robot_servers.scenes.base import Scene, add_block, franka_on_table, pose_of, set_free_pose

HOME_Q = (0.0, 0.04589847818485129, 0.0, -2.37628989240732, 0.0, 2.4221883705921714, np.pi / 4)  # TCP (0.5, 0, 0.2)
LIMITS = Limits((0.3, -0.25, 0.012), (0.7, 0.25, 0.5), tilt=0.6, step=0.1, turn=0.5, speed=1.0, acceleration=13.0)
HALF = 0.02  # m
MASS = 0.06  # kg
FIELD = ((0.4, 0.6), (-0.1, 0.1))  # m, x and y of the cube's centre
YAW = 0.3  # rad, ±
LIFT = 0.10  # m above rest
HELD = 0.03  # m between TCP and cube: between the fingers, not thrown or pushed up


def _build() -> mujoco.MjModel:
    spec = franka_on_table()
    add_block(spec, "cube", (HALF, HALF, HALF), 0.5, MASS)
    return spec.compile()


def _place(model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator) -> None:
    x, y = (rng.uniform(*bounds) for bounds in FIELD)
    set_free_pose(model, data, "cube", np.array([x, y, HALF]), rng.uniform(-YAW, YAW))


def _ground_truth(model: mujoco.MjModel, data: mujoco.MjData) -> Mapping[str, Any]:
    body, tcp = data.body("cube"), data.site("tcp")
    lifted = body.xpos[2] >= HALF + LIFT
    held = np.linalg.norm(body.xpos - tcp.xpos) <= HELD
    return {"cube": pose_of(body.xpos, body.xquat), "success": bool(lifted and held)}


SCENE = Scene("pick_cube", LIMITS, HOME_Q, 1.0, _build, _place, _ground_truth)
