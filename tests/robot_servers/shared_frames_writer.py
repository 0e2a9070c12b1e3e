"""A process that writes frames as fast as it can until it is killed: ``python shared_frames_writer.py`` says its name.

Every byte of a picture, its number, its time and its pose tell the same number, so that a torn one shows.
"""

from __future__ import annotations

import itertools
import time

import numpy as np

from robot_servers.cameras.shared import FrameWriter
from robot_servers.interface import Frame

SIZES = {"front": (240, 320), "wrist": (128, 128)}


def frame(number: int, size: tuple[int, int]) -> Frame:
    image = np.full((*size, 3), number % 251, np.uint8)
    return Frame(image, float(number), number, np.full(7, float(number)), np.full(size, number % 65521, np.uint16))


def whole(frame: Frame) -> bool:
    """Whether all parts of it are of one moment."""
    number = frame.number
    assert frame.pose is not None and frame.depth is not None
    return bool(
        frame.time == number
        and (frame.pose == number).all()
        and (frame.image == number % 251).all()
        and (frame.depth == number % 65521).all()
    )


if __name__ == "__main__":
    writer = FrameWriter(SIZES)
    writer.open()
    print(writer.name, flush=True)
    for number in itertools.count():
        writer.write({name: frame(number, size) for name, size in SIZES.items()}, time.monotonic())
