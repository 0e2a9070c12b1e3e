"""Every decoder of what comes from disks and networks, fed with anything: no crash, no hang, no memory over its cap."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from link_records import start, step

from robot_servers import wire
from serl_core.checkpoint import CheckpointError, Checkpoints
from serl_core.data import mcap
from serl_core.link.segment import ENTRY, entries
from serl_core.types import record_from_tree, record_to_tree

CAP = 2 << 20  # bytes; what is decoded here is below 2 kB
PACKED = [wire.pack(record_to_tree(record)) for record in (start("a", 0), step("a", 0, 1))]
FIELDS = [dict(record_to_tree(record)) for record in (start("a", 0), step("a", 0, 1))]


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """``whole`` with a piece replaced by anything, or cut short."""

    def spoil(piece: bytes, place: float, cut: bool) -> bytes:
        offset = int(place * len(whole))
        return whole[:offset] + piece + (b"" if cut else whole[offset + len(piece) :])

    return st.builds(spoil, st.binary(max_size=40), st.floats(0, 1), st.booleans())


def decoded(decode: Callable[[], Any], *errors: type[Exception]) -> Any:
    """The result, or None for one of ``errors``. Asserts that it claimed no more memory than ``CAP``."""
    tracemalloc.start()
    try:
        return decode()
    except errors:
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < CAP


@given(st.one_of(*map(damaged, PACKED)))
@settings(max_examples=60, deadline=None)
@example(b"SWB1\xff\xff\xff\xff")
def test_records(data: bytes) -> None:
    """Guards against bug 17: a record off the wire that ends the learner."""
    tree = decoded(lambda: wire.unpack(data), wire.WireError)
    if isinstance(tree, dict):
        decoded(lambda: record_from_tree(tree), ValueError)


plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just({}), st.just([]))


@given(st.sampled_from(FIELDS), st.data())
@settings(max_examples=60, deadline=None)
def test_fields_of_the_wrong_type_are_named(fields: dict[str, Any], data: st.DataObject) -> None:
    """Guards against a well-formed record whose field is something else, and fails deep inside replay."""
    name = data.draw(st.sampled_from(sorted(fields)))
    value = data.draw(plain)
    if type(value) is type(fields[name]) or (isinstance(fields[name], float) and type(value) is int):
        return
    with pytest.raises(ValueError, match=f"record: {name} is|unknown kind"):
        record_from_tree({**fields, name: value})


RUN = b"".join(ENTRY.pack(len(data), 0, seq + 1, 1) + data for seq, data in enumerate(PACKED))


@given(st.one_of(st.binary(max_size=100), damaged(RUN)))
@settings(max_examples=60, deadline=None)
@example(ENTRY.pack(0, 0, 1, 1))
@example(ENTRY.pack(0xFFFFFFFF, 0, 1, 1))
def test_runs_of_entries(data: bytes) -> None:
    """Guards against lengths that lie: entries stay within the run, and the walk through it ends."""
    found = decoded(lambda: list(entries(data)), wire.WireError) or []
    assert sum(len(entry.payload) + ENTRY.size for entry in found) == (len(data) if found else 0)


MESSAGE = mcap.message_chunk_head(mcap.Message(1, 1, 1, PACKED[0]), zlib.crc32(PACKED[0])) + PACKED[0]
CHANNEL = mcap.channel(1, 1, "/online/a/Step", "x", {"actor": "a", "kind": "Step"})


@given(st.one_of(damaged(MESSAGE), damaged(CHANNEL), damaged(mcap.metadata("serl.store", {"schema": "1"}))))
@settings(max_examples=60, deadline=None)
def test_records_of_the_container(data: bytes) -> None:
    """Guards against a damaged file of the store: every fault is one error, which the reader logs."""
    content = data[mcap.RECORD.size :]
    for decode in (mcap.chunk_records, mcap.parse_message, mcap.parse_channel, mcap.parse_metadata):
        decoded(lambda decode=decode: decode(content), mcap.McapError)
    decoded(lambda: mcap.split(memoryview(data)), mcap.McapError)


@given(
    tree=st.binary(max_size=200), marker=st.one_of(st.binary(max_size=100), st.just(b"[" * 2000)), both=st.booleans()
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_checkpoints(tmp_path: Path, tree: bytes, marker: bytes, both: bool) -> None:
    """Guards against a learner that cannot start because its newest checkpoint is damaged."""
    shutil.rmtree(tmp_path / "kept", ignore_errors=True)
    checkpoints = Checkpoints(tmp_path / "kept")
    good = checkpoints.save(1, {"step": 1})
    bad = checkpoints.save(2, {"step": 2})
    (bad / "complete.json").write_bytes(marker)
    if both:
        (bad / "tree.bin").write_bytes(tree)
    assert decoded(checkpoints.latest) == good
    assert decoded(lambda: checkpoints.load(bad), CheckpointError) is None


@given(damaged(wire.pack({"step": 2})))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_checkpoint_that_was_written_wrong(tmp_path: Path, tree: bytes) -> None:
    """Guards against a tree whose hash is right and whose content is not: an error that says so, not a crash."""
    folder = tmp_path / "000001_step_1"
    folder.mkdir(exist_ok=True)
    (folder / "tree.bin").write_bytes(tree)
    marker = {"format": 1, "step": 1, "bytes": len(tree), "sha256": hashlib.sha256(tree).hexdigest()}
    (folder / "complete.json").write_text(json.dumps(marker))
    decoded(lambda: Checkpoints(tmp_path).load(folder), CheckpointError)
