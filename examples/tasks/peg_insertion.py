"""Put a round peg, held by the gripper, into a hole with 1 mm diametral clearance."""

from __future__ import annotations

import numpy as np

from robot_servers.interface import Array, Compliance, Limits, RobotState
from serl_core.config import Expert, Goal, StartPose, Task, Truth
from serl_core.envs.frames import point_in_tcp_frame

AXES = ("x", "y", "z")  # add "rx", "ry", "rz" to let the policy tilt the peg; the expert keeps it upright
DOWN = (1.0, 0.0, 0.0, 0.0)  # the hand points at the table
ABOVE = 0.008  # m between the tip and the block while the peg is not yet over the hole
ALIGNED = 0.0012  # m from the hole's axis at which the chamfer catches the tip
INSERTED = 0.020  # m below the block's top: success


def goal(state: RobotState, truth: Truth) -> Goal:
    """Over the hole, down until the tip is aligned, then press on to the bottom."""
    tip, hole = truth["peg"][:3], truth["hole"][:3]
    aside = float(np.linalg.norm(tip[:2] - hole[:2]))
    inside = tip[2] < hole[2] - 0.002 and aside < 0.003
    depth = -INSERTED - 0.008 if inside or aside < ALIGNED else min(ABOVE + aside, 0.03)
    wanted = hole + np.array([0.0, 0.0, depth])
    return Goal(np.concatenate([state.pose[:3] + wanted - tip, DOWN]), 0.0)


def distance(state: RobotState, truth: Truth) -> float:
    """Metres left: sideways to the hole's axis, then down; sideways counts double, as it comes first."""
    offset = truth["peg"][:3] - truth["hole"][:3]
    return 2.0 * float(np.linalg.norm(offset[:2])) + max(0.0, float(offset[2]) + INSERTED)


def privileged(state: RobotState, truth: Truth) -> Array:
    """The hole (3,) m seen from the peg's tip, and the tip (3,) m seen from the TCP; both in the TCP frame."""
    tip = point_in_tcp_frame(state.pose, truth["peg"][:3])
    return np.concatenate([point_in_tcp_frame(state.pose, truth["hole"][:3]) - tip, tip])


TASK = Task(
    name="peg_insertion",
    scene="peg_insertion",
    max_steps=100,
    start=StartPose((0.5, 0.0, 0.14, *DOWN), noise=(0.025, 0.025, 0.01)),
    limits=Limits((0.42, -0.08, 0.062), (0.58, 0.08, 0.2), speed=1.0, acceleration=13.0),
    expert=Expert(goal, distance),
    privileged=privileged,
    privileged_dim=6,
    axes=AXES,
    step_translation=0.012,
    step_rotation=0.05,
    gripper=False,
    start_gripper=0.0,
    compliance=Compliance(),
    reset_compliance=Compliance(rotational_stiffness=250.0, rotational_damping=9.0),
    discount=0.98,
)
