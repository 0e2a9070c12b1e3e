"""What is wrong with what the arm measures, as pure functions: name of the alarm → what to tell a person."""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from robot_servers.interface import JointLimits, Limits, RobotState
from robot_servers.limits import RELEASE, norm, outside

PRESSING = frozenset({"force", "torque"})


def press_alarms(state: RobotState, limits: Limits, before: Set[str]) -> dict[str, str]:
    """Too much force or torque. An alarm in ``before`` lasts until it has sunk below `RELEASE` of the limit."""
    found = {}
    for name, vector, bound, unit in (
        ("force", state.force, limits.force, "N"),
        ("torque", state.torque, limits.torque, "Nm"),
    ):
        size = norm(vector)
        if size > bound * (RELEASE if name in before else 1.0):
            found[name] = f"{name} {size:.1f} {unit} at the TCP (limit {bound:g} {unit})"
    return found


def place_alarms(state: RobotState, limits: Limits) -> dict[str, str]:
    """A pose out of box or tilt by more than the margin."""
    return {
        bend.limit: f"pushed beyond the margin: {bend.limit} is {bend.value:.3f} (bound {bend.bound:.3f})"
        for bend in outside(state.pose, limits, margin=True)
    }


def joint_alarms(state: RobotState, joints: JointLimits) -> dict[str, str]:
    """Joints out of their range, or faster than they may be."""
    q, dq = state.q, np.abs(state.dq)
    if not ((q < joints.low) | (q > joints.high) | (dq > joints.speed)).any():
        return {}
    found = {}
    for index, (value, rate) in enumerate(zip(q.tolist(), dq.tolist(), strict=True)):
        if not joints.low[index] <= value <= joints.high[index]:
            found[f"joint {index + 1}"] = f"joint {index + 1} is at {value:.2f} rad, out of its range"
        if rate > joints.speed[index]:
            found[f"joint {index + 1} speed"] = f"joint {index + 1} turns at {rate:.1f} rad/s, too fast"
    return found
