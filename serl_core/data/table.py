"""What replay holds, as arrays on the device: written in chunks of one size, so that nothing compiles twice.

Only `Mirror` writes. A write is donated: it happens in place, and the table that was there before is gone.
Half-precision features are kept as their bits (uint16): on a CPU, XLA would widen the whole ring for one gather.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, final

import jax
import numpy as np
import numpy.typing as npt
from flax import struct

from serl_core.data.index_set import IndexSet

Arrays = dict[str, npt.NDArray[Any]]
FRAMES, FACTS, PLACES = 8, 32, 32  # rows of one write; those that are missing go to a slot that does not exist


@struct.dataclass
class Members:
    """A set of slots: the first ``size`` entries of ``items``."""

    items: Any  # (N,) int32
    size: Any  # () int32


@struct.dataclass
class Table:
    """N slots: each frame once, and beside it what is true of the transition that begins there.

    ``frames``: "state" (N, n) float32, and each camera (N, V, …) with its V views, unless the host keeps them.
    ``facts``: "action" (N, A), "reward" and "penalty" (N,) float32; "terminated" and "withheld" (N,) bool; "hands"
    (N,) int8, 0 the policy's, 1 an operator's, 2 nobody's; "next" (N,) int32, the slot of the frame it led to, or −1;
    "previous" (N,) int32, of the frame: the slot of the one before it in its episode, or −1.
    """

    frames: dict[str, Any]
    facts: dict[str, Any]
    sets: dict[str, Members]


@struct.dataclass
class _Rows:
    """Values (C, …) by name for some slots or places (C,) int32."""

    at: Any
    values: dict[str, Any]


@struct.dataclass
class _Changes:
    frames: _Rows
    facts: _Rows
    sets: dict[str, tuple[_Rows, Any]]  # of each set: its places' items, and its size () int32


def _set(rings: dict[str, jax.Array], rows: _Rows) -> dict[str, jax.Array]:
    return {name: ring.at[rows.at].set(rows.values[name], mode="drop") for name, ring in rings.items()}


@functools.partial(jax.jit, donate_argnums=0)
def _write(table: Table, changes: _Changes) -> Table:
    sets = {}
    for name, (rows, size) in changes.sets.items():
        sets[name] = Members(_set({"items": table.sets[name].items}, rows)["items"], size)
    return Table(_set(table.frames, changes.frames), _set(table.facts, changes.facts), sets)


def bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Half-precision numbers as the integers they are stored as; others as they are."""
    return values.view(np.uint16) if values.dtype == np.float16 else values


@final
class Mirror:
    """Keeps a `Table` equal to replay's own bookkeeping: told what changed, it writes before the next use.

    ``frames``: one slot's frames, for their shapes. ``facts`` and ``sets`` are replay's own, read when they are
    written. ``sharding`` says on which devices the table lies, by default on the first.
    """

    def __init__(
        self,
        capacity: int,
        frames: Mapping[str, npt.NDArray[Any]],
        facts: Arrays,
        sets: Mapping[str, IndexSet],
        sharding: jax.sharding.Sharding | None = None,
    ) -> None:
        self._capacity, self._facts, self._sets, self._sharding = capacity, facts, sets, sharding
        self._fresh: dict[int, Arrays] = {}  # slot → its frame, not written yet
        self._dirty: dict[int, None] = {}  # slots whose facts changed; a dict keeps their order
        self._shapes = {name: (x.shape, bits(x).dtype) for name, x in frames.items()}
        self._table = Table(
            {name: self._zeros((capacity, *shape), dtype) for name, (shape, dtype) in self._shapes.items()},
            {name: self._zeros(x.shape, x.dtype) for name, x in facts.items()},
            {name: Members(self._zeros((capacity,), np.int32), self._zeros((), np.int32)) for name in sets},
        )

    def frame(self, slot: int, frame: Mapping[str, npt.NDArray[Any]]) -> None:
        """A copy of a frame for a slot. Few are kept back, so that memory stays bounded whatever arrives."""
        self._fresh[slot] = {name: bits(np.array(frame[name])) for name in self._shapes}
        if len(self._fresh) >= FRAMES:
            self._flush()

    def fact(self, slot: int) -> None:
        """The facts of a slot have changed."""
        self._dirty[slot] = None

    def table(self) -> Table:
        """Up to date. The next write takes it away: use it at once, in one compiled call."""
        while self._fresh or self._dirty or any(members.changed for members in self._sets.values()):
            self._flush()
        return self._table

    def _flush(self) -> None:
        changes = _Changes(
            frames=self._frame_rows(),
            facts=self._fact_rows(),
            sets={name: self._set_rows(members) for name, members in self._sets.items()},
        )
        self._table = _write(self._table, jax.device_put(changes, self._sharding))

    def _frame_rows(self) -> _Rows:
        slots = list(islice(self._fresh, FRAMES))
        taken = [self._fresh.pop(slot) for slot in slots]
        values = {name: np.zeros((FRAMES, *shape), dtype) for name, (shape, dtype) in self._shapes.items()}
        for row, frame in enumerate(taken):
            for name, value in frame.items():
                values[name][row] = value
        return _Rows(self._at(slots, FRAMES), values)

    def _fact_rows(self) -> _Rows:
        slots = list(islice(self._dirty, FACTS))
        for slot in slots:
            del self._dirty[slot]
        at = self._at(slots, FACTS)
        return _Rows(at, {name: x.take(at, axis=0, mode="clip") for name, x in self._facts.items()})

    def _set_rows(self, members: IndexSet) -> tuple[_Rows, Any]:
        places = members.changes(PLACES)
        items = np.zeros(PLACES, np.int32)
        items[: len(places)] = members.at(places)
        return _Rows(self._at(places, PLACES), {"items": items}), np.int32(len(members))

    def _at(self, slots: Sequence[int], rows: int) -> npt.NDArray[np.int32]:
        """The slots, and for the rows that are missing one beyond the end, where nothing is written."""
        at = np.full(rows, self._capacity, np.int32)
        at[: len(slots)] = slots
        return at

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any] | type) -> jax.Array:
        return jax.numpy.zeros(shape, dtype, device=self._sharding)
