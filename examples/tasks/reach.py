"""Bring the TCP to a goal somewhere above the table: no camera, no gripper, no ground truth, so any arm can do it."""

from __future__ import annotations

import numpy as np

from robot_servers.interface import Array, Compliance, Limits, RobotState
from serl_core.config import Expert, Goal, StartPose, Task, Truth
from serl_core.envs.frames import point_in_tcp_frame

DOWN = (1.0, 0.0, 0.0, 0.0)  # the hand points at the table
GOALS_LOW, GOALS_HIGH = (0.38, -0.18, 0.12), (0.62, 0.18, 0.4)  # m


def draw_goal(rng: np.random.Generator) -> Array:
    """A pose (7,) anywhere in the box of goals, the hand pointing down."""
    return np.array([*rng.uniform(GOALS_LOW, GOALS_HIGH), *DOWN])


def goal(state: RobotState, truth: Truth) -> Goal:
    """Straight there."""
    return Goal(truth["goal"], 1.0)


def distance(state: RobotState, truth: Truth) -> float:
    """Metres left."""
    return float(np.linalg.norm(truth["goal"][:3] - state.pose[:3]))


def privileged(state: RobotState, truth: Truth) -> Array:
    """The goal (3,) m in the TCP frame."""
    return point_in_tcp_frame(state.pose, truth["goal"][:3])


COMPLIANCE = Compliance(translational_clip=(0.03, 0.03, 0.03), translational_clip_neg=(0.03, 0.03, 0.03))
TASK = Task(
    name="reach",
    scene="reach",
    max_steps=60,
    start=StartPose((0.5, 0.0, 0.28, *DOWN), noise=(0.05, 0.05, 0.05)),
    limits=Limits((0.34, -0.22, 0.08), (0.66, 0.22, 0.56), step=0.07),
    goals=draw_goal,
    expert=Expert(goal, distance),
    privileged=privileged,
    privileged_dim=3,
    axes=("x", "y", "z"),
    step_translation=0.03,
    gripper=False,
    compliance=COMPLIANCE,
    reset_compliance=COMPLIANCE,
    cameras=(),
    joint_reset_every=20,
    discount=0.96,
)
