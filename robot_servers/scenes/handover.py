# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""Two arms face each other across a table; a bar lies before the left one and is to end in the right one's hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from robot_servers.interface import Limits
from robot_servers.scenes.base import (
    FRANKA,
    Mount,
    Scene,
    add_block,
    franka_on_table,
    pose_of,
    set_free_pose,
)

HOME_Q = (0.0, -0.2913970261515495, 0.0, -2.760431817066911, 0.0, 2.469034790915362, np.pi / 4)  # TCP (0.38, 0, 0.2)
LIMITS = Limits((0.25, -0.25, 0.012), (0.7, 0.25, 0.5), tilt=0.6, step=0.1, turn=0.5, speed=1.0, acceleration=13.0)
MOUNTS = {
    "left": Mount(),
    "right": Mount("right_", (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)),  # turned by half a turn about the vertical
}

BAR = (0.13, 0.015, 0.015)  # m, half sizes
GRIP = 0.085  # m from the bar's centre to where either hand takes it: the hands are 5 cm wide there
MASS = 0.1  # kg
FIELD = ((0.42, 0.5), (-0.06, 0.06))  # m, x and y of the bar's centre
YAW = 0.1  # rad, ±
RAISED = 0.10  # m above the table: success is the bar this high, between the right fingers …
AWAY = 0.05  # m between the left TCP and the bar's left grip: … and let go of by the left hand
PADS = {arm: {f"{mount.prefix}{side}_pad" for side in ("left", "right")} for arm, mount in MOUNTS.items()}


def _add_right_arm(spec: mujoco.MjSpec) -> None:
    """A second arm opposite; its collision bits are its own, so that the two hands can meet."""
    mount = MOUNTS["right"]
    arm = mujoco.MjSpec.from_file(str(FRANKA))
    arm.delete(arm.light("lamp"))  # the scene has one
    x, y, z, qx, qy, qz, qw = mount.pose
    spec.attach(arm, prefix=mount.prefix, frame=spec.worldbody.add_frame(pos=[x, y, z], quat=[qw, qx, qy, qz]))
    for geom in spec.geoms:
        if geom.parent.name.startswith(mount.prefix) and geom.contype:
            geom.contype, geom.conaffinity = 4, 3


def _build() -> mujoco.MjModel:
    spec = franka_on_table()
    _add_right_arm(spec)
    front = spec.camera("front")  # from the side: the usual place is taken by the other arm
    front.pos, front.alt.xyaxes = [0.5, -0.95, 0.48], [1, 0, 0, 0, 0.3, 0.954]
    add_block(spec, "bar", BAR, 0.46, MASS)
    return spec.compile()


def _place(model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator) -> None:
    x, y = (rng.uniform(*bounds) for bounds in FIELD)
    set_free_pose(model, data, "bar", np.array([x, y, BAR[2]]), rng.uniform(-YAW, YAW))


def _ground_truth(model: mujoco.MjModel, data: mujoco.MjData) -> Mapping[str, Any]:
    bar, along = data.body("bar"), data.body("bar").xmat.reshape(3, 3)[:, 0]
    ends = {"left": bar.xpos - GRIP * along, "right": bar.xpos + GRIP * along}
    touching = _touching(model, data, int(bar.id))
    held = {arm: pads <= touching for arm, pads in PADS.items()}
    away = np.linalg.norm(data.site(f"{MOUNTS['left'].prefix}tcp").xpos - ends["left"]) >= AWAY
    passed = bar.xpos[2] >= RAISED and held["right"] and not held["left"] and away
    return {
        "bar": pose_of(bar.xpos, bar.xquat),
        **{f"{arm}_grip": pose_of(end, bar.xquat) for arm, end in ends.items()},
        **{f"{arm}_holds": holds for arm, holds in held.items()},
        "success": bool(passed),
    }


def _touching(model: mujoco.MjModel, data: mujoco.MjData, body: int) -> set[str]:
    """The geoms, by name, that touch this body."""
    pairs = data.contact.geom[data.contact.exclude == 0]
    owners = model.geom_bodyid[pairs]
    return {model.geom(int(other)).name for other in pairs[:, ::-1][owners == body]}


SCENE = Scene("handover", LIMITS, HOME_Q, 1.0, _build, _place, _ground_truth, MOUNTS)
