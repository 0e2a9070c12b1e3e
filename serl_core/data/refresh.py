"""New views of frames that replay has already, made while there is nothing to learn.

A frame is kept in a few shifted views (`serl_core.nets.frames.view_encoder`). Seen again with other shifts, they come
closer to the fresh crop of every update for which they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, final

import numpy.typing as npt

from serl_core.data.episodes import EpisodeStore
from serl_core.data.replay import Replay
from serl_core.types import Obs, Record


@final
class Refresher:
    """Goes round through ``stores``, a frame at each `step`: every frame gets its turn, which drawing would not give.

    ``encode`` makes new views of an observation, as `Replay` keeps them; it must not remember what it made before.
    """

    def __init__(
        self,
        replay: Replay,
        encode: Callable[[Obs], Mapping[str, npt.NDArray[Any]]],
        stores: Sequence[EpisodeStore],
    ) -> None:
        self._replay = replay
        self._encode = encode
        self._stores = stores
        self._round: Iterator[Record] = iter(())
        self.refreshed = 0  # frames, those counted again that got new views again

    def step(self) -> None:
        """New views for the next frame that replay still holds; a record whose frame is gone costs its reading."""
        record = next(self._round, None)
        if record is None:
            self._round = self._records()
            return
        self.refreshed += self._replay.refresh(record, self._encode)

    def _records(self) -> Iterator[Record]:
        return chain.from_iterable(store.records(as_recorded=True) for store in self._stores)
