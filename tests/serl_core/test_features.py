"""Features on disk: found again, never trusted when damaged, never needed."""

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serl_core.data.features import LEAVE, RememberedFeatures

VIEWS = 2


class Counting:
    """Encodes a frame as its mean, twice, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, obs):
        self.calls += 1
        return {**obs, "front": np.full((VIEWS, 3, 2), obs["front"].mean(), np.float16)}


def obs(number: int) -> dict[str, np.ndarray]:
    return {"state": np.array([number], np.float32), "front": np.full((4, 4, 3), number, np.uint8)}


def remembering(folder: Path, encode: Counting, digest: str = "d" * 64) -> RememberedFeatures:
    kept = RememberedFeatures(folder, digest, encode, obs(0), free=lambda folder: LEAVE)
    encode.calls = 0
    return kept


def test_a_restart_computes_nothing_again(tmp_path: Path) -> None:
    """Bug: a resumed learner spends an hour on what it knew, or finds another frame's features."""
    with remembering(tmp_path, first := Counting()) as kept:
        before = [kept(obs(number)) for number in (3, 4, 3)]
    with remembering(tmp_path, second := Counting()) as kept:
        after = [kept(obs(number)) for number in (3, 4, 3, 5)]
    assert (first.calls, second.calls) == (2, 1)
    for old, new in zip(before, after, strict=False):
        np.testing.assert_array_equal(old["front"], new["front"])
        assert new["front"].dtype == np.float16 and new["front"].shape == (VIEWS, 3, 2)
    assert after[0]["state"] == 3 and after[3]["front"][0, 0, 0] == 5


def test_another_trunk_has_another_file(tmp_path: Path) -> None:
    """Bug: features of an old trunk are taken for the new one's."""
    with remembering(tmp_path, Counting()) as kept:
        kept(obs(3))
    with remembering(tmp_path, other := Counting(), "e" * 64) as kept:
        kept(obs(3))
    assert other.calls == 1


@pytest.mark.parametrize("damage", ["torn", "flipped"])
def test_what_is_damaged_is_computed_again(tmp_path: Path, damage: str) -> None:
    """Bug: half a row, or a flipped bit, is learnt from; or everything behind it is lost as well."""
    with remembering(tmp_path, Counting()) as kept:
        for number in range(5):
            kept(obs(number))
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    row = len(content) // 5
    if damage == "torn":
        content = content[: 4 * row + row // 2]
    else:
        content[4 * row + row - 1] ^= 1
    file.write_bytes(content)
    for calls in (1, 0):
        with remembering(tmp_path, again := Counting()) as kept:
            assert [kept(obs(number))["front"][0, 0, 0] for number in range(5)] == list(range(5))
        assert again.calls == calls


def test_another_writer_on_the_same_file_cannot_mix_frames_up(tmp_path: Path) -> None:
    """Bug: two learners append at the same place, and one learns from the features of the other's frame."""
    with remembering(tmp_path, Counting()) as kept, remembering(tmp_path, Counting()) as other:
        assert kept(obs(3))["front"][0, 0, 0] == 3
        assert other(obs(4))["front"][0, 0, 0] == 4
        assert kept(obs(3))["front"][0, 0, 0] == 3
        assert other(obs(4))["front"][0, 0, 0] == 4


def test_a_full_disk_ends_remembering_only(tmp_path: Path) -> None:
    """Bug: the learner dies, hours in, for a file that it can do without: at once, at the next frame or at the end."""
    said: list[object] = []
    with remembering(tmp_path, Counting()) as kept:
        kept(obs(7))
    (file,) = tmp_path.iterdir()
    kept = RememberedFeatures(
        tmp_path, "d" * 64, Counting(), obs(0), say=lambda *text: said.append(text), free=lambda folder: LEAVE
    )
    with full_above(file.stat().st_size + 10), kept:
        assert [kept(obs(number))["front"][0, 0, 0] for number in (7, 8, 9, 8, 7)] == [7, 8, 9, 8, 7]
    assert len(said) == 1


def test_the_disk_is_left_to_the_recordings(tmp_path: Path) -> None:
    """Bug: features, which can be computed again, take the space of episodes, which cannot."""
    said: list[object] = []
    free = iter([LEAVE + 1, LEAVE - 1])
    kept = RememberedFeatures(
        tmp_path, "d" * 64, Counting(), obs(0), say=lambda *text: said.append(text), free=lambda folder: next(free)
    )
    with kept:
        assert [kept(obs(number))["front"][0, 0, 0] for number in (7, 8, 9)] == [7, 8, 9]
    (file,) = tmp_path.iterdir()
    with remembering(tmp_path, again := Counting()) as kept:
        kept(obs(7))
    assert again.calls == 0 and file.stat().st_size < 100 and "recordings" in str(said)


@contextlib.contextmanager
def full_above(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: the last write is cut short, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
