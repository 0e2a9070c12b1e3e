from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from link_records import numbers, start, step
from zlib_ng.zlib_ng import crc32

from robot_servers import wire
from serl_core.data import episodes
from serl_core.data.episodes import EpisodeStore, StoreError
from serl_core.types import EpisodeStart, Step, record_to_tree


def write(root: Path, count: int, actor: str = "a", segment_bytes: int = 1 << 30) -> None:
    with EpisodeStore(root, {"task": "count"}, segment_bytes=segment_bytes) as store:
        for number in range(count):
            store.append(step(actor, 0, number))


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    """Guards against fields, dtypes or pixels that change on the way to the disk."""
    first, second = start("a", 3, "demo"), step("a", 3, 7)
    with EpisodeStore(tmp_path) as store:
        store.append(first)
        store.append(second)
    back = list(EpisodeStore(tmp_path).records())
    assert isinstance(back[0], EpisodeStart) and isinstance(back[1], Step)
    assert back[0].meta == first.meta and back[0].source == "demo"
    assert back[1].target.dtype == np.float64
    assert wire.pack(record_to_tree(back[0])) == wire.pack(record_to_tree(first))
    assert wire.pack(record_to_tree(back[1])) == wire.pack(record_to_tree(second))


def test_appending_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Guards against a second process that overwrites or reorders what the first one stored."""
    write(tmp_path, 3)
    with EpisodeStore(tmp_path) as store:
        assert store.last("a") == 3 and store.last("b") == 0
        assert store.append(step("a", 1, 3)) == 4
        assert store.append(step("b", 0, 4), actor="b", seq=9) == 9
        assert store.last_of_each() == {"a": 4, "b": 9}
        with pytest.raises(StoreError, match="each is stored once"):
            store.append(step("b", 0, 4), actor="b", seq=9)
    assert numbers(list(EpisodeStore(tmp_path).records())) == [0, 1, 2, 3, 4]


def test_many_small_files_read_as_one(tmp_path: Path) -> None:
    """Guards against records that vanish where one file ends and the next begins."""
    write(tmp_path, 40, segment_bytes=2000)
    assert len(list(tmp_path.glob("*.mcap"))) > 3
    assert numbers(list(EpisodeStore(tmp_path).records())) == list(range(40))
    with EpisodeStore(tmp_path) as store:
        assert store.last("a") == 40


def test_steps_follow_the_source_of_their_episode(tmp_path: Path) -> None:
    """Guards against demonstrations that count as online data, also across a restart of the store."""
    with EpisodeStore(tmp_path) as store:
        store.append(start("d", 0, "demo"))
        store.append(step("d", 0, 1))
        store.append(start("o", 0, "online"))
    with EpisodeStore(tmp_path) as store:
        store.append(step("d", 0, 2))
        store.append(step("o", 0, 3))
    store = EpisodeStore(tmp_path)
    assert numbers(list(store.records("demo"))) == [1, 2]
    assert numbers(list(store.records("online"))) == [3]


def test_a_torn_tail_is_cut_wherever_it_tears(tmp_path: Path) -> None:
    """Guards against a kill in the middle of a write that costs more than the record being written."""
    write(tmp_path / "whole", 3)
    path = tmp_path / "whole" / "000001.mcap"
    whole = path.read_bytes()
    kept = -1
    declarations = whole.index(b"/online/a/Step")  # the text before it is long: a few cuts there will do
    for size in [*range(0, declarations, 50), *range(declarations, len(whole), 7), len(whole)]:
        root = tmp_path / "torn"
        root.mkdir()
        (root / path.name).write_bytes(whole[:size])
        unrepaired = numbers(list(EpisodeStore(root).records()))
        with EpisodeStore(root) as store:
            before = numbers(list(store.records()))
            assert before == unrepaired == list(range(len(before)))
            assert len(before) >= kept
            kept = len(before)
            assert store.last("a") == len(before)
            store.append(step("a", 0, len(before)))
        assert numbers(list(EpisodeStore(root).records())) == list(range(len(before) + 1))
        shutil.rmtree(root)
    assert kept == 3


def test_a_flipped_bit_costs_one_record(tmp_path: Path) -> None:
    """Guards against bit rot that goes unseen, or that makes the rest of the file unreadable."""
    write(tmp_path, 5)
    path = tmp_path / "000001.mcap"
    data = bytearray(path.read_bytes())
    data[data.rindex(bytes([2]) * 48)] ^= 1
    path.write_bytes(data)
    assert numbers(list(EpisodeStore(tmp_path).records())) == [0, 1, 3, 4]


@given(data=st.binary(max_size=100), place=st.floats(0, 1), closed=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_never_crash_nor_invent(tmp_path: Path, data: bytes, place: float, closed: bool) -> None:
    """Guards against a decoder that trusts the disk: intact records come back in order, or an error names the fault."""
    root = tmp_path / "fuzz"
    shutil.rmtree(root, ignore_errors=True)
    write(root, 3)
    path = root / "000001.mcap"
    whole = bytearray(path.read_bytes())
    offset = int(place * len(whole))
    whole[offset : offset + len(data)] = data
    path.write_bytes(whole if closed else whole[:-40])
    with EpisodeStore(root) as store:
        found = numbers(list(store.records()))
    assert found == sorted(set(found)) and set(found) <= {0, 1, 2}


def test_many_at_once_are_stored_like_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against groups that lose, repeat or swap records, at their borders and where several actors meet."""
    monkeypatch.setattr(episodes, "GROUP_RECORDS", 3)
    arrived: list[episodes.Arrived] = []
    for number, actor in enumerate("abbabaa"):
        record = start(actor, 0) if number < 2 else step(actor, 0, number)
        packed = wire.pack(record_to_tree(record))
        arrived.append((actor, number + 1, record, packed, crc32(packed)))
    with EpisodeStore(tmp_path / "many", wall=lambda: 5.0) as many:
        many.extend(arrived)
        assert many.last_of_each() == {"a": 7, "b": 5}
        with pytest.raises(StoreError, match="a: record 7 after record 7"):
            many.extend(arrived[-1:])
    with EpisodeStore(tmp_path / "single", wall=lambda: 5.0) as single:
        for actor, number, record, packed, crc in arrived:
            single.append(record, actor, number, packed, crc)
    path = "000001.mcap"
    assert (tmp_path / "many" / path).read_bytes() == (tmp_path / "single" / path).read_bytes()


def test_a_group_that_repeats_a_number_is_refused_whole(tmp_path: Path) -> None:
    """Guards against a record that is stored twice because both came in one group."""
    record = start("a", 0)
    packed = wire.pack(record_to_tree(record))
    with EpisodeStore(tmp_path) as store:
        with pytest.raises(StoreError, match="record 1 after record 1"):
            store.extend([("a", 1, record, packed, crc32(packed))] * 2)
        assert store.last("a") == 0
    assert list(EpisodeStore(tmp_path).stored()) == []


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """Guards against two learners that write the same numbers."""
    with EpisodeStore(tmp_path), pytest.raises(StoreError, match="another process writes here"):
        EpisodeStore(tmp_path).open()
    with pytest.raises(StoreError, match="open"):
        EpisodeStore(tmp_path).append(step("a", 0, 0))


def test_a_failing_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a full disk that spoils what is stored or skips a number."""
    with EpisodeStore(tmp_path) as store:
        store.append(step("a", 0, 0))

        def full(fd: int, parts: list[bytes]) -> int:
            os.write(fd, parts[-1][:10])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.writev", full)
            with pytest.raises(StoreError, match="free space"):
                store.append(step("a", 0, 1))
        assert store.append(step("a", 0, 1)) == 2
    assert numbers(list(EpisodeStore(tmp_path).records())) == [0, 1]


def test_a_newer_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against reading what this release does not understand."""
    monkeypatch.setattr("serl_core.data.episodes.SCHEMA_VERSION", 99)
    write(tmp_path, 1)
    with pytest.raises(StoreError, match="schema 99"):
        list(EpisodeStore(tmp_path).records())


def test_the_example_of_the_layout_reads_it(tmp_path: Path) -> None:
    """Guards against a documented layout that is not the one on disk: its example runs without our code."""
    pytest.importorskip("mcap.reader")
    layout = Path(episodes.__file__).with_name("LAYOUT.md").read_text()
    example = layout.split("```python\n")[1].split("```")[0]
    with EpisodeStore(tmp_path) as store:
        store.append(start("a", 3))
        store.append(step("a", 3, 0))
    command = [sys.executable, "-I", "-c", example, str(tmp_path / "000001.mcap")]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert shown.stdout.splitlines() == [
        "/online/a/EpisodeStart 1 3 None None {'state': (3,), 'front': (4, 4, 3)}",
        "/online/a/Step 2 3 0 0.0 {'state': (3,), 'front': (4, 4, 3)}",
    ], shown.stderr


def test_standard_tools_read_it(tmp_path: Path) -> None:
    """Guards against a file that only this project can open: the reference reader lists all messages."""
    reader = pytest.importorskip("mcap.reader")
    with EpisodeStore(tmp_path, {"task": "count"}) as store:
        store.append(start("a", 0))
        store.append(step("a", 0, 5))
    with (tmp_path / "000001.mcap").open("rb") as file:
        found = list(reader.NonSeekingReader(file, validate_crcs=True).iter_messages(log_time_order=False))
    assert [channel.topic for _, channel, _ in found] == ["/online/a/EpisodeStart", "/online/a/Step"]
    assert [schema.name for schema, _, _ in found] == ["serl.EpisodeStart", "serl.Step"]
    assert wire.unpack(found[1][2].data)["step"] == 5
