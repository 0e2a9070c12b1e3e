"""Large arrays that are used again: getting fresh pages from the operating system costs as much as filling them."""

from __future__ import annotations

import sys
from typing import Any, final

import numpy as np
import numpy.typing as npt

SMALL = 1 << 20  # bytes; below this, fresh ones are cheap
KEPT = 16  # arrays of one shape: two batches under way, of four frames each, twice
_MINE = 3  # references to an array that nobody else holds: the list's, the loop's, the counting call's


@final
class Scratch:
    """Gives out arrays, and gives one out again only when nobody refers to it any more, nor to a view of it.

    Whoever works on an array asynchronously keeps a reference to it until it is done, as jax does.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[tuple[int, ...], np.dtype[Any]], list[npt.NDArray[Any]]] = {}

    def take(self, values: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """``values[rows]``; every row must exist."""
        shape = (*rows.shape, *values.shape[1:])
        if rows.size * values[:1].nbytes < SMALL:
            return values.take(rows, axis=0)
        # "clip" writes straight into ``out``; the other modes fill a copy first
        return values.take(rows, axis=0, out=self._free(shape, values.dtype), mode="clip")

    def _free(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        arrays = self._arrays.setdefault((shape, dtype), [])
        for array in arrays:
            if sys.getrefcount(array) == _MINE:
                return array
        fresh = np.empty(shape, dtype)
        if len(arrays) < KEPT:
            arrays.append(fresh)
        return fresh
