"""Which entry of an action is whose: motions of the arms first, in their order, then their grippers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serl_core.pairs import AnyTask

ROUNDING = 1e-6  # by which an action may exceed [−1, 1]


def labelled(arm: str, what: str, between: str = " ") -> str:
    """``what`` of the arm of that name, which a single arm does not have."""
    return f"{arm}{between}{what}" if arm else what


def action_names(task: AnyTask) -> tuple[str, ...]:
    """What each entry of an action (A,) is, e.g. "x" or "left x"."""
    arms = list(zip(task.names, task.arms, strict=True))
    motions = [labelled(name, axis) for name, arm in arms for axis in arm.axes]
    return *motions, *(labelled(name, "gripper") for name, arm in arms if arm.gripper)


def check_action(task: AnyTask, action: npt.NDArray[np.floating]) -> None:
    """Raises ValueError for an action that cannot be meant, naming the entry."""
    if np.shape(action) != (task.action_dim,):
        raise ValueError(f"action has shape {np.shape(action)}, expected ({task.action_dim},)")
    names = action_names(task)
    for index, value in enumerate(np.asarray(action, np.float64).tolist()):
        if not abs(value) <= 1.0 + ROUNDING:  # also catches nan
            raise ValueError(f"action[{index}] ({names[index]}) is {value}, expected a number in [−1, 1]")


def split_action(task: AnyTask, action: npt.NDArray[np.floating]) -> list[npt.NDArray[np.floating]]:
    """The action (A,) of all arms as one of each arm: its motions, then its gripper."""
    parts, at, gripper = [], 0, task.action_dim - task.grippers
    for arm in task.arms:
        motion = action[at : at + len(arm.axes)]
        parts.append(np.concatenate([motion, action[gripper : gripper + arm.grippers]]))
        at, gripper = at + len(arm.axes), gripper + arm.grippers
    return parts


def join_actions(task: AnyTask, parts: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The inverse of `split_action`."""
    arms = list(zip(parts, task.arms, strict=True))
    motions = [part[: len(arm.axes)] for part, arm in arms]
    return np.concatenate([*motions, *(part[len(arm.axes) :] for part, arm in arms)])
