"""Camera frames as JPEG, for clients behind a slow network: a tenth of the bytes, and not quite the same picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np
import numpy.typing as npt

from robot_servers.interface import Array, Frame, Image, RobotError

Encoding = Literal["raw", "jpeg"]
QUALITY = 90  # of 95: differences of a few grey levels, where the eye sees none


@dataclass(frozen=True)
class JpegFrame:
    """A `Frame` whose image travels as ``jpeg`` (n,) uint8, the bytes of a JPEG file."""

    jpeg: npt.NDArray[np.uint8]
    time: float
    number: int
    pose: Array | None = None
    depth: npt.NDArray[np.uint16] | None = None


class Compressor:
    """Compresses every picture once, however many clients ask for it. For one thread."""

    def __init__(self) -> None:
        self._newest: dict[str, JpegFrame] = {}

    def __call__(self, frames: Mapping[str, Frame]) -> dict[str, JpegFrame]:
        """Raises `RobotError` without pillow."""
        return {name: self._compressed(name, frame) for name, frame in frames.items()}

    def _compressed(self, name: str, frame: Frame) -> JpegFrame:
        known = self._newest.get(name)
        if known is None or (known.number, known.time) != (frame.number, frame.time):
            known = JpegFrame(compress(frame.image), frame.time, frame.number, frame.pose, frame.depth)
            self._newest[name] = known
        return known


def compress(image: Image) -> npt.NDArray[np.uint8]:
    """The bytes (n,) of a JPEG file of ``image`` (H, W, 3). Raises `RobotError` without pillow."""
    file = io.BytesIO()
    _pillow().fromarray(image).save(file, "JPEG", quality=QUALITY)
    return np.frombuffer(file.getvalue(), np.uint8)


def decompress(frames: Mapping[str, JpegFrame]) -> dict[str, Frame]:
    """The frames again. Raises `RobotError` for what is no picture, and without pillow."""
    pillow = _pillow()
    out = {}
    for name, frame in frames.items():
        try:
            with pillow.open(io.BytesIO(frame.jpeg.tobytes()), formats=("JPEG",)) as picture:
                image = np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, pillow.DecompressionBombError) as error:
            raise RobotError(f"camera {name}: a frame came that is no JPEG: {error}") from error
        out[name] = Frame(image, frame.time, frame.number, frame.pose, frame.depth)
    return out


def _pillow() -> ModuleType:
    try:
        from PIL import Image as pillow
    except ImportError as error:
        raise RobotError("frames as JPEG need the package pillow (extra sim): install it, or ask for raw") from error
    return pillow
