"""What keys mean, and how long a key counts as held.

A held key is a dead man's grip: without one nothing moves. It is also the clutch: as long as one is held the arm is the
person's, also while two opposite ones cancel.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from serl_core.teleop.device import TWIST
from serl_core.teleop.reader import Motion

HOLD = 0.25  # s after its last sign of life for which a key counts as held
AXIS_KEYS: Mapping[str, tuple[int, float]] = {  # axis of the twist in the frame of the hand, and which way
    **{"w": (0, 1.0), "s": (0, -1.0), "a": (1, 1.0), "d": (1, -1.0), "q": (2, 1.0), "e": (2, -1.0)},
    **{"up": (0, 1.0), "down": (0, -1.0), "left": (1, 1.0), "right": (1, -1.0)},
    **{"l": (3, 1.0), "j": (3, -1.0), "i": (4, 1.0), "k": (4, -1.0), "u": (5, 1.0), "o": (5, -1.0)},
}
CLOSE_KEY, OPEN_KEY = "c", "v"
LEGEND = (
    "hold  w s forward, back · a d left, right (or the arrows) · q e up, down · i k tilt forward, back · "
    "j l tilt left, right · u o turn left, right · c v close, open the gripper"
)
KEYS = (*AXIS_KEYS, CLOSE_KEY, OPEN_KEY)

Presses: TypeAlias = "queue.SimpleQueue[tuple[str, float]]"  # keys by name, and when they were pressed (s, monotonic)


def motion_of(held: Iterable[str], gripped: bool | None = None) -> Motion:
    """What the held keys mean together; opposite keys cancel. ``gripped``: the clutch, by default any of them."""
    twist, held = np.zeros(TWIST), sorted(held)
    for key in held:
        if key in AXIS_KEYS:
            axis, way = AXIS_KEYS[key]
            twist[axis] += way
    clutch = bool(held) if gripped is None else gripped
    return Motion(np.clip(twist, -1.0, 1.0), (CLOSE_KEY in held, OPEN_KEY in held, clutch), tuple(held))


def take(presses: Presses, wait: float) -> list[tuple[str, float]]:
    """The presses that wait, in order, as soon as there is one, at most ``wait`` s later."""
    found: list[tuple[str, float]] = []
    try:
        found.append(presses.get(timeout=wait))
        while True:
            found.append(presses.get_nowait())
    except queue.Empty:
        return found


class HeldKeys:
    """Which keys count as held, as pure logic: signs of life in, held keys out. Times are monotonic, s.

    A key begins by a press, lives on by further ones (a held key repeats) and by being seen to be down, and ends when
    it is seen to be up, or ``hold`` s after the last sign: a release that gets lost never leaves an arm moving.
    """

    def __init__(self, hold: float = HOLD) -> None:
        self._hold = hold
        self._signs: dict[str, float] = {}  # of each key that was pressed: its last sign of life

    def press(self, key: str, now: float) -> None:
        """Pressed, or repeated by the keyboard; keys that mean nothing are passed over."""
        if key.lower() in KEYS:
            self._signs[key.lower()] = now

    def see(self, down: Iterable[str], now: float) -> None:
        """Exactly these keys are down now. One whose press was not noticed stays without effect."""
        self._signs = {key: now for key in down if key in self._signs}

    def clear(self) -> None:
        """All of them count as let go of."""
        self._signs = {}

    def held(self, now: float) -> tuple[str, ...]:
        """Those that are held at ``now``."""
        self._signs = {key: sign for key, sign in self._signs.items() if now - sign <= self._hold}
        return tuple(self._signs)
