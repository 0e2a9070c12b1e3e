"""The picture in the README: the simulated arm at its three tasks, ``python -m examples.picture``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from robot_servers.drivers.mujoco import MujocoDriver

SIZE = (360, 480)  # rows, columns
OUT = Path(__file__).with_name("picture.png")


def look(scene: str, camera: str, seed: int) -> np.ndarray:
    """One camera's picture of a scene, (rows, columns, 3) uint8."""
    driver = MujocoDriver(scene, cameras=(camera,), image_size=SIZE)
    driver.connect()
    try:
        driver.place_objects(seed)
        return driver.frames()[camera].image
    finally:
        driver.close()


def main() -> None:
    """Front view of both tasks, and what the wrist camera sees of each."""
    tasks = ("pick_cube", "peg_insertion")
    rows = [np.hstack([look(task, camera, seed=3) for camera in ("front", "wrist")]) for task in tasks]
    Image.fromarray(np.vstack(rows)).save(OUT)
    print(OUT)


if __name__ == "__main__":
    main()
