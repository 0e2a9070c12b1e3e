"""What keys mean, and how long a key counts as held. A held key is a dead man's grip: without one nothing moves.

w s  forward, back     a d  left, right     r f  up, down
i k  tilt forward, back     j l  tilt left, right     q e  turn left, right
c v  close, open the gripper
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from serl_core.teleop.device import TWIST
from serl_core.teleop.reader import Motion

HOLD = 0.25  # s after its last sign of life for which a key counts as held
AXIS_KEYS: Mapping[str, tuple[int, float]] = {  # axis of the twist in the frame of the hand, and which way
    **{"w": (0, 1.0), "s": (0, -1.0), "a": (1, 1.0), "d": (1, -1.0), "r": (2, 1.0), "f": (2, -1.0)},
    **{"l": (3, 1.0), "j": (3, -1.0), "i": (4, 1.0), "k": (4, -1.0), "q": (5, 1.0), "e": (5, -1.0)},
}
CLOSE_KEY, OPEN_KEY = "c", "v"
KEYS = (*AXIS_KEYS, CLOSE_KEY, OPEN_KEY)


def motion_of(held: Iterable[str]) -> Motion:
    """What the held keys mean together; opposite keys cancel."""
    twist, held = np.zeros(TWIST), sorted(held)
    for key in held:
        if key in AXIS_KEYS:
            axis, way = AXIS_KEYS[key]
            twist[axis] += way
    return Motion(twist, (CLOSE_KEY in held, OPEN_KEY in held), tuple(held))


class HeldKeys:
    """Which keys count as held, as pure logic: signs of life in, held keys out. Times are monotonic, s.

    A key begins by a press, lives on by further signs (a repeat, a look at the keyboard) and ends by its release or
    ``hold`` s after the last sign, so that a lost release never leaves an arm moving.
    """

    def __init__(self, hold: float = HOLD) -> None:
        self._hold = hold
        self._signs: dict[str, float] = {}  # of each key that was pressed: its last sign of life

    def press(self, key: str, now: float) -> None:
        """Pressed, or repeated by the keyboard; keys that mean nothing are passed over."""
        if key.lower() in KEYS:
            self._signs[key.lower()] = now

    def release(self, key: str) -> None:
        """Let go of."""
        self._signs.pop(key.lower(), None)

    def alive(self, keys: Iterable[str], now: float) -> None:
        """These keys are seen to be down now. One whose press was not seen stays without effect."""
        for key in keys:
            if key in self._signs:
                self._signs[key] = now

    def clear(self) -> None:
        """All of them count as let go of."""
        self._signs.clear()

    def held(self, now: float) -> tuple[str, ...]:
        """Those that are held at ``now``."""
        self._signs = {key: sign for key, sign in self._signs.items() if now - sign <= self._hold}
        return tuple(self._signs)
