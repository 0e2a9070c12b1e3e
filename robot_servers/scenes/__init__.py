"""Simulated tables: one file per scene, found by name. Needs ``mujoco``."""

from __future__ import annotations

import difflib

from robot_servers.interface import RobotError
from robot_servers.scenes import peg_insertion, pick_cube, reach
from robot_servers.scenes.base import Scene

SCENES: dict[str, Scene] = {scene.name: scene for scene in (reach.SCENE, pick_cube.SCENE, peg_insertion.SCENE)}


def load_scene(name: str) -> Scene:
    """The scene called ``name``. Raises `RobotError` with the nearest known name."""
    if name in SCENES:
        return SCENES[name]
    close = difflib.get_close_matches(name, SCENES, n=1, cutoff=0.4)
    hint = f'did you mean "{close[0]}"?' if close else f"known: {', '.join(sorted(SCENES))}"
    raise RobotError(f'unknown scene "{name}"; {hint}')
