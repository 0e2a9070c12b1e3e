"""What an actor has produced and the learner has not yet stored, on the actor's own disk.

A spool is a directory of segment files, each of one actor session::

    header   "SPOOL1\\n\\0", uint64 number of entries released, uint16 length, the session's name
    entry    uint32 length, uint32 CRC-32 of the payload, uint64 number, payload       (little-endian)

Numbers of a session start at 1 and have no gaps. An entry counts as spooled when the operating
system has it: kill −9 loses nothing, a power loss may cost what was not yet written back, and a new
process always starts a new session, so that numbers lost that way are never used twice.
Entries leave when they are released (the count in the header is overwritten); a segment file is
deleted once all of its entries have left.
Memory: 8 bytes per entry, whatever its size.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from robot_servers.wire import MAX_BYTES
from serl_core.link.protocol import LinkError

log = logging.getLogger(__name__)

MAGIC = b"SPOOL1\n\0"
_HEAD = struct.Struct("<8sQH")
_RELEASED = struct.Struct("<Q")
_ENTRY = struct.Struct("<IIQ")


@dataclass(frozen=True)
class Entry:
    """One spooled payload, its number within ``session`` and its CRC-32."""

    session: str
    seq: int
    crc: int
    payload: bytes


@dataclass
class _Segment:
    path: Path
    session: str
    base: int  # number of its first entry
    first: int  # position of its first entry in the spool
    fd: int
    ends: array[int] = field(default_factory=lambda: array("Q"))  # ends[0] is the end of the header

    @property
    def count(self) -> int:
        return len(self.ends) - 1

    @property
    def end(self) -> int:
        """Position after its last entry."""
        return self.first + self.count


class Spool:
    """An append-only queue on disk. Positions count all entries since `open`; one process at a time.

    `append` may be called from one thread while another reads and releases.
    """

    def __init__(self, root: Path, max_bytes: int = 20 << 30, segment_bytes: int = 64 << 20) -> None:
        self.root = Path(root)
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._mutex = threading.Lock()
        self._segments: list[_Segment] = []
        self._released = 0
        self._bytes = 0
        self._next_file = 1
        self._session = ""
        self._seq = 0
        self._lock_fd = -1

    def open(self, session: str) -> None:
        """Load what earlier sessions left, cutting a torn tail. Raises `LinkError` if it is in use."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock_fd = os.open(self.root / "spool.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock_fd)
            self._lock_fd = -1
            raise LinkError(f"{self.root}: another actor spools here; give each actor its own directory") from error
        self._session, self._seq = session, 0
        for path in sorted(self.root.glob("[0-9]*.spool")):
            self._next_file = int(path.stem) + 1
            self._load(path)

    def close(self) -> None:
        """Close the files; what was not released stays for the next process."""
        with self._mutex:
            self._drop_released(keep_writing=False)
            for segment in self._segments:
                os.close(segment.fd)
            self._segments = []
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def released(self) -> int:
        """Position of the oldest entry that is still needed."""
        return self._released

    @property
    def end(self) -> int:
        """Position after the newest entry."""
        segments = self._segments
        return segments[-1].end if segments else self._released

    def append(self, payload: bytes) -> int:
        """Add ``payload`` and return its number. Raises `LinkError` when full; then nothing was added."""
        if self._lock_fd < 0:
            raise LinkError(f"{self.root}: the spool is not open; connect() the link first")
        if not 0 < len(payload) <= MAX_BYTES:
            raise LinkError(f"a record of {len(payload)} bytes cannot travel; at most {MAX_BYTES} are allowed")
        size = _ENTRY.size + len(payload)
        if self._bytes + size > self._max_bytes:
            raise LinkError(f"{self.root}: the spool holds {self._bytes} bytes, its limit; is the learner running?")
        with self._mutex:
            segment = self._writable()
            head = _ENTRY.pack(len(payload), zlib.crc32(payload), self._seq + 1)
            self._write(segment, [head, payload])
            self._seq += 1
            segment.ends.append(segment.ends[-1] + size)
            self._bytes += size
            return self._seq

    def entry(self, position: int) -> Entry:
        """The entry at ``position``, between `released` and `end`."""
        with self._mutex:
            segment = self._segments[bisect_right(self._segments, position, key=lambda item: item.first) - 1]
            index = position - segment.first
            start, stop = segment.ends[index], segment.ends[index + 1]
            data = os.pread(segment.fd, stop - start, start)
        length, crc, seq = _ENTRY.unpack_from(data)
        if length != len(data) - _ENTRY.size:
            raise LinkError(f"{segment.path}: entry {seq} was damaged on disk; keep the file and look at the disk")
        return Entry(segment.session, seq, crc, data[_ENTRY.size :])

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
            for segment in self._segments:
                done = stored.get(segment.session, 0) + 1 - segment.base
                self._released = max(self._released, segment.first + min(max(done, 0), segment.count))
                if self._released < segment.end:
                    break
            self._drop_released(keep_writing=True)
            if self._segments and self._segments[0].first < self._released:
                head = self._segments[0]
                os.pwrite(head.fd, _RELEASED.pack(self._released - head.first), len(MAGIC))

    def _drop_released(self, keep_writing: bool) -> None:
        while self._segments and self._segments[0].end <= self._released:
            if keep_writing and self._is_writable(self._segments[0]):
                return
            self._drop(self._segments.pop(0))

    def _is_writable(self, segment: _Segment) -> bool:
        return segment.session == self._session and segment.ends[-1] < self._segment_bytes

    def _drop(self, segment: _Segment) -> None:
        os.close(segment.fd)
        segment.path.unlink()
        self._bytes -= segment.ends[-1] - segment.ends[0]

    def _writable(self) -> _Segment:
        last = self._segments[-1] if self._segments else None
        if last and self._is_writable(last):
            return last
        path = self.root / f"{self._next_file:08d}.spool"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        name = self._session.encode()
        segment = _Segment(path, self._session, self._seq + 1, self.end, fd)
        header = _HEAD.pack(MAGIC, 0, len(name)) + name
        segment.ends.append(0)
        try:
            self._write(segment, [header])
        except LinkError:
            os.close(fd)
            path.unlink()
            raise
        segment.ends[0] = len(header)
        self._segments.append(segment)
        self._next_file += 1
        return segment

    def _write(self, segment: _Segment, parts: list[bytes]) -> None:
        """All of it or nothing, at the end of ``segment``."""
        end = segment.ends[-1]
        try:
            written = os.pwritev(segment.fd, parts, end)
            rest = b"".join(parts)[written:] if written < sum(map(len, parts)) else b""
            if rest and os.pwrite(segment.fd, rest, end + written) < len(rest):
                raise OSError("the disk is full")
        except OSError as error:
            os.ftruncate(segment.fd, end)
            raise LinkError(f"{segment.path}: cannot spool ({error}); free space on this disk") from error

    def _load(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR)
        segment, released = _scan(path, fd, self.end)
        if segment is None:
            os.close(fd)
            path.unlink()
            return
        self._segments.append(segment)
        self._bytes += segment.ends[-1] - segment.ends[0]
        if self._released == segment.first:
            self._released += min(released, segment.count)


def _scan(path: Path, fd: int, first: int) -> tuple[_Segment | None, int]:
    """The intact entries of a file, whose torn tail is cut, and how many of them were released.

    None if not one entry is left.
    """
    size = os.fstat(fd).st_size
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size or not head.startswith(MAGIC):
        return None, 0
    _, released, length = _HEAD.unpack(head)
    name = os.pread(fd, length, len(head))
    segment = _Segment(path, name.decode(errors="replace"), 0, first, fd)
    segment.ends.append(len(head) + len(name))
    for seq, end in _entries(fd, segment.ends[0], size):
        segment.base = segment.base or seq
        if seq != segment.base + segment.count:
            break
        segment.ends.append(end)
    if segment.ends[-1] < size:
        log.warning("%s: torn tail of %d bytes cut", path, size - segment.ends[-1])
        os.ftruncate(fd, segment.ends[-1])
    return (segment if segment.count else None), released


def _entries(fd: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """``(number, end)`` of each intact entry from ``offset`` on."""
    while offset + _ENTRY.size < size:
        length, crc, seq = _ENTRY.unpack(os.pread(fd, _ENTRY.size, offset))
        offset += _ENTRY.size
        if not 0 < length <= min(MAX_BYTES, size - offset):
            return
        if seq < 1 or zlib.crc32(os.pread(fd, length, offset)) != crc:
            return
        offset += length
        yield seq, offset
