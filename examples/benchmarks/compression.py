"""What lossless compression of frames would save, and what it would cost: the reason why the store does without."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable

import numpy as np

from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import RobotError

NOISE = 2.0  # standard deviation of a small camera's sensor noise indoors, in steps of 8 bit
FRAMES = 20


def rendered() -> list[np.ndarray]:
    """Frames (128, 128, 3) uint8 of both simulated cameras; smooth gradients where nothing can be rendered."""
    robot = GuardedRobot(MujocoDriver("pick_cube", cameras=("front", "wrist")))
    found: list[np.ndarray] = []
    try:
        robot.connect()
        while len(found) < FRAMES:
            robot.advance(0.1)
            found += [frame.image for frame in robot.frames().values()]
    except RobotError:
        ramp = np.linspace(0, 255, 128).astype(np.uint8)
        found = [np.stack([np.tile(np.roll(ramp, shift), (128, 1))] * 3, axis=-1) for shift in range(FRAMES)]
    finally:
        robot.close()
    return found


def noisy(frames: list[np.ndarray]) -> list[np.ndarray]:
    """The same as a real sensor would see them."""
    rng = np.random.default_rng(0)
    return [np.clip(frame + rng.normal(0, NOISE, frame.shape), 0, 255).astype(np.uint8) for frame in frames]


def compressors() -> dict[str, Callable[[bytes], bytes]]:
    """What MCAP readers understand, as far as it is installed, and what Python always has."""
    found: dict[str, Callable[[bytes], bytes]] = {"zlib 1": lambda data: zlib.compress(data, 1)}
    try:
        import lz4.frame
        import zstandard
    except ImportError:  # they come with the reference reader of MCAP
        return found
    zstd = zstandard.ZstdCompressor(level=1)
    return {"zstd 1": zstd.compress, "lz4": lz4.frame.compress, **found}


def compression() -> dict[str, float]:
    """Share of the bytes that is left, and CPU time in ms, per transition of two cameras."""
    clean = rendered()
    figures: dict[str, float] = {}
    for kind, frames in (("rendered", clean), ("noisy", noisy(clean))):
        payloads = [frame.tobytes() for frame in frames]
        for name, compress in compressors().items():
            begun = time.process_time()
            size = sum(len(compress(payload)) for payload in payloads)
            spent = 1000 * (time.process_time() - begun)
            figures[f"{kind}, {name}: bytes left"] = size / sum(map(len, payloads))
            figures[f"{kind}, {name}: cpu ms"] = 2 * spent / len(payloads)
    return figures
