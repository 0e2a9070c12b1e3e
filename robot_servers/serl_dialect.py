"""What SERL's HTTP servers say differently: numbers of the gripper, names of the compliance parameters.

Sources: the servers published with SERL (arXiv 2401.16013) and HIL-SERL (arXiv 2410.21845).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from robot_servers.interface import CommandRefused, Compliance, nearest

Dialect = Literal["serl", "hil-serl"]
GripperKind = Literal["robotiq", "hand"]

DEFAULT_PORT = 5000  # Flask's
HAND_WIDTH = 0.08  # m, between the fingers of the open Franka hand
HAND_UNIT = 1.0 / 2550.0  # m per unit of /move_gripper; SERL spreads 0 … 255 over 0.1 m
RAW = 255  # of a Robotiq: closed
MAX_CLIP = 0.1  # m or half angles; the server clamps every clip to it
MAX_FLOAT = math.nextafter(math.inf, 0.0)
AXES = "xyz"


class Malformed(CommandRefused):
    """A number or a name that is none: what was sent cannot be meant."""


@dataclass(frozen=True)
class GripperNumbers:
    """Translates the normalised opening (0 closed … 1 open) to a dialect's numbers and back.

    ============ =========== =================== ==================================
    dialect      kind        reports             /move_gripper takes
    ============ =========== =================== ==================================
    ``serl``     robotiq     0 open … 255 closed 0 open … 255 closed
    ``serl``     hand        0 … 0.08 m          0 closed … 204 (0.08 m) … 255 open
    ``hil-serl`` both        0 closed … 1 open   by its kind, as above
    ============ =========== =================== ==================================
    """

    dialect: Dialect = "hil-serl"
    kind: GripperKind = "robotiq"

    def report(self, opening: float) -> float:
        """What a getter answers for this opening."""
        if self.dialect == "hil-serl":
            return opening
        return RAW * (1.0 - opening) if self.kind == "robotiq" else HAND_WIDTH * opening

    def opening(self, reported: float) -> float:
        """The opening in [0, 1] that a getter's number means."""
        if self.dialect == "serl":
            reported = 1.0 - reported / RAW if self.kind == "robotiq" else reported / HAND_WIDTH
        return min(1.0, max(0.0, reported))

    def target(self, opening: float) -> int:
        """The number for /move_gripper that leads to this opening."""
        return round(RAW * (1.0 - opening) if self.kind == "robotiq" else HAND_WIDTH / HAND_UNIT * opening)

    def opening_of_target(self, number: float) -> float:
        """The opening that /move_gripper asks for; numbers beyond 0 … 255 are clipped, as SERL does."""
        number = min(float(RAW), max(0.0, number))
        return 1.0 - number / RAW if self.kind == "robotiq" else min(1.0, number * HAND_UNIT / HAND_WIDTH)


def _names() -> dict[str, tuple[str, int | None]]:
    """SERL's name → field of `Compliance`, and the index of the axis if it has three."""
    found: dict[str, tuple[str, int | None]] = {}
    for item in fields(Compliance):
        if "clip" not in item.name:
            found[item.name.replace("_ki", "_Ki")] = (item.name, None)
            continue
        kind, _, negative = item.name.partition("_clip")
        for index, axis in enumerate(AXES):
            found[f"{kind}_clip{negative}_{axis}"] = (item.name, index)
    return found


NAMES = _names()


def with_params(base: Compliance, params: Mapping[str, object]) -> Compliance:
    """``base`` with the values of a partial update in SERL's names; clips are clamped to 0.1.

    Raises `Malformed` for a name that SERL does not have, and for a value that is no finite number.
    """
    values = {item.name: getattr(base, item.name) for item in fields(base)}
    for name, value in params.items():
        if name not in NAMES:
            raise Malformed(f'unknown parameter "{name:.40}"{nearest(name, NAMES)}')
        field, axis = NAMES[name]
        number = finite(name, value)
        if axis is None:
            values[field] = number
        else:
            clips = list(values[field])
            clips[axis] = min(MAX_CLIP, number)
            values[field] = tuple(clips)
    return replace(base, **values)


def to_params(compliance: Compliance) -> dict[str, float]:
    """All parameters in SERL's names."""
    return {
        name: float(getattr(compliance, field) if axis is None else getattr(compliance, field)[axis])
        for name, (field, axis) in NAMES.items()
    }


def finite(name: str, value: object) -> float:
    """``value`` as a float. Raises `Malformed` unless it is a finite number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_FLOAT:  # not for nan
        return float(value)
    raise Malformed(f"{name} is {value!r:.40}, but must be a finite number")
