# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""An empty table: nothing to achieve, the lightest scene, for measuring the controller and the clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from robot_servers.interface import Limits
from robot_servers.scenes.base import Scene, franka_on_table

HOME_Q = (0.0, -0.11008962203805858, 0.0, -2.2726977893144333, 0.0, 2.1626081672763746, np.pi / 4)  # TCP (0.5, 0, 0.3)
LIMITS = Limits((0.3, -0.3, 0.012), (0.7, 0.3, 0.6), tilt=0.8, step=0.1, turn=0.5, speed=1.0, acceleration=13.0)


def _build() -> mujoco.MjModel:
    return franka_on_table().compile()


def _place(model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator) -> None:
    """Nothing to place."""


def _ground_truth(model: mujoco.MjModel, data: mujoco.MjData) -> Mapping[str, Any]:
    return {"success": False}


SCENE = Scene("reach", LIMITS, HOME_Q, 1.0, _build, _place, _ground_truth)
