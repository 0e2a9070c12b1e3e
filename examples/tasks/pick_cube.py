"""Pick up a cube from anywhere in a 20 × 20 cm field and lift it by 10 cm."""

from __future__ import annotations

import numpy as np

from robot_servers.interface import Array, Compliance, Limits, RobotState
from serl_core.config import Expert, Goal, StartPose, Task, Truth
from serl_core.envs.frames import point_in_tcp_frame

DOWN = (1.0, 0.0, 0.0, 0.0)  # the hand points at the table
HOVER = 0.06  # m above the cube while not yet above it
RESTING = 0.02  # m, height of the cube's centre on the table
LIFTED = RESTING + 0.125  # m; success is 10 cm above rest
GRASPED = 0.6  # opening of the gripper around the cube, with a margin
GRIP = 0.04  # m of motion that closing the gripper counts for


def holds(state: RobotState, cube: Array) -> bool:
    """Whether the fingers have closed around the cube."""
    return state.gripper < GRASPED and float(np.linalg.norm(state.pose[:3] - cube)) < 0.025


def goal(state: RobotState, truth: Truth) -> Goal:
    """Above the cube, down along a funnel, close, up."""
    cube, tcp = truth["cube"][:3], state.pose[:3]
    aside = float(np.linalg.norm(tcp[:2] - cube[:2]))
    if holds(state, cube):
        return towards(np.array([*tcp[:2], LIFTED]), 0.0)
    if aside < 0.012 and abs(tcp[2] - cube[2]) < 0.012:
        return towards(cube, 0.0)
    height = cube[2] + min(HOVER, 3.0 * max(0.0, aside - 0.008))
    if tcp[2] < height - 0.02 and aside > 0.02:  # too low beside the cube: sideways would push it away
        return towards(np.array([*tcp[:2], height]), 1.0)
    return towards(np.array([*cube[:2], height]), 1.0)


def towards(position: Array, gripper: float) -> Goal:
    """A way-point with the hand pointing down."""
    return Goal(np.concatenate([position, DOWN]), gripper)


def distance(state: RobotState, truth: Truth) -> float:
    """Metres left: to the cube, to close around it, to lift it."""
    cube, tcp = truth["cube"][:3], state.pose[:3]
    lift = max(0.0, RESTING + 0.10 - cube[2])
    if holds(state, cube):
        return lift
    reach = float(np.linalg.norm(tcp - cube))
    closing = (state.gripper - 0.5) / 0.5 if reach < 0.017 else 1.0 + (1.0 - state.gripper)
    return reach + GRIP * max(0.0, closing) + lift


def privileged(state: RobotState, truth: Truth) -> Array:
    """The cube (3,) m in the TCP frame, and its height (1,) m above the table."""
    cube = truth["cube"][:3]
    return np.array([*point_in_tcp_frame(state.pose, cube), cube[2]])


TASK = Task(
    name="pick_cube",
    scene="pick_cube",
    max_steps=100,
    start=StartPose((0.5, 0.0, 0.14, *DOWN), noise=(0.03, 0.03, 0.02)),
    limits=Limits((0.36, -0.15, 0.014), (0.64, 0.15, 0.3), step=0.07, speed=1.0, acceleration=13.0),
    expert=Expert(goal, distance),
    privileged=privileged,
    privileged_dim=4,
    axes=("x", "y", "z"),
    step_translation=0.035,
    gripper=True,
    compliance=Compliance(translational_clip=(0.02, 0.02, 0.02), translational_clip_neg=(0.02, 0.02, 0.02)),
    reset_compliance=Compliance(
        rotational_stiffness=250.0,
        rotational_damping=9.0,
        translational_clip=(0.03, 0.03, 0.03),
        translational_clip_neg=(0.03, 0.03, 0.03),
    ),
    discount=0.97,
)
