"""What was just written to the spool, kept in memory until it is sent: reading it back costs as much as sending it.

Entries are put together where they stay, one behind the other in large blocks: a run of them is sent as it lies there,
and a block is used again once nobody refers to it, so that no record fetches fresh memory from the system.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from typing import final

from serl_core.link.protocol import RUN_BYTES

_MINE = 2  # references to a block's memory that nobody else holds: the block's and the counting call's


@dataclass
class _Block:
    """Entry i, at position ``first + i`` of the spool, lies at ``ends[i]`` to ``ends[i + 1]`` of ``memory``."""

    memory: bytearray
    first: int = 0
    ends: list[int] = field(default_factory=lambda: [0])

    @property
    def end(self) -> int:
        """Position after its last entry."""
        return self.first + len(self.ends) - 1

    def holds(self, size: int) -> bool:
        """Whether so many bytes fit behind its entries."""
        return self.ends[-1] + size <= len(self.memory)


@final
class Fresh:
    """The newest entries by their position in the spool, with gaps: what exceeds ``limit`` comes from the disk.

    Not safe for several threads at once: its owner locks. What `room` gave is the caller's until the next `room`.
    """

    def __init__(self, limit: int = 64 << 20, block: int = RUN_BYTES) -> None:
        self._sizes = (limit, block)
        self._blocks: deque[_Block] = deque()  # in order; entries go into the last
        self._sent: list[_Block] = []  # all that was in them was taken, perhaps not yet sent
        self._gap = False  # the last entry is not here: a block has no gaps
        self._room: _Block | None = None  # where the last `room` is; None: in ``_spill``
        self._spill = bytearray()  # for entries that are not kept

    def room(self, size: int) -> memoryview:
        """Where to put the next entry together."""
        self._room = self._block(size)
        if self._room is None:
            if len(self._spill) < size:
                self._spill = bytearray(size)
            return memoryview(self._spill)[:size]
        start = self._room.ends[-1]
        return memoryview(self._room.memory)[start : start + size]

    def keep(self, position: int, size: int) -> None:
        """What is in the last `room` is the entry at this position, and on the disk."""
        block = self._room
        if block is None:
            return
        if len(block.ends) == 1:
            block.first = position
        block.ends.append(block.ends[-1] + size)

    def take(self, start: int, stop: int, max_bytes: int) -> tuple[int, memoryview] | None:
        """How many entries from ``start`` on, before ``stop``, and these; None if the first of them is not here.

        At least one, whatever ``max_bytes`` says. Blocks that end before ``start`` are used again.
        """
        while len(self._blocks) > 1 and self._blocks[0].end <= start:
            self._sent.append(self._blocks.popleft())
        block = self._blocks[0] if self._blocks else None
        if block is None or not block.first <= start < min(stop, block.end):
            return None
        index = start - block.first
        begin, last = block.ends[index], min(stop, block.end) - block.first
        until = max(bisect_right(block.ends, begin + max_bytes, index, last + 1) - 1, index + 1)
        return until - index, memoryview(block.memory)[begin : block.ends[until]].toreadonly()

    def first(self, after: int, otherwise: int) -> int:
        """Position of the oldest entry here behind ``after``, at most ``otherwise``."""
        return min([otherwise, *(block.first for block in self._blocks if block.first > after)])

    @property
    def size(self) -> int:
        """Bytes of memory claimed."""
        return sum(len(block.memory) for block in (*self._blocks, *self._sent))

    def _pass(self, position: int) -> None:
        """Nothing before this will be taken any more."""
        self._taken = max(self._taken, position)
        while len(self._blocks) > 1 and self._blocks[0].end <= position:
            self._sent.append(self._blocks.popleft())

    def _block(self, size: int) -> _Block | None:
        """The block into which an entry of this size goes, as far as there is memory for it."""
        last = self._blocks[-1] if self._blocks else None
        if last is not None and last.holds(size) and not self._gap:
            return last
        memory = self._memory(size)
        self._gap = memory is None
        if memory is None:
            return None
        self._blocks.append(_Block(memory))
        return self._blocks[-1]

    def _memory(self, size: int) -> bytearray | None:
        """A block's memory that nobody uses, or fresh one within the limit."""
        limit, block = self._sizes
        if size > block:
            return None
        for index, sent in enumerate(self._sent):
            if sys.getrefcount(sent.memory) == _MINE:
                return self._sent.pop(index).memory
        return bytearray(block) if self.size + block <= limit else None
