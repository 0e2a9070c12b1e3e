"""What a person taught, as the source of a task file; and where it waits until that is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from robot_servers.geometry import quat_angle
from robot_servers.interface import Array, Limits
from serl_core.config import AXES, ConfigError, Task

MARGIN = 0.01  # m around what was taught; not downwards: there is the table
TILT_MARGIN = 0.1  # rad beyond the largest tilt that was taught
SIDE = 0.02  # m, least side of a workspace
TURNS = 0.1  # rad of tilt among the taught poses from which on the policy turns the hand too
NOISE = (0.01, 0.01, 0.005)  # m by which episodes begin beside the start pose, where the box allows it
CONTROL_HZ = 10.0


@dataclass(frozen=True)
class Taught:
    """One pose as it was shown: (7,) m and quaternion xyzw, base frame; and the gripper, 0 closed … 1 open."""

    pose: tuple[float, ...]
    gripper: float


@dataclass(frozen=True)
class Lesson:
    """Everything that was taught of one task. ``cameras``: name → what ``serl server`` is told about it."""

    name: str
    about: str
    robot: str
    scene: str
    start: Taught
    target: Taught
    corners: tuple[Taught, ...]
    grasp: Taught | None = None
    gripper: bool = False  # whether the policy opens and closes it
    turns: bool = False  # whether the policy turns the hand
    seconds: float = 10.0  # of the longest episode
    cameras: Mapping[str, str] = field(default_factory=dict)

    @property
    def poses(self) -> Array:
        """All of them (n, 7)."""
        shown = [self.start, self.target, *self.corners, *([self.grasp] if self.grasp else [])]
        return np.array([taught.pose for taught in shown])


def largest_tilt(poses: Array, orientation: Array) -> float:
    """The largest angle (rad) between ``orientation`` and those of ``poses`` (n, 7)."""
    return max(quat_angle(pose[3:], orientation) for pose in poses)


def workspace(lesson: Lesson, own: Limits) -> Limits:
    """The limits that the taught poses span, within the robot's ``own``. Raises `ConfigError` where they span none."""
    positions = lesson.poses[:, :3]
    span = np.ptp(positions, axis=0)
    flat = [f"{axis} only {size * 1000:.0f} mm" for axis, size in zip("xyz", span, strict=True) if size < SIDE]
    if flat:
        raise ConfigError(
            f"the corners are too close: they span along {', '.join(flat)}, but a workspace needs "
            f"{SIDE * 1000:.0f} mm; show one that is farther away in that direction"
        )
    low = np.maximum(np.floor((positions.min(axis=0) - [MARGIN, MARGIN, 0.0]) * 1e4) / 1e4, own.box_low)
    high = np.minimum(np.ceil((positions.max(axis=0) + MARGIN) * 1e4) / 1e4, own.box_high)
    orientation, tilt = _tilt(lesson, own)
    careful = Limits(_triple(low), _triple(high), orientation, tilt)
    scalars = {name: min(getattr(careful, name), getattr(own, name)) for name in _SCALARS}
    return Limits(_triple(low), _triple(high), orientation, tilt, **scalars)


_SCALARS = [item.name for item in fields(Limits) if item.name not in ("box_low", "box_high", "orientation", "tilt")]


def _triple(values: Array) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z


def _tilt(lesson: Lesson, own: Limits) -> tuple[tuple[float, float, float, float], float]:
    """From the start's orientation if that fits into the robot's own tilt, else from the robot's."""
    start = np.array(lesson.start.pose[3:])
    seen = largest_tilt(lesson.poses, start)
    room = own.tilt - quat_angle(start, np.array(own.orientation))
    if seen > room:
        return own.orientation, own.tilt
    x, y, z, w = start.tolist()
    return (x, y, z, w), math.floor(min(seen + TILT_MARGIN, room) * 1e4) / 1e4


def start_noise(start: Array, limits: Limits) -> tuple[float, float, float]:
    """How far (m) episodes may begin beside ``start`` (7,) without leaving the box."""
    room = np.minimum(start[:3] - limits.box_low, np.array(limits.box_high) - start[:3])
    return _triple(np.floor(np.clip(room, 0.0, NOISE) * 1e3) / 1e3)


# ── the source ───────────────────────────────────────────────────────────────────────────────────

HEAD = '''"""{about}

Taught on the robot "{robot}" with ``serl teach``. Every number may be edited.
"""

from __future__ import annotations

import numpy as np

from robot_servers.interface import Limits
from serl_core.config import StartPose, Task

# TCP poses in the base frame: x, y, z in m, quaternion x, y, z, w
START = {start}
'''


GOALS = '''

def goals(rng: np.random.Generator) -> np.ndarray:
    """Where the TCP is when the task is done: the same place in every episode.

    Within ``goal_distance`` of it is a success: take less for a tight fit, or let a classifier judge (--judge).
    """
    return np.array(TARGET)

'''


def source(lesson: Lesson, own: Limits) -> str:
    """The text of the task file. Raises `ConfigError` if the taught poses span too little."""
    limits = workspace(lesson, own)
    parts = [HEAD.format(about=_words(lesson.about), robot=_words(lesson.robot), start=lesson.start.pose)]
    if lesson.grasp:
        parts.append(f"GRASP = {lesson.grasp.pose}  # gripper {lesson.grasp.gripper}\n")
    parts.append(f"TARGET = {lesson.target.pose}  # gripper {lesson.target.gripper}\n")
    parts += [_cameras(lesson.cameras), GOALS]
    parts.append(_task(lesson, limits))
    return "".join(parts)


def _words(text: str) -> str:
    """One line that cannot end the docstring it goes into: the file will be run."""
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _cameras(cameras: Mapping[str, str]) -> str:
    """Those which the server has to be told about; simulated ones have no more than a name."""
    lines = "".join(f"    {_string(text)},\n" for text in cameras.values() if "=" in text)
    return f"# Start the server with --camera and one of these, for each\nCAMERAS = (\n{lines})\n" if lines else ""


def _task(lesson: Lesson, limits: Limits) -> str:
    values: dict[str, str] = {
        "name": _string(lesson.name),
        "scene": _string(lesson.scene),
        "max_steps": str(math.ceil(lesson.seconds * CONTROL_HZ)),
        "start": f"StartPose(START, noise={start_noise(np.array(lesson.start.pose), limits)})",
        "limits": _limits(limits),
        "goals": "goals",
        "goal_distance": str(Task.goal_distance),
        "axes": _names(AXES if lesson.turns else AXES[:3]),
        **_steps(limits),
        "gripper": str(lesson.gripper),
        "start_gripper": str(lesson.start.gripper),
        "cameras": _names(tuple(lesson.cameras)),
    }
    lines = "".join(f"    {name}={value},\n" for name, value in values.items())
    return f"\nTASK = Task(\n{lines})\n"


def _names(names: tuple[str, ...]) -> str:
    return f"({', '.join(map(_string, names))}{',' * (len(names) == 1)})"


def _limits(limits: Limits) -> str:
    """Only what differs from the defaults, which are explained where they stand."""
    default = Limits(limits.box_low, limits.box_high)
    changed = [item.name for item in fields(Limits) if getattr(limits, item.name) != getattr(default, item.name)]
    values = [str(limits.box_low), str(limits.box_high), *(f"{name}={getattr(limits, name)}" for name in changed)]
    lines = "".join(f"        {value},\n" for value in values)
    return f"Limits(\n{lines}    )"


def _steps(limits: Limits) -> dict[str, str]:
    """Full speed along a diagonal must not be more than the guard grants, or actions lose their meaning."""
    wanted = {
        "step_translation": (limits.step, Task.step_translation),
        "step_rotation": (limits.turn, Task.step_rotation),
    }
    granted = {name: math.floor(bound / math.sqrt(3.0) * 1e4) / 1e4 for name, (bound, _) in wanted.items()}
    return {name: str(value) for name, value in granted.items() if value < wanted[name][1]}


# ── what was said so far ─────────────────────────────────────────────────────────────────────────


class Notebook:
    """Answers by name, on disk after every single one: what a person showed by hand is not asked for twice."""

    def __init__(self, path: Path, answers: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.answers: dict[str, Any] = dict(answers or {})

    @classmethod
    def read(cls, path: Path) -> Notebook:
        """Raises `ConfigError` if it cannot be read as one."""
        try:
            answers = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): start afresh with --force") from error
        if not isinstance(answers, dict):
            raise ConfigError(f"{path} holds no answers: start afresh with --force")
        return cls(path, answers)

    def write(self, key: str, value: Any) -> None:
        """Keep an answer; the file is whole at every moment."""
        self.answers[key] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(self.path.name + ".new")
        beside.write_text(json.dumps(self.answers, indent=1) + "\n")
        beside.replace(self.path)
