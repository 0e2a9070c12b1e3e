"""What the link holds in memory, and what it gives back."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from link_ends import actor, counts, free_address, learner
from link_records import step

from serl_core.link.fresh import Fresh

FAULTS = """
import resource, sys
from serl_core.link.protocol import keep_freed_memory
keep_freed_memory()
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    records = [bytearray().join([bytes(98_304)]) for _ in range(200)]
    del records
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 200)
"""


def entry(number: int, size: int = 10) -> bytearray:
    return bytearray([number] * size)


def test_only_what_is_in_a_row_comes_from_memory() -> None:
    """Guards against entries that leave out one which is on the disk only, or come twice."""
    fresh = Fresh()
    for position in (3, 4, 5, 7):
        fresh.add(position, entry(position))
    assert fresh.take(2, 9, 1000) == [] and fresh.first(9) == 3
    assert fresh.take(3, 5, 1000) == [entry(3), entry(4)]
    assert fresh.take(5, 9, 1000) == [entry(5)]
    assert fresh.take(5, 9, 1000) == [] and fresh.first(9) == 7
    assert fresh.take(8, 9, 1000) == [] and fresh.first(9) == 9


def test_a_run_from_memory_is_bounded_and_never_empty() -> None:
    """Guards against messages beyond the cap, and against a large record that never goes."""
    fresh = Fresh()
    for position in range(4):
        fresh.add(position, entry(position))
    assert fresh.take(0, 4, 5) == [entry(0)]
    assert fresh.take(1, 4, 25) == [entry(1), entry(2)]


def test_what_does_not_fit_into_memory_is_sent_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against memory that grows while the learner is away, and against gaps between memory and disk."""
    monkeypatch.setattr(Fresh, "LIMIT", 20_000)
    address = free_address()
    with actor(address, tmp_path) as link:
        for number in range(100):
            link.send(step(link.session, 0, number, side=16))
        assert link._spool._fresh._bytes <= 20_000
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
