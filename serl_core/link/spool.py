"""What an actor has produced and the learner has not yet stored, on the actor's own disk.

A spool is a directory of segment files (`serl_core.link.segment`). Numbers of a session start at 1
and have no gaps. An entry counts as spooled when the operating system has it: kill −9 loses nothing.
A power loss may cost the entries since the last write-back: with ``sync_every`` seconds, those of about that
time; without it, those of about half a minute (Linux' default). A new process always starts a new session, so
that numbers lost that way are never used twice.

Entries leave when they are released (the count in the header is overwritten). A file all of whose entries
have left is used again under a new number: to overwrite pages that the operating system holds in memory
costs a tenth of getting new ones. Memory: 8 bytes per entry, whatever its size, and the newest ones until they are
sent, up to 64 MB (`serl_core.link.fresh`).
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path

from zlib_ng.zlib_ng import crc32

from robot_servers.wire import MAX_BYTES, Buffer
from serl_core.link.fresh import Fresh
from serl_core.link.protocol import LinkError
from serl_core.link.segment import ENTRY, Run, Segment, cannot_spool, load
from serl_core.syncing import Syncer

log = logging.getLogger(__name__)

SPARES = 4  # files kept for later: what an actor at full speed has under way


class Spool:
    """An append-only queue on disk. Positions count all entries since `open`; one process at a time.

    `append` may be called from one thread while another reads and releases.
    """

    def __init__(
        self,
        root: Path,
        max_bytes: int = 20 << 30,
        segment_bytes: int = 32 << 20,  # small, for the caches; a full spool still opens fewer than 1024 files
        sync_every: float | None = None,
    ) -> None:
        self.root = Path(root)
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._syncer = Syncer(sync_every) if sync_every is not None else None
        self._mutex = threading.Lock()
        self._segments: list[Segment] = []
        self._fresh = Fresh()
        self._spares: list[Segment] = []  # their entries have left
        self._released = 0
        self._bytes = 0
        self._next_file = 1
        self._session = ""
        self._seq = 0
        self._lock_fd = -1

    def open(self, session: str) -> None:
        """Load what earlier sessions left, cutting a torn tail. Raises `LinkError` if it is in use."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(self.root / "spool.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise LinkError(f"{self.root}: cannot spool here ({error}); choose another run directory") from error
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._unlock()
            raise LinkError(f"{self.root}: another actor spools here; give each actor its own directory") from error
        self._session, self._seq = session, 0
        try:
            self._load()
        except LinkError:
            self.close()
            raise
        if self._syncer:
            self._syncer.start()

    def close(self) -> None:
        """Close the files; what was not released stays for the next process."""
        if self._syncer:
            self._syncer.stop()
        with self._mutex:
            self._drop_released(keep_writing=False)
            for segment in self._segments:
                os.close(segment.fd)
            self._segments = []
            self._fresh = Fresh()
            self._discard_spares()
        self._unlock()

    @property
    def released(self) -> int:
        """Position of the oldest entry that is still needed."""
        return self._released

    @property
    def end(self) -> int:
        """Position after the newest entry."""
        segments = self._segments
        return segments[-1].end if segments else self._released

    @property
    def held_bytes(self) -> int:
        """Size of the files whose entries are still needed."""
        return self._bytes

    def append(self, *parts: Buffer) -> int:
        """Add a payload, given in pieces; its number. Raises `LinkError` when full; then nothing was added."""
        if self._lock_fd < 0:
            raise LinkError(f"{self.root}: the spool is not open; connect() the link first")
        length = sum(map(len, parts))
        self._check(length)
        with self._mutex:
            entry = self._fresh.room(ENTRY.size + length)
        crc = crc32(_joined(parts, entry[ENTRY.size :]))
        with self._mutex:
            segment = self._writable()
            ENTRY.pack_into(entry, 0, length, crc, self._seq + 1, segment.number)
            segment.append(entry)
            self._fresh.keep(segment.end - 1, len(entry))
            self._seq += 1
            self._bytes += len(entry)
            if self._syncer:
                self._syncer.changed(segment.path)
            return self._seq

    def _check(self, size: int) -> None:
        if not 0 < size <= MAX_BYTES:
            raise LinkError(f"a record of {size} bytes cannot travel; at most {MAX_BYTES} are allowed")
        if self._bytes + ENTRY.size + size > self._max_bytes:
            raise LinkError(f"{self.root}: the spool holds {self._bytes} bytes, its limit; is the learner running?")
        if self._syncer:
            self._check_disk(self._syncer)

    def run(self, position: int, max_records: int, max_bytes: int) -> Run:
        """The entries from ``position`` on (between `released` and `end`): at least one, all of one file.

        What has just been spooled comes from memory, whatever else from the disk.
        """
        with self._mutex:
            segment = self._segment_at(position)
            until = min(segment.end, position + max_records)
            fresh = self._fresh.take(position, until, max_bytes)
            if fresh is not None:
                return Run(segment.session, *fresh)
            span = segment.span(position, self._fresh.first(position, until) - position, max_bytes)
        return segment.read(*span)  # outside: only the thread that reads can make the file go

    def after(self, session: str, seq: int) -> int:
        """Position of the first entry of ``session`` above ``seq``; `released` if the session is not here."""
        with self._mutex:
            position = self._released
            for segment in self._segments:
                if segment.session == session and segment.base <= seq + 1:
                    position = max(position, segment.first + min(seq + 1 - segment.base, segment.count))
            return position

    def sessions(self) -> dict[str, list[int]]:
        """``[first, last]`` number still here, for each session in its order."""
        with self._mutex:
            found: dict[str, list[int]] = {}
            for segment in self._segments:
                first = segment.base + max(0, self._released - segment.first)
                last = segment.base + segment.count - 1
                if first <= last:
                    found.setdefault(segment.session, [first, last])[1] = last
            found.setdefault(self._session, [self._seq + 1, self._seq])
            return found

    def release(self, stored: Mapping[str, int]) -> None:
        """Of each session, the entries up to that number are stored elsewhere; their files may go.

        Only from the oldest entry on: what waits before a stored entry keeps that one here, too.
        """
        with self._mutex:
            before = self._released
            for segment in self._segments:
                done = stored.get(segment.session, 0) + 1 - segment.base
                self._released = max(self._released, segment.first + min(max(done, 0), segment.count))
                if self._released < segment.end:
                    break
            self._drop_released(keep_writing=True)
            if self._segments and max(before, self._segments[0].first) < self._released:
                head = self._segments[0]
                head.note_released(self._released - head.first)

    def _check_disk(self, syncer: Syncer) -> None:
        try:
            syncer.check()
        except OSError as error:
            raise cannot_spool(self.root, error) from error

    def _segment_at(self, position: int) -> Segment:
        return self._segments[bisect_right(self._segments, position, key=lambda item: item.first) - 1]

    def _drop_released(self, keep_writing: bool) -> None:
        while self._segments and self._segments[0].end <= self._released:
            if keep_writing and self._is_writable(self._segments[0]):
                return
            segment = self._segments.pop(0)
            self._bytes -= segment.size
            self._put_aside(segment)

    def _put_aside(self, segment: Segment) -> None:
        """Keep the file for a later segment, unless enough wait already."""
        if len(self._spares) < SPARES:
            segment.rename(segment.path.with_suffix(".spare"))
            self._spares.append(segment)
        else:
            segment.delete()

    def _discard_spares(self) -> None:
        for spare in self._spares:
            spare.delete()
        self._spares = []

    def _is_writable(self, segment: Segment) -> bool:
        return segment.session == self._session and segment.ends[-1] < self._segment_bytes

    def _writable(self) -> Segment:
        last = self._segments[-1] if self._segments else None
        if last and self._is_writable(last):
            return last
        spare = self._spares.pop() if self._spares else None
        path = self.root / f"{self._next_file:08d}.spool"
        segment = Segment.create(path, self._next_file, self._session, self._seq + 1, self.end, spare)
        self._segments.append(segment)
        self._next_file += 1
        return segment

    def _load(self) -> None:
        for spare in self.root.glob("*.spare"):
            spare.unlink()
        for path in sorted(self.root.glob("[0-9]*.spool")):
            self._next_file = int(path.stem) + 1
            loaded = load(path, self.end)
            if loaded is None:
                continue
            segment, released = loaded
            self._segments.append(segment)
            self._bytes += segment.size
            if self._released == segment.first:
                self._released += min(released, segment.count)

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _joined(parts: Sequence[Buffer], room: memoryview) -> memoryview:
    """``parts`` one behind the other in ``room``, which they fill."""
    start = 0
    for part in parts:
        room[start : (start := start + len(part))] = part
    return room
