"""Cropping and resizing: a device's picture becomes the named images that a task asks for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from robot_servers.cameras.device import Shot
from robot_servers.interface import Image, RobotError

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Crop:
    """A rectangle in pixels of the device's picture: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class View:
    """One named image: a rectangle of the picture (None: all of it), resized to ``size`` (height, width)."""

    name: str
    size: tuple[int, int]
    crop: Crop | None = None

    def image(self, shot: Shot) -> Image:
        """(height, width, 3) uint8 RGB. Raises `RobotError` if the rectangle is not inside the picture."""
        return resize(self._cut(shot.image), self.size)

    def depth(self, shot: Shot) -> npt.NDArray[np.uint16] | None:
        """(height, width) uint16 mm, the nearest pixel: a mean over an edge would be a distance nobody measured."""
        if shot.depth is None:
            return None
        cut = self._cut(shot.depth)
        rows, columns = (_nearest(old, new) for old, new in zip(cut.shape, self.size, strict=True))
        return cut[np.ix_(rows, columns)]

    def check(self, height: int, width: int) -> None:
        """Raises `RobotError` if the rectangle is not inside a picture of this size."""
        crop = self.crop
        if crop is not None and (crop.x + crop.width > width or crop.y + crop.height > height):
            raise RobotError(
                f"camera {self.name}: the crop {crop.x}:{crop.y}:{crop.width}:{crop.height} (x:y:width:height) "
                f"is not inside the device's picture of {width}x{height}"
            )

    def _cut(self, picture: npt.NDArray) -> npt.NDArray:
        if self.crop is None:
            return picture
        self.check(*picture.shape[:2])
        x, y = self.crop.x, self.crop.y
        return picture[y : y + self.crop.height, x : x + self.crop.width]


def resize(image: Image, size: tuple[int, int]) -> Image:
    """To ``size`` (height, width) by the mean over the area that each new pixel covers; a copy, without aliasing.

    Rows first, then columns, each the weighted sum of the few that a new one covers. No product of matrices: that
    would wake one thread per core beside the control cycle.
    """
    if image.shape[:2] == size:
        return image.copy()
    rows = _mix(image, size[0])
    mixed = _mix(rows.transpose(1, 0, 2), size[1]).transpose(1, 0, 2)
    return np.rint(mixed).astype(np.uint8)


def _mix(lines: npt.NDArray, new: int) -> npt.NDArray[np.float32]:
    """``new`` lines along the first axis, as float32."""
    index, weight = area_weights(len(lines), new)
    total = np.zeros((new, *lines.shape[1:]), np.float32)
    for which, share in zip(index, weight, strict=True):
        total += lines[which] * share[:, None, None]
    return total


@lru_cache(maxsize=32)
def area_weights(old: int, new: int) -> tuple[npt.NDArray[np.intp], Weights]:
    """(k, new) each: which of ``old`` pixels each of ``new`` covers, at most k of them, and their shares: sum 1."""
    edges = np.arange(new + 1) * old / new
    first = np.floor(edges[:-1]).astype(np.intp)
    taps = int(np.max(np.ceil(edges[1:]).astype(np.intp) - first))
    index = first + np.arange(taps)[:, None]
    covered = np.minimum(edges[1:], index + 1.0) - np.maximum(edges[:-1], index)
    weight = np.clip(covered, 0.0, None)
    return np.minimum(index, old - 1), (weight / weight.sum(axis=0)).astype(np.float32)


def _nearest(old: int, new: int) -> npt.NDArray[np.intp]:
    return np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
