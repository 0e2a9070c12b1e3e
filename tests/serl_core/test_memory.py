"""Where replay's frames go."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serl_core.blueprint import Blueprint
from serl_core.config import ConfigError
from serl_core.data import memory
from serl_core.data.episodes import EpisodeStore
from serl_core.data.memory import RESERVE, check_memory, place_frames, spare_memory
from serl_core.data.segments import StoreError
from serl_core.learner import Config, Learner
from serl_core.nets.encoders import random_trunk, save_trunk


@dataclass(frozen=True)
class Device:
    """One with so many bytes left, or with none of its own."""

    left: int | None

    def memory_stats(self) -> dict[str, int] | None:
        return None if self.left is None else {"bytes_limit": self.left + 50, "bytes_in_use": 50}


STORED = {"front": np.zeros((4, 25), np.uint8)}


@pytest.mark.parametrize(
    ("left", "where"), [([1250], "device"), ([1240], "host"), ([9000, 1240], "host"), ([None, None], "device")]
)
def test_frames_go_where_they_fit(left: list[int | None], where: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Bug: the device runs out of memory hours later, the fuller of two devices decides nothing, or nobody is told."""
    placed, available = place_frames(10, STORED, [Device(each) for each in left])
    assert placed == where
    assert (capsys.readouterr().out != "") == (where == "host")
    assert available is spare_memory if left != [1250] else available() == 1250


def test_replay_leaves_room_for_what_learns_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: replay is granted the last byte, and the first update ends in "out of memory"."""
    for left, spare in ((RESERVE + 7, 7), (RESERVE - 7, 0)):
        monkeypatch.setattr(memory, "available_memory", lambda left=left: left)
        assert spare_memory() == spare


def test_the_learner_keeps_on_the_host_what_its_device_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bug: the learner's frames go to the device whatever it holds."""
    monkeypatch.setattr(memory, "device_memory", lambda devices: 1_000_000)
    link: Any = None  # not used before learning begins
    with EpisodeStore(tmp_path / "episodes") as store:
        learner = Learner(Config(tmp_path, obs="pixels", capacity=50), link, store)
    assert learner.replay.on_host
    assert "frames stay in the machine's memory: 0.0 GB" in capsys.readouterr().out


def test_networks_of_another_trunk_are_refused(tmp_path: Path) -> None:
    """Bug: a run goes on with another trunk file, and everything it has learnt reads features it never saw."""
    begun = Blueprint.for_task("pick_cube", "pixels")
    save_trunk(tmp_path / "other.npz", random_trunk(1))
    tree = begun.to_tree()
    begun.check_trunk(tree)
    with pytest.raises(ConfigError, match="another image trunk"):
        replace(begun, weights=tmp_path / "other.npz").check_trunk(tree)


@pytest.mark.parametrize("available", [0, 1, 6_760, 9_990, 9_999])
def test_what_the_refusal_advises_fits(available: int) -> None:
    """Bug: whoever follows the advice is refused again, by half a per cent."""
    with pytest.raises(StoreError, match="--capacity") as refused:
        check_memory(10_000, available, "replay")
    share = int(str(refused.value).split("take ")[1].split(" %")[0])
    assert 100 * available >= share * 10_000 and share >= 100 * available // 10_000
