"""One file of the episode store: writing, reading, and closing what a crash left open."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from robot_servers import wire
from serl_core.data import mcap
from serl_core.types import EpisodeStart, Judgement, Message, Source, Step, record_from_tree

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
ENCODING = "x-serl-swb1"
_SCHEMAS = {"EpisodeStart": 1, "Step": 2, "Judgement": 3}


class StoreError(Exception):
    """The store cannot do what was asked; the text says why and what to do next."""


class Channel(NamedTuple):
    """Whose records: actor session, "demo" or "online", and the kind: "EpisodeStart", "Step" or "Judgement"."""

    actor: str
    source: str
    kind: str


@dataclass(frozen=True)
class Stored:
    """One record as it lies in the store: ``seq`` is its number within the actor session."""

    actor: str
    seq: int
    source: str
    wall_time: float  # s since 1970, at storing
    packed: mcap.Buffer
    file: Path

    def record(self) -> Message:
        """Decode it; arrays are read-only."""
        return record_from_tree(wire.unpack(self.packed))


@dataclass
class Segment:
    """The file being written."""

    path: Path
    pairs: Mapping[str, str]
    size: int = 0
    _channels: dict[Channel, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        declarations = mcap.metadata("serl.store", self.pairs)
        for kind in (EpisodeStart, Step, Judgement):
            text = kind.__doc__ or ""
            declarations += mcap.schema(_SCHEMAS[kind.__name__], f"serl.{kind.__name__}", "x-rst", text)
        self._write([mcap.header("serl_core"), mcap.chunk(declarations)])

    def extend(self, items: Iterable[tuple[Channel, int, int, mcap.Buffer, int]]) -> None:
        """Add messages: channel, number, time (ns), data and its CRC-32 of each. All or none. Raises `StoreError`."""
        channels, parts = dict(self._channels), list[mcap.Buffer]()
        for channel, seq, time_ns, data, crc in items:
            if channel not in channels:
                channels[channel] = len(channels) + 1
                parts.append(_declaration(channel, channels[channel]))
            parts += [mcap.message_chunk_head(mcap.Message(channels[channel], seq, time_ns, data), crc), data]
        self._write(parts)
        self._channels = channels

    def end(self) -> None:
        self._write([mcap.ending()])
        os.fsync(self._fd)
        os.close(self._fd)

    def _write(self, parts: list[mcap.Buffer]) -> None:
        """All of it or nothing: a disk that fills up half-way leaves the file as it was."""
        try:
            write_all(self._fd, parts)
        except OSError as error:
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)
            raise StoreError(f"{self.path}: cannot write ({error}); free space on this disk") from error
        self.size += sum(len(part) for part in parts)


def _declaration(channel: Channel, number: int) -> bytes:
    topic = f"/{channel.source}/{channel.actor}/{channel.kind}"
    pairs = {"actor": channel.actor, "source": channel.source, "kind": channel.kind}
    return mcap.chunk(mcap.channel(number, _SCHEMAS[channel.kind], topic, ENCODING, pairs))


def write_all(fd: int, parts: list[mcap.Buffer]) -> None:
    """Write ``parts`` one after the other. Raises OSError; then some of it may have been written."""
    total = sum(len(part) for part in parts)
    written = os.writev(fd, parts)
    if written < total:  # the disk is nearly full: the rest, which most likely raises
        rest = memoryview(b"".join(parts))[written:]
        while len(rest):
            rest = rest[os.write(fd, rest) :]


def read(path: Path, source: Source | None, starts_only: bool = False) -> Iterator[Stored]:
    """The records of one file up to its end or its torn tail.

    ``starts_only`` reads the data of episode starts only, and leaves ``packed`` of steps empty.
    """
    channels: dict[int, Channel] = {}
    with path.open("rb") as file:
        fd = file.fileno()
        for offset, length in _chunks(fd):
            head = os.pread(fd, mcap.SKIM, offset)
            message = _skimmed(head)
            wanted = message is None or not starts_only or _is_start(channels.get(message.channel))
            try:
                if wanted:
                    message = _parse(os.pread(fd, length, offset), channels)
            except mcap.McapError as error:
                log.error("%s: record at byte %d is damaged and left out: %s", path, offset, error)
                continue
            channel = channels.get(message.channel) if message else None
            if message and channel and source in (None, channel.source):
                at = message.log_time / 1e9
                yield Stored(channel.actor, message.sequence, channel.source, at, message.data, path)


def _is_start(channel: Channel | None) -> bool:
    return channel is not None and channel.kind == "EpisodeStart"


def _chunks(fd: int) -> Iterator[tuple[int, int]]:
    """``(offset, length)`` of each complete chunk record, header included."""
    size = os.fstat(fd).st_size
    if os.pread(fd, len(mcap.MAGIC), 0) != mcap.MAGIC:
        return
    offset = len(mcap.MAGIC)
    while offset + mcap.RECORD.size <= size:
        opcode, length = mcap.RECORD.unpack(os.pread(fd, mcap.RECORD.size, offset))
        if opcode not in (mcap.HEADER, mcap.CHUNK) or offset + mcap.RECORD.size + length > size:
            return
        if opcode == mcap.CHUNK:
            yield offset, mcap.RECORD.size + length
        offset += mcap.RECORD.size + length


def _skimmed(head: bytes) -> mcap.Message | None:
    """The head of the message in a chunk, without its data; None for a chunk of declarations."""
    inner = mcap.RECORD.size + mcap.CHUNK_HEAD.size
    if len(head) < mcap.SKIM or head[inner] != mcap.MESSAGE:
        return None
    return mcap.parse_message(head[inner + mcap.RECORD.size :])


def _parse(chunk: bytes, channels: dict[int, Channel]) -> mcap.Message | None:
    """The message in a chunk; declared channels are added to ``channels``."""
    message = None
    for opcode, content in mcap.split(mcap.chunk_records(memoryview(chunk)[mcap.RECORD.size :])):
        if opcode == mcap.CHANNEL:
            number, pairs = mcap.parse_channel(content)
            channels[number] = Channel(pairs.get("actor", ""), pairs.get("source", ""), pairs.get("kind", ""))
        elif opcode == mcap.METADATA:
            _check_schema(mcap.parse_metadata(content)[1])
        elif opcode == mcap.MESSAGE:
            message = mcap.parse_message(content)
    return message


def _check_schema(pairs: Mapping[str, str]) -> None:
    if pairs.get("schema") != str(SCHEMA_VERSION):
        raise StoreError(f"store of schema {pairs.get('schema')}; this release reads {SCHEMA_VERSION}")


def finish(path: Path) -> None:
    """Give a file that was never closed its proper end, after the last intact chunk."""
    with path.open("r+b") as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        end = len(mcap.ending())
        if size > end and os.pread(fd, end, size - end) == mcap.ending():
            return
        intact = _intact(fd)
        if intact < size:
            torn = path.with_suffix(".torn")
            torn.write_bytes(os.pread(fd, size - intact, intact))
            log.warning("%s: %d bytes after a crash cut to %s", path, size - intact, torn.name)
        os.ftruncate(fd, intact)
        os.lseek(fd, intact, os.SEEK_SET)
        write_all(fd, [mcap.ending()] if intact else [mcap.header("serl_core"), mcap.ending()])
        os.fsync(fd)


def _intact(fd: int) -> int:
    """Where the last chunk of the unbroken beginning ends."""
    intact = len(mcap.header("serl_core"))
    if os.pread(fd, intact, 0) != mcap.header("serl_core"):
        return 0
    for offset, length in _chunks(fd):
        try:
            mcap.chunk_records(memoryview(os.pread(fd, length, offset))[mcap.RECORD.size :])
        except mcap.McapError:
            return intact
        intact = offset + length
    return intact
