"""One file of the spool::

    header   "SPOOL2\\n\\0", uint64 number of entries released, uint32 number of the file,
             uint16 length, the session's name
    entry    uint32 length, uint32 CRC-32 of the payload, uint32 number, uint32 number of the file,
             payload                                                             (little-endian)

The number of the file in each entry tells it from what an earlier use of the file left behind it.
Entries travel as they lie here: a run of them is one frame of a message.
"""

from __future__ import annotations

import logging
import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zlib_ng.zlib_ng import crc32

from robot_servers.wire import MAX_BYTES, Buffer, WireError
from serl_core.link.protocol import LinkError

log = logging.getLogger(__name__)

MAGIC = b"SPOOL2\n\0"
OLDER = b"SPOOL1\n\0"
HEAD = struct.Struct("<8sQIH")
RELEASED = struct.Struct("<Q")
ENTRY = struct.Struct("<IIII")


class Entry(NamedTuple):
    """One payload, its number within its session and its CRC-32."""

    seq: int
    crc: int
    payload: memoryview


@dataclass(frozen=True)
class Run:
    """``count`` consecutive entries of ``session``, heads included, as they lie on disk."""

    session: str
    count: int
    data: Buffer


def entries(data: bytes | memoryview) -> Iterator[Entry]:
    """The entries of a run, views of ``data``, their CRC unchecked. Raises `WireError` where it is malformed."""
    view = memoryview(data)
    while len(view):
        if len(view) < ENTRY.size:
            raise WireError(f"{len(view)} bytes instead of an entry")
        length, crc, seq, _ = ENTRY.unpack_from(view)
        if not 0 < length <= min(MAX_BYTES, len(view) - ENTRY.size):
            raise WireError(f"entry {seq} announces {length} bytes, {len(view) - ENTRY.size} are there")
        yield Entry(seq, crc, view[ENTRY.size : ENTRY.size + length])
        view = view[ENTRY.size + length :]


def cannot_spool(path: Path, error: OSError) -> LinkError:
    """The error to raise when the disk refuses."""
    return LinkError(f"{path}: cannot spool ({error}); free space on this disk")


@dataclass
class Segment:
    """An open file: its entries are numbered from ``base`` on and stand at position ``first`` of the spool."""

    path: Path
    number: int
    session: str
    base: int
    first: int
    fd: int
    ends: array[int] = field(default_factory=lambda: array("Q"))  # ends[0] is the end of the header

    @classmethod
    def create(
        cls, path: Path, number: int, session: str, base: int, first: int, spare: Segment | None = None
    ) -> Segment:
        """A new file, or that of ``spare`` once more. Raises `LinkError`; then it is gone."""
        name = session.encode()
        head = HEAD.pack(MAGIC, 0, number, len(name)) + name
        before = spare.path if spare else path.with_suffix(".spare")
        fd = spare.fd if spare else -1
        try:
            fd = fd if spare else os.open(before, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            segment = cls(path, number, session, base, first, fd, array("Q", [0]))
            segment._write(head)
            before.rename(path)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            before.unlink(missing_ok=True)
            raise cannot_spool(path, error) from error
        segment.ends[0] = len(head)
        return segment

    @property
    def count(self) -> int:
        return len(self.ends) - 1

    @property
    def end(self) -> int:
        """Position after its last entry."""
        return self.first + self.count

    @property
    def size(self) -> int:
        """Bytes of its entries."""
        return self.ends[-1] - self.ends[0]

    def append(self, entry: Buffer) -> None:
        """Add an entry, head included: all of it or nothing. Raises `LinkError`."""
        try:
            self._write(entry)
        except OSError as error:
            raise cannot_spool(self.path, error) from error
        self.ends.append(self.ends[-1] + len(entry))

    def span(self, position: int, max_records: int, max_bytes: int) -> tuple[int, int, int]:
        """``(count, start, stop)`` of the entries from ``position`` on: at least one, else within the limits."""
        index = position - self.first
        start = self.ends[index]
        last = bisect_right(self.ends, start + max_bytes, index, min(index + max_records, self.count) + 1) - 1
        last = max(last, index + 1)
        return last - index, start, self.ends[last]

    def read(self, count: int, start: int, stop: int) -> Run:
        """The entries of a `span`. Raises `LinkError` if another program cut the file."""
        data = os.pread(self.fd, stop - start, start)
        if len(data) < stop - start:
            raise LinkError(f"{self.path} was cut by another program; records of {self.session} are missing")
        return Run(self.session, count, data)

    def note_released(self, count: int) -> None:
        os.pwrite(self.fd, RELEASED.pack(count), len(MAGIC))

    def rename(self, path: Path) -> None:
        self.path.rename(path)
        self.path = path

    def delete(self) -> None:
        os.close(self.fd)
        self.path.unlink()

    def _write(self, data: Buffer) -> None:
        end = self.ends[-1]
        try:
            written = os.pwrite(self.fd, data, end)
            rest = data[written:]
            if rest and os.pwrite(self.fd, rest, end + written) < len(rest):
                raise OSError("the disk is full")
        except OSError:
            os.ftruncate(self.fd, end)
            raise


def load(path: Path, first: int) -> tuple[Segment, int] | None:
    """The intact entries of a file, and how many of them were released; None, and no file, if none is left.

    Raises `LinkError` if an older release wrote it.
    """
    fd = os.open(path, os.O_RDWR)
    segment, released = _scan(path, fd, first)
    if segment is not None and segment.count:
        return segment, released
    os.close(fd)
    path.unlink()
    return None


def _scan(path: Path, fd: int, first: int) -> tuple[Segment | None, int]:
    size = os.fstat(fd).st_size
    head = os.pread(fd, HEAD.size, 0)
    if head.startswith(OLDER):
        os.close(fd)
        raise LinkError(f"{path} was spooled by an older release: let that one deliver it, or move it away")
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        _save(path, fd, 0, size)
        return None, 0
    _, released, number, length = HEAD.unpack(head)
    if number != int(path.stem):  # a power loss amid its reuse: everything in it had been released
        return None, 0
    name = os.pread(fd, length, len(head))
    segment = Segment(path, number, name.decode(errors="replace"), 0, first, fd)
    segment.ends.append(len(head) + len(name))
    for seq, end in _intact(fd, number, segment.ends[0], size):
        segment.base = segment.base or seq
        if seq != segment.base + segment.count:
            break
        segment.ends.append(end)
    if segment.ends[-1] < size:
        _cut(segment, size)
    return segment, released


def _intact(fd: int, number: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """``(number, end)`` of each intact entry from ``offset`` on."""
    while offset + ENTRY.size < size:
        length, crc, seq, owner = ENTRY.unpack(os.pread(fd, ENTRY.size, offset))
        offset += ENTRY.size
        if owner != number or not 0 < length <= min(MAX_BYTES, size - offset):
            return
        if seq < 1 or crc32(os.pread(fd, length, offset)) != crc:
            return
        offset += length
        yield seq, offset


def _cut(segment: Segment, size: int) -> None:
    """Cut what follows the intact entries: left by an earlier use of the file, or else torn and saved beside it."""
    end = segment.ends[-1]
    head = os.pread(segment.fd, ENTRY.size, end)
    if len(head) < ENTRY.size or ENTRY.unpack(head)[3] == segment.number:
        _save(segment.path, segment.fd, end, size)
    os.ftruncate(segment.fd, end)


def _save(path: Path, fd: int, start: int, size: int) -> None:
    """Keep bytes that nobody understands for a person to look at."""
    torn = path.with_suffix(".torn")
    with torn.open("wb") as file:
        for offset in range(start, size, 1 << 20):
            file.write(os.pread(fd, min(1 << 20, size - offset), offset))
    log.warning("%s: %d bytes of a torn tail moved to %s", path, size - start, torn)
