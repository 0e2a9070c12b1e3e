"""From frames to features: the shifted views that replay learns from. What acts reads `serl_core.nets.once`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from serl_core.nets.trunks import FrozenTrunk

PAD = 4  # pixels by which a crop may be shifted, either way
SHIFTS = (2 * PAD + 1) ** 2  # that there are


def view_encoder(
    trunk: FrozenTrunk, cameras: tuple[str, ...], views: int, rng: np.random.Generator
) -> Callable[[Mapping[str, npt.NDArray[Any]]], dict[str, npt.NDArray[Any]]]:
    """A function that replaces each frame of an observation by ``views`` versions (views, channels, positions).

    They are random crops of the frame padded by 4 pixels (DrQ, arXiv 2004.13649), drawn once: the trunk is frozen, so
    that its features of a crop stay what they are. Of several views the first is not shifted: the policy acts on
    frames as they are, so one view of what it will see is kept. A single view is shifted, too: unshifted it would be
    no augmentation at all. Raises ValueError when called, if there are not so many shifts.
    """

    def encode(obs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        shifted = np.stack([view for name in cameras for view in _views(obs[name], views, rng)])
        features = trunk(shifted).reshape(len(cameras), views, *trunk.features)
        return {**obs, **dict(zip(cameras, features, strict=True))}

    return encode


def _views(frame: npt.NDArray[np.uint8], count: int, rng: np.random.Generator) -> list[npt.NDArray[np.uint8]]:
    """``count`` views of a frame (H, W, 3) for replay: a single one is a random crop."""
    return crops(frame, 2, rng)[1:] if count == 1 else crops(frame, count, rng)


def crops(frame: npt.NDArray[np.uint8], count: int, rng: np.random.Generator) -> list[npt.NDArray[np.uint8]]:
    """The frame (H, W, 3) itself, then ``count − 1`` random crops of it, padded by repeating its edge.

    With a ``count`` of `SHIFTS` each shift once, so that a view drawn is a fresh crop. Raises ValueError beyond that.
    """
    if not 1 <= count <= SHIFTS:
        raise ValueError(f"{count} views of a frame: there are {SHIFTS} shifts by up to {PAD} pixels, and one at least")
    height, width = frame.shape[:2]
    padded = np.pad(frame, ((PAD, PAD), (PAD, PAD), (0, 0)), mode="edge")
    others = [corner for corner in np.ndindex(2 * PAD + 1, 2 * PAD + 1) if corner != (PAD, PAD)]
    corners = others if count == SHIFTS else rng.integers(0, 2 * PAD + 1, (count - 1, 2)).tolist()
    return [frame, *(padded[top : top + height, left : left + width] for top, left in corners)]
