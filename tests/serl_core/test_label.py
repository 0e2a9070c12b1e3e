from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from link_records import start, step

from serl_core import cli
from serl_core.config import ConfigError
from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import LabelLayer
from serl_core.types import Record


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four episodes of one actor: a success, a failure, one out of time, and one that never ended; one of another."""
    last = {0: {"success": True, "terminated": True}, 1: {"terminated": True}, 2: {"truncated": True}, 3: {}}
    records: list[Record] = []
    for number, end in last.items():
        records += [start("arm-1", number), step("arm-1", number, 0), replace(step("arm-1", number, 1), **end)]
    aborted = replace(step("arm-1", 3, 2), truncated=True, aborted=True)
    with EpisodeStore(tmp_path / "episodes") as store:
        for record in [*records, aborted, start("arm-2", 7)]:
            store.append(record)
    return tmp_path


def labelled(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[list[str]]:
    """The words of each line that it prints, without the head."""
    assert cli.run(["label", *map(str, arguments)]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()[1:]]


def test_episodes_are_listed_with_how_they_ended(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a person who judges the wrong episode because nothing says which is which."""
    assert labelled(capsys, run) == [
        ["arm-1", "0", "2", "success"],
        ["arm-1", "1", "2", "failure"],
        ["arm-1", "2", "2", "time", "over"],
        ["arm-1", "3", "2", "unfinished"],
        ["arm-2", "7", "0", "unfinished"],
    ]
    assert len(labelled(capsys, run / "episodes", "--actor", "arm-2")) == 1


def test_a_verdict_is_added_beside_the_recording(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a verdict that a running learner would not see, and against one that hides who gave it."""
    learner = LabelLayer(run / "episodes")
    options = ("--actor", "arm-1", "--episode", "2", "--who", "anna")
    assert labelled(capsys, run, "success", *options)[0][5:] == ["success", "at", "step", "1", "(person", "anna)"]
    labelled(capsys, run, "success", *options, "--step", "0")
    labelled(capsys, run, "failure", *options)
    told = [(one.actor, one.episode, one.verdict, one.step, one.source, one.who) for one in learner.news()]
    assert told == [("arm-1", 2, verdict, at, "person", "anna") for verdict, at in
                    (("success", 1), ("success", 0), ("failure", -1))]  # fmt: skip
    assert labelled(capsys, run)[2] == ["arm-1", "2", "2", "time", "over", "failure", "(person", "anna)"]
    assert labelled(capsys, run, "discarded", *options)[0][5:] == ["discarded", "(person", "anna)"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["success"], "a verdict needs --episode"),
        (["success", "--episode", "0"], "of several actors --actor too"),
        (["success", "--actor", "arm1", "--episode", "0"], 'unknown actor "arm1"; did you mean "arm-1"?'),
        (["success", "--actor", "arm-1", "--episode", "9"], "arm-1 has no episode 9; the nearest is 3"),
        (["success", "--actor", "arm-1", "--episode", "2", "--step", "2"], "has steps 0 to 1, none 2"),
        (["failure", "--actor", "arm-1", "--episode", "2", "--step", "1"], "--step says when a success came"),
        (["pending", "--actor", "arm-2", "--episode", "7"], "has no step yet"),
        (["perhaps", "--actor", "arm-1", "--episode", "2"], "perhaps"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(run: Path, arguments: list[str], text: str) -> None:
    """Guards against a verdict on an episode that is not there, which nobody would ever follow."""
    with pytest.raises(ConfigError) as error:
        cli.run(["label", str(run), *arguments])
    assert text in str(error.value) and "\n" not in str(error.value)
    assert not (run / "episodes" / "labels.jsonl").exists()


def test_the_only_actor_need_not_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against names to be copied where nothing else can be meant."""
    with EpisodeStore(tmp_path) as store:
        for record in (start("demo", 0), replace(step("demo", 0, 0), truncated=True)):
            store.append(record)
    assert labelled(capsys, tmp_path, "failure", "--episode", "0")[0][:2] == ["demo", "0"]


def test_a_folder_without_episodes_is_named(tmp_path: Path) -> None:
    """Guards against an empty table where the folder was misspelt."""
    with pytest.raises(ConfigError, match="holds no episodes"):
        cli.run(["label", str(tmp_path / "nowhere")])
