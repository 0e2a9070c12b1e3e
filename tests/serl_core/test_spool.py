from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from serl_core.link.protocol import LinkError
from serl_core.link.segment import OLDER, entries
from serl_core.link.spool import Spool


def opened(root: Path, session: str = "a", **options: int) -> Spool:
    spool = Spool(root, **options)
    spool.open(session)
    return spool


def contents(spool: Spool) -> list[tuple[str, int, bytes]]:
    found: list[tuple[str, int, bytes]] = []
    while spool.released + len(found) < spool.end:
        run = spool.run(spool.released + len(found), max_records=3, max_bytes=100)
        found += [(run.session, entry.seq, bytes(entry.payload)) for entry in entries(run.data)]
    return found


def test_what_was_not_released_is_there_for_the_next_process(tmp_path: Path) -> None:
    """Guards against losing what a killed actor had spooled, and against using its numbers again."""
    first = opened(tmp_path, "one")
    for number in range(5):
        first.append(b"%d" % number)
    first.release({"one": 2})
    first.close()
    second = opened(tmp_path, "two")
    assert second.append(b"new") == 1
    assert contents(second) == [("one", 3, b"2"), ("one", 4, b"3"), ("one", 5, b"4"), ("two", 1, b"new")]
    assert second.sessions() == {"one": [3, 5], "two": [1, 1]}


def test_news_of_a_later_session_release_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    """Guards against losing what a dead session left because the newest one was acknowledged."""
    first = opened(tmp_path, "one")
    first.append(b"old")
    first.close()
    second = opened(tmp_path, "two")
    second.append(b"new")
    second.release({"two": 1})
    assert [payload for _, _, payload in contents(second)] == [b"old", b"new"]
    second.release({"one": 1, "two": 1})
    assert contents(second) == []


def test_released_files_leave_the_disk(tmp_path: Path) -> None:
    """Guards against a spool that grows for ever, or that is sent again to a later learner."""
    spool = opened(tmp_path, segment_bytes=100)
    for _ in range(20):
        spool.append(bytes(40))
    assert len(list(tmp_path.glob("*.spool"))) > 5
    spool.release({"a": 20})
    spool.close()
    assert not list(tmp_path.glob("*.spool"))


def test_positions_stay_right_when_everything_was_released(tmp_path: Path) -> None:
    """Guards against an off-by-one between positions and numbers over many small files."""
    spool = opened(tmp_path, segment_bytes=60)
    for number in range(1, 30):
        assert spool.append(b"%d" % number) == number
        if number % 3 == 0:
            spool.release({"a": number - 1})
            assert contents(spool) == [("a", number, b"%d" % number)]
    spool.release({"a": 29})
    assert contents(spool) == []
    assert spool.sessions() == {"a": [30, 29]}


def test_a_torn_tail_is_cut_at_every_byte(tmp_path: Path) -> None:
    """Guards against a kill in the middle of a write that spoils earlier entries."""
    spool = opened(tmp_path / "whole")
    ends = []
    path = tmp_path / "whole" / "00000001.spool"
    for payload in (b"first", b"second", b"third"):
        spool.append(payload)
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    spool.close()
    for size in range(len(whole)):
        root = tmp_path / "torn"
        root.mkdir()
        (root / path.name).write_bytes(whole[:size])
        survivor = opened(root, "next")
        kept = sum(end <= size for end in ends)
        assert [payload for _, _, payload in contents(survivor)] == [b"first", b"second", b"third"][:kept]
        survivor.close()
        shutil.rmtree(root)


@given(data=st.binary(max_size=200), place=st.integers(0, 120))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_never_crash_nor_invent(tmp_path: Path, data: bytes, place: int) -> None:
    """Guards against a decoder that trusts the disk."""
    root = tmp_path / "fuzz"
    shutil.rmtree(root, ignore_errors=True)
    spool = opened(root)
    payloads = [b"first", b"second", b"third"]
    for payload in payloads:
        spool.append(payload)
    spool.close()
    path = root / "00000001.spool"
    whole = bytearray(path.read_bytes())
    whole[place : place + len(data)] = data
    assume(not whole.startswith(OLDER))  # refused, and kept: there is a test of its own
    path.write_bytes(whole)
    damaged = opened(root, "next")
    assert all(payload in payloads for _, _, payload in contents(damaged))
    damaged.append(b"fourth")
    assert contents(damaged)[-1] == ("next", 1, b"fourth")
    damaged.close()


def test_a_full_spool_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    """Guards against a disk filled to the brim, and against a torn entry after the refusal."""
    spool = opened(tmp_path, max_bytes=200)
    spool.append(bytes([1]) * 100)
    with pytest.raises(LinkError, match="is the learner running"):
        spool.append(bytes(100))
    assert contents(spool) == [("a", 1, bytes([1]) * 100)]


def test_a_failing_disk_leaves_no_half_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against numbers that are used although their entry was not written."""
    spool = opened(tmp_path)
    spool.append(b"before")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with pytest.raises(LinkError, match="free space"):
            spool.append(b"lost")
    assert spool.append(b"after") == 2
    assert [payload for _, _, payload in contents(spool)] == [b"before", b"after"]


def test_two_actors_cannot_share_a_spool(tmp_path: Path) -> None:
    """Guards against two processes that interleave their entries in one file."""
    opened(tmp_path)
    with pytest.raises(LinkError, match="another actor spools here"):
        opened(tmp_path)


def test_synced_spools_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an option against power losses that syncs nothing, and against a failing disk that stays quiet."""
    synced = threading.Event()

    def fail(fd: int) -> None:
        synced.set()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fdatasync", fail)
    spool = Spool(tmp_path, sync_every=0.01)
    spool.open("a")
    spool.append(b"first")
    assert synced.wait(30.0)
    spool.close()  # the syncing thread has ended: its failure is known
    spool.open("b")
    with pytest.raises(LinkError, match="Input/output error"):
        spool.append(b"second")
    spool.close()


def test_a_spool_of_an_older_release_is_not_thrown_away(tmp_path: Path) -> None:
    """Guards against an update that deletes what the last session could not deliver."""
    path = tmp_path / "00000001.spool"
    path.write_bytes(b"SPOOL1\n\0 and what it holds")
    with pytest.raises(LinkError, match="older release"):
        opened(tmp_path)
    assert path.exists()


def test_a_file_used_again_shows_nothing_of_its_earlier_use(tmp_path: Path) -> None:
    """Guards against entries of an earlier use that are taken for new ones: the same sizes, the next numbers."""
    spool = opened(tmp_path, "a", segment_bytes=1000)
    for number in range(1, 200):
        spool.append(b"%040d" % number)
        if number % 3 == 0:
            spool.release({"a": number - 2})
    kept = contents(spool)
    copy = tmp_path / "killed"
    copy.mkdir()
    for path in tmp_path.glob("*.spool"):
        shutil.copy(path, copy)
    survivor = opened(copy, "b")
    assert contents(survivor) == kept == [("a", number, b"%040d" % number) for number in range(197, 200)]
