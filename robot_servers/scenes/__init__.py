"""Simulated tables: one file per scene, found by name. Needs ``mujoco``."""

from __future__ import annotations

from robot_servers.interface import RobotError, nearest
from robot_servers.scenes import handover, peg_insertion, pick_cube, reach
from robot_servers.scenes.base import Scene

_ALL = (reach.SCENE, pick_cube.SCENE, peg_insertion.SCENE, handover.SCENE)
SCENES: dict[str, Scene] = {scene.name: scene for scene in _ALL}


def load_scene(name: str) -> Scene:
    """The scene called ``name``. Raises `RobotError` with the nearest known name."""
    if name in SCENES:
        return SCENES[name]
    raise RobotError(f'unknown scene "{name}"{nearest(name, SCENES)}')
