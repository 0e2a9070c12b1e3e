"""What the link holds in memory, and what it gives back."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from link_ends import actor, counts, learner
from link_records import step

from examples.benchmarks.ports import free_address
from serl_core.link.fresh import Fresh

FAULTS = """
import resource, sys
from serl_core.pages import keep_freed_memory
keep_freed_memory()
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    records = [bytearray().join([bytes(98_304)]) for _ in range(200)]
    del records
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 200)
"""


def add(fresh: Fresh, position: int, size: int = 10) -> None:
    fresh.room(size)[:] = bytes([position]) * size
    fresh.keep(position, size)


def taken(fresh: Fresh, start: int, stop: int, max_bytes: int = 1000) -> list[int]:
    """The numbers in what is taken; entries have ten bytes each."""
    found = fresh.take(start, stop, max_bytes)
    if found is None:
        return []
    assert len(found[1]) == 10 * found[0]
    return list(found[1][::10])


def test_entries_come_in_order_and_without_gaps() -> None:
    """Guards against entries that leave out one which is on the disk only, and against runs beyond the cap."""
    fresh = Fresh(limit=200, block=100)
    for position in range(3, 8):
        add(fresh, position)
    assert taken(fresh, 2, 9) == [] and fresh.first(2, 9) == 3
    assert taken(fresh, 3, 5) == [3, 4]
    assert taken(fresh, 5, 9, max_bytes=20) == [5, 6]
    assert taken(fresh, 7, 9, max_bytes=1) == [7], "a single entry always goes"
    assert taken(fresh, 8, 9) == [] and fresh.first(7, 9) == 9
    assert fresh.first(1, 2) == 2
    assert taken(fresh, 4, 6) == [4, 5], "a connection that failed asks again"


def test_what_does_not_fit_leaves_a_gap() -> None:
    """Guards against memory beyond the limit, and against a gap within what is sent as one run."""
    fresh = Fresh(limit=40, block=20)
    for position in range(6):
        add(fresh, position)
    assert fresh.size == 40
    assert taken(fresh, 0, 9) == [0, 1] and taken(fresh, 2, 9) == [2, 3]
    assert taken(fresh, 4, 9) == [] and fresh.first(4, 9) == 9
    add(fresh, 6)
    add(fresh, 7)
    assert fresh.first(4, 9) == 6 and taken(fresh, 6, 9) == [6, 7]
    fresh.room(30)
    fresh.keep(8, 30)  # larger than a block
    add(fresh, 9)
    assert fresh.first(8, 11) == 9 and fresh.size == 40


def test_memory_under_way_is_not_overwritten() -> None:
    """Guards against a record that changes while the network still sends it."""
    fresh = Fresh(limit=40, block=20)
    for position in range(4):
        add(fresh, position)
    sending = fresh.take(0, 9, 1000)
    assert sending is not None and taken(fresh, 2, 9) == [2, 3] and taken(fresh, 4, 9) == []
    add(fresh, 4)
    assert taken(fresh, 4, 9) == [], "no block is free"
    assert bytes(sending[1]) == bytes(10) + b"\1" * 10
    del sending
    add(fresh, 5)
    assert taken(fresh, 5, 9) == [5] and fresh.size == 40


def test_an_entry_that_the_disk_refused_is_not_kept() -> None:
    """Guards against sending what was never spooled, under a number that the next record gets."""
    fresh = Fresh(limit=100, block=100)
    fresh.room(10)[:] = b"refused..."
    add(fresh, 0)
    assert taken(fresh, 0, 9) == [0]


def test_what_does_not_fit_into_memory_is_sent_from_the_disk(tmp_path: Path) -> None:
    """Guards against memory that grows while the learner is away, and against gaps between memory and disk."""
    address = free_address()
    with actor(address, tmp_path) as link:
        link._spool._fresh = Fresh(limit=20_000, block=5_000)
        for number in range(100):
            link.send(step(link.session, 0, number, side=16))
        assert link._spool._fresh.size <= 20_000
        with learner(address, tmp_path / "store"):
            for number in range(100, 300):
                link.send(step(link.session, 0, number, side=16))
            assert link.wait_drained(60.0)
        assert counts(tmp_path / "store") == {link.session: list(range(1, 301))}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own rules: nothing to check")
def test_freed_memory_is_used_again() -> None:
    """Guards against records each of which costs 25 page faults, because the allocator gives everything back."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5
