from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from link_records import numbers, start, step

from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import Label, LabelLayer
from serl_core.data.segments import StoreError
from serl_core.types import Step

SUCCESS = Label("a", 0, "success", source="classifier", who="resnet10-7f3a", wall_time=100.0, step=2)
FAILURE = Label("a", 0, "failure", source="person", who="anna", wall_time=50.0)


def steps(store: EpisodeStore, as_recorded: bool = False) -> list[Step]:
    return [record for record in store.records(as_recorded=as_recorded) if isinstance(record, Step)]


def recorded(root: Path) -> EpisodeStore:
    """Two episodes of four steps; the first one ends with a recorded success."""
    with EpisodeStore(root) as store:
        for episode in range(2):
            store.append(start("a", episode))
            for number in range(4):
                ends = episode == 0 and number == 3
                store.append(replace(step("a", episode, number), success=ends, terminated=ends, reward=float(ends)))
    return EpisodeStore(root)


def test_the_newest_verdict_applies_and_the_recording_stays(tmp_path: Path) -> None:
    """Guards against relabelling that changes or hides what was recorded, and against older verdicts that win."""
    store = recorded(tmp_path)
    before = (tmp_path / "000001.mcap").read_bytes()
    assert [one.reward for one in steps(store)] == [0, 0, 0, 1, 0, 0, 0, 0]
    store.labels.add(SUCCESS)
    assert [(one.step, one.reward, one.terminated) for one in steps(store)[:3]] == [
        (0, 0, False),
        (1, 0, False),
        (2, 1, True),
    ]
    assert [one.step for one in steps(store)] == [0, 1, 2, 0, 1, 2, 3]
    store.labels.add(FAILURE)  # its clock is behind: the order of adding counts
    last = steps(store)[3]
    assert (last.reward, last.terminated, last.truncated, last.success) == (0.0, False, True, False)
    assert [one.reward for one in steps(store, as_recorded=True)] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert (tmp_path / "000001.mcap").read_bytes() == before


def test_news_are_told_once_and_all_of_them_to_a_newcomer(tmp_path: Path) -> None:
    """Guards against a learner that misses a verdict, or follows one again and again."""
    layer, writer = LabelLayer(tmp_path), LabelLayer(tmp_path)
    assert layer.news() == []
    writer.add(SUCCESS)
    assert layer.news() == [SUCCESS]
    assert layer.news() == []
    writer.add(FAILURE)
    assert layer.news() == [FAILURE]
    assert LabelLayer(tmp_path).news() == [SUCCESS, FAILURE]
    assert LabelLayer(tmp_path).newest() == {("a", 0): FAILURE}


def test_a_torn_line_costs_one_verdict(tmp_path: Path) -> None:
    """Guards against a crash amid a verdict that swallows the next one."""
    layer = LabelLayer(tmp_path)
    layer.add(SUCCESS)
    whole = layer.path.read_bytes()
    for cut in range(len(whole)):
        layer.path.write_bytes(whole[:cut])
        reader = LabelLayer(tmp_path)
        assert reader.news() == []
        LabelLayer(tmp_path).add(FAILURE)
        assert reader.news()[-1:] == LabelLayer(tmp_path).news()[-1:] == [FAILURE]


def test_a_full_disk_leaves_the_earlier_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against half a line, and against a verdict that is believed to be written."""
    layer = LabelLayer(tmp_path)
    layer.add(SUCCESS)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", full)
        with pytest.raises(StoreError, match="free space"):
            layer.add(FAILURE)
    assert LabelLayer(tmp_path).news() == [SUCCESS]


@pytest.mark.parametrize(
    "change",
    [{"verdict": "maybe"}, {"step": -1}, {"verdict": "failure"}, {"episode": "0"}, {"who": None}, {"wall_time": "now"}],
)
def test_a_verdict_that_makes_no_sense_is_refused(change: dict) -> None:
    """Guards against a verdict that nobody can follow."""
    with pytest.raises(ValueError, match="label"):
        replace(SUCCESS, **change)


@given(data=st.binary(max_size=300), lines=st.integers(0, 2))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_without_harm(tmp_path: Path, data: bytes, lines: int) -> None:
    """Guards against a file that somebody edited by hand: no crash, and what is whole after it still counts."""
    layer = LabelLayer(tmp_path)
    layer.path.write_bytes(b"[" * 3000 * lines + data)
    layer.add(SUCCESS)
    assert layer.newest()["a", 0] == SUCCESS


def test_endless_lines_take_no_memory_and_hide_nothing(tmp_path: Path) -> None:
    """Guards against a file without line ends that is read as a whole."""
    layer = LabelLayer(tmp_path)
    layer.path.write_bytes(b"x" * 300_000)
    layer.add(SUCCESS)
    assert LabelLayer(tmp_path).news() == [SUCCESS]


def test_a_discarded_episode_comes_to_nothing_and_stays_on_disk(tmp_path: Path) -> None:
    """Guards learning against what a person took back, and their recording against being gone for good."""
    store = recorded(tmp_path)
    store.labels.add(Label("a", 0, "discarded", "person", "anna", 1.0))
    assert [one.episode for one in steps(store)] == [1] * 4
    assert len(steps(store, as_recorded=True)) == 8
    store.labels.add(SUCCESS)
    assert numbers(list(store.records())) == [0, 1, 2, 0, 1, 2, 3]


def test_steps_of_other_episodes_stay(tmp_path: Path) -> None:
    """Guards against a verdict on one episode that touches its neighbours."""
    store = recorded(tmp_path)
    store.labels.add(Label("a", 1, "success", "person", "anna", 1.0, step=0))
    assert numbers(list(store.records())) == [0, 1, 2, 3, 0]
