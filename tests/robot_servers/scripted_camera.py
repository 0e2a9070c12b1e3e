"""A camera whose behaviour a test turns on and off while the rig's thread reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from robot_servers.cameras.device import CameraLost, NoPicture, Shot

PATIENCE = 20.0  # s that a test waits for what a loaded machine may do late


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it, or fail saying what did not happen."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"did not happen: {what}"
        time.sleep(0.005)


class ScriptedCamera:
    """Satisfies `Camera`: (48, 64, 3) pictures whose bytes are the number, every ``period`` s.

    ``frozen``: the same picture under new numbers; ``repeating``: the same number; ``unplugged``: errors;
    ``hangs`` cleared: `read` and `open` do not come back until it is set.
    """

    def __init__(self, label: str = "scripted", period: float = 0.01, fps: float = 0.0, noisy: bool = True) -> None:
        self.label, self.latency, self.fps, self.noisy = label, 0.0, fps, noisy
        self.period = period
        self.frozen = self.repeating = self.unplugged = self.silent = self.hanging = False
        self.runs = threading.Event()
        self.runs.set()
        self.opened = self.closed = 0
        self.number = 0
        self.picture = 0
        self.threads: set[int] = set()

    def open(self) -> None:
        self.runs.wait()
        if self.unplugged:
            raise CameraLost(f"{self.label} is not connected")
        self.opened += 1
        self.number = 0

    def close(self) -> None:
        self.closed += 1

    def read(self, wait: float) -> Shot:
        self.threads.add(threading.get_ident())
        time.sleep(self.period)
        self.hanging = not self.runs.is_set()
        self.runs.wait()
        if self.unplugged:
            raise CameraLost(f"{self.label}: no such device")
        if self.silent:
            raise NoPicture(f"{self.label}: nothing came")
        self.number += not self.repeating
        self.picture += not self.frozen
        image = np.full((48, 64, 3), self.picture % 256, np.uint8)
        image[0, 0] = np.frombuffer(self.picture.to_bytes(3, "little"), np.uint8)
        return Shot(image, self.number, depth=np.full((48, 64), self.number, np.uint16))
