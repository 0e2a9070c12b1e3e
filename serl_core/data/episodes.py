"""Episodes on disk: the one reader and writer of demonstrations, online data and interventions.

**Layout.** A store is a directory of ``000001.mcap, 000002.mcap, …``. MCAP (https://mcap.dev) is the
open log container of robotics: append-only, with checksums, readable by tools in many languages. The
few records needed are written directly (`serl_core.data.mcap`), because the reference writer cannot
write one message through to the operating system at a time. In each file:

- metadata ``serl.store``: schema version, time of creation, and ``meta`` (JSON: task, robot, units);
- schemas ``serl.EpisodeStart`` and ``serl.Step``: the table of fields with shapes, dtypes and units;
- one channel per actor session, source and kind of record, its metadata naming all three;
- one message per record: ``sequence`` is the number which the actor gave it, ``log_time`` the wall
  clock at storing (ns), the data a packed tree (`robot_servers.wire.pack`): ``SWB1``, uint32 n,
  n uint64 lengths, then n frames, each padded to 8 bytes: a msgpack map of the fields in which an
  array is extension 1 holding ``[dtype, index, *shape]``, then the bytes of the arrays in order.

A step stores only the observation it led to, so each distinct frame is on disk once. Nothing is
compressed: camera noise leaves little to gain, and the bytes go from the wire to the disk as they are.

**What a crash costs.** `append` returns when the operating system has the record: kill −9 of the
writer loses nothing that was appended. A power loss may cost the appends of the last `sync_every`
seconds. A torn tail is cut at the next `open` (its bytes are moved to ``*.torn``), never more. An
episode whose actor died has no last step with ``terminated`` or ``truncated``: read it as truncated.
Records of several actors interleave; those of one actor session are in order.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from zlib_ng.zlib_ng import crc32

from robot_servers import wire
from serl_core.data import mcap
from serl_core.data.labels import LabelLayer, confirmed, label_of, relabelled
from serl_core.data.segments import SCHEMA_VERSION, Channel, Segment, Stored, StoreError, finish, read
from serl_core.syncing import Syncer, sync_directory
from serl_core.types import EpisodeStart, Judgement, Message, Record, Source, Step, record_to_tree

__all__ = ["EpisodeStore", "StoreError", "Stored"]

Arrived: TypeAlias = tuple[str, int, Message, mcap.Buffer, int]  # actor session, number, record, packed, its CRC-32
GROUP_BYTES, GROUP_RECORDS = 1 << 20, 256  # written at once: more does not pay, and far more makes it slower again


class EpisodeStore:
    """Append records, and read them back in order. One writer at a time, any number of readers.

    ``meta`` is written into each file (JSON-able: task, robot, units). Reading needs no `open`.
    """

    def __init__(
        self,
        root: Path,
        meta: Mapping[str, Any] | None = None,
        sync_every: float = 1.0,
        segment_bytes: int = 1 << 30,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.root = Path(root)
        self._meta = dict(meta or {})
        self._syncer = Syncer(sync_every)
        self._segment_bytes = segment_bytes
        self._wall = wall
        self._lock_fd = -1
        self._segment: Segment | None = None
        self._last: dict[str, int] = {}
        self._sources: dict[tuple[str, int], Source] = {}  # of the newest episode of each actor session

    def __enter__(self) -> EpisodeStore:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> EpisodeStore:
        """Become the writer: cut torn tails, find the highest number of each actor. Raises `StoreError`."""
        if self._lock_fd >= 0:
            return self
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock_fd = os.open(self.root / "writer.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock_fd)
            self._lock_fd = -1
            raise StoreError(f"{self.root}: another process writes here; stop it or choose another run") from error
        for path in self._paths():
            finish(path)
        for path in self._paths():
            self._skim(path)
        self._syncer.start()
        return self

    def close(self) -> None:
        """End the current file properly and let another process write."""
        self._syncer.stop()
        self._end_segment()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def append(
        self,
        record: Message,
        actor: str | None = None,
        seq: int | None = None,
        packed: mcap.Buffer | None = None,
        crc: int | None = None,
    ) -> int:
        """Store ``record`` as number ``seq`` of ``actor``; returns the number.

        Without ``actor`` and ``seq`` it is the next one of ``record.actor``. ``packed`` saves packing it again,
        and its ``crc`` (CRC-32) saves reading it again: the one from the actor's spool then goes into the file.
        A judgement, or a success that was confirmed late, also becomes a verdict.
        Raises `StoreError` if the number does not rise or the disk refuses; then nothing was stored.
        """
        actor = record.actor if actor is None else actor
        seq = self._last.get(actor, 0) + 1 if seq is None else seq
        data = wire.pack(record_to_tree(record)) if packed is None else packed
        self._store([(actor, seq, record, data, crc32(data) if crc is None else crc)])
        return seq

    def extend(self, arrived: Iterable[Arrived]) -> None:
        """`append` all of these, a megabyte with each call of the operating system: that takes a third less time.

        Raises `StoreError` like `append`; then the first ones may have been stored: `last` says which.
        """
        group, size = list[Arrived](), 0
        for item in arrived:
            group.append(item)
            size += len(item[3])
            if size >= GROUP_BYTES or len(group) >= GROUP_RECORDS:
                self._store(group)
                group, size = [], 0
        if group:
            self._store(group)

    def _store(self, group: Sequence[Arrived]) -> None:
        """All of them or none. Verdicts go first, so that a crash in between loses none."""
        if self._lock_fd < 0:
            raise StoreError(f"{self.root}: open() the store before appending")
        newest = self._newest(group)
        for _, _, record, _, _ in group:
            self._keep_verdict(record)
        segment, time_ns = self._writable(), int(self._wall() * 1e9)
        segment.extend(
            [
                (Channel(actor, self._source(record), type(record).__name__), seq, time_ns, data, crc)
                for actor, seq, record, data, crc in group
            ]
        )
        self._syncer.changed(segment.path)
        self._last |= newest

    def _newest(self, group: Sequence[Arrived]) -> dict[str, int]:
        """The highest number of each actor session in it. Raises `StoreError` unless they rise."""
        newest: dict[str, int] = {}
        for actor, seq, *_ in group:
            last = newest.get(actor, self._last.get(actor, 0))
            if seq <= last:
                raise StoreError(f"{actor}: record {seq} after record {last}; each is stored once")
            newest[actor] = seq
        return newest

    def _keep_verdict(self, record: Message) -> None:
        if isinstance(record, Judgement):
            self.labels.add_once(label_of(record))
        elif isinstance(record, Step) and (late := confirmed(record, self._wall())) is not None:
            self.labels.add_unless_spoken(late)

    def sync(self) -> None:
        """Make everything appended so far survive a power loss. Raises `StoreError`."""
        try:
            self._syncer.now()
        except OSError as error:
            raise cannot_sync(self.root, error) from error

    def last(self, actor: str) -> int:
        """The highest number stored of ``actor``, 0 if there is none. Valid after `open`."""
        return self._last.get(actor, 0)

    def last_of_each(self) -> dict[str, int]:
        """`last` of every actor session in the store."""
        return dict(self._last)

    @property
    def labels(self) -> LabelLayer:
        """The layer of verdicts beside the recordings."""
        return LabelLayer(self.root)

    def records(self, source: Source | None = None, as_recorded: bool = False) -> Iterator[Record]:
        """All records in the order of storing, or those of one source, as the newest verdicts have them.

        ``as_recorded`` leaves the verdicts out. A damaged record is logged and left out.
        """
        messages = (stored.record() for stored in self.stored(source))
        recorded = (record for record in messages if not isinstance(record, Judgement))
        return recorded if as_recorded else relabelled(recorded, self.labels.newest())

    def stored(self, source: Source | None = None) -> Iterator[Stored]:
        """Like `records` as recorded, with the number, the source and the time of storing; decoded only on demand."""
        for path in self._paths():
            yield from read(path, source)

    def _paths(self) -> list[Path]:
        return sorted(self.root.glob("[0-9]*.mcap"))

    def _source(self, record: Message) -> Source:
        """A step belongs to the source of its episode's start."""
        key = (record.actor, record.episode)
        if isinstance(record, EpisodeStart):
            self._sources = {known: source for known, source in self._sources.items() if known[0] != record.actor}
            self._sources[key] = record.source
        return self._sources.get(key, "online")

    def _writable(self) -> Segment:
        try:
            self._syncer.check()
        except OSError as error:
            raise cannot_sync(self.root, error) from error
        if self._segment is not None and self._segment.size >= self._segment_bytes:
            self._end_segment()
        if self._segment is None:
            number = max((int(path.stem) for path in self._paths()), default=0) + 1
            pairs = {"schema": str(SCHEMA_VERSION), "created": _iso(self._wall()), "meta": json.dumps(self._meta)}
            self._segment = Segment(self.root / f"{number:06d}.mcap", pairs)
            sync_directory(self.root)
        return self._segment

    def _end_segment(self) -> None:
        if self._segment is not None:
            self._segment.end()
            self._segment = None

    def _skim(self, path: Path) -> None:
        """Find the highest numbers, reading a hundred bytes of each record instead of its images.

        The source of an episode that is still running is needed too: its next steps follow.
        """
        newest: dict[str, Stored] = {}
        for item in read(path, None, starts_only=True):
            self._last[item.actor] = max(item.seq, self._last.get(item.actor, 0))
            if len(item.packed):
                newest[item.actor] = item
        for item in newest.values():
            self._source(item.record())


def cannot_sync(root: Path, error: OSError) -> StoreError:
    """The error to raise when the disk failed to keep what it had taken."""
    return StoreError(f"{root}: the disk failed ({error}): what was stored last may not survive a power loss")


def _iso(wall: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall))
