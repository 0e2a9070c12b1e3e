"""The script in a person's place records frames of which every one is of its kind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from env_parts import REACH, REACHED
from link_records import start
from link_records import step as counted
from person_parts import scoring

from robot_servers.drivers.fake import FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import RobotError
from robot_servers.server import Server
from serl_core.config import ConfigError
from serl_core.data.episodes import EpisodeStore
from serl_core.envs.rewards import Verdict
from serl_core.record import Config, check, main, record_by_hand, record_script
from serl_core.recording.book import Book, Kind
from serl_core.session import Session, connected
from serl_core.summary import read_json
from serl_core.types import EpisodeStart, Step

TASK = replace(REACH, max_steps=40)


@pytest.fixture
def session() -> Iterator[Session]:
    """An arm without physics, and the truth of a point it has to reach."""
    robot = GuardedRobot(FakeDriver(cameras=("front",)))
    robot.connect()
    with Server(robot, "tcp://127.0.0.1:*") as server, ExitStack() as stack:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.stop)
        there = stack.enter_context(connected(TASK, "state", server.address))

        def truth() -> dict:
            found = dict(robot.ground_truth())
            away = np.linalg.norm(there.robot.state().pose[:3] - found["object"][:3])
            return {**found, "success": bool(away < REACHED)}

        yield replace(there, truth=truth)
    robot.close()


@pytest.mark.parametrize("kind", ["success", "failure", "play"])
def test_every_frame_is_of_its_kind(session: Session, tmp_path: Path, kind: Kind) -> None:
    """Guards a classifier's first data, where no person is there to see what a frame shows."""
    config = Config(tmp_path, kind=kind, episodes=2, max_steps=6, who="script")
    assert record_by_hand(config, TASK, session, None) == 0
    store = EpisodeStore(tmp_path)
    labels = store.labels.newest()
    kept = [number for (_, number), label in labels.items() if label.verdict != "discarded"]
    assert len(kept) == 2
    for record in store.records(as_recorded=True):
        if record.episode not in kept or kind == "play":
            continue
        obs = record.obs if isinstance(record, EpisodeStart) else record.next_obs
        away = float(np.linalg.norm(obs["state"][-3:]))  # the object in the TCP frame
        assert (away < REACHED) == (kind == "success"), away


def test_without_a_ground_truth_the_script_cannot_tell(session: Session, tmp_path: Path) -> None:
    """Guards against frames whose kind nobody has looked at."""
    with pytest.raises(ConfigError, match="--truth"):
        record_by_hand(Config(tmp_path, kind="success"), TASK, replace(session, truth=None), None)


def test_a_judge_takes_the_place_of_the_ground_truth(session: Session, tmp_path: Path) -> None:
    """Guards --judge with the script: what is kept are the successes that the judge saw, from their first frame on."""
    config = Config(tmp_path, episodes=2, max_steps=6)
    assert record_script(config, TASK, session, scoring(4)) == 0
    labels = EpisodeStore(tmp_path).labels.newest().values()
    assert [(label.verdict, label.source, label.step) for label in labels] == [("success", "classifier", 4)] * 2


def test_what_a_recording_came_to_is_written_for_programs(session: Session, tmp_path: Path) -> None:
    """Guards --json: a second call counts what the first has left, as the line on the screen does."""
    file, demos = tmp_path / "deep" / "demos.json", tmp_path / "demos"
    for wanted in (1, 2):
        assert record_script(Config(demos, episodes=wanted, max_steps=6, json=file), TASK, session, scoring(4)) == 0
        found = read_json(file)
        steps = [record for record in EpisodeStore(demos).records(as_recorded=True) if isinstance(record, Step)]
        assert found.pop("warnings").keys() == {"idle", "long", "saturated"}
        assert found == {
            "kind": "demo", "folder": str(demos), "kept": wanted, "steps": len(steps),
            "attempts": wanted, "successes": wanted, "discarded": 0,
        }  # fmt: skip


def test_an_outcome_that_cannot_be_written_is_refused_before_the_robot_moves(tmp_path: Path) -> None:
    """Guards an hour of demonstrations against an error at its very end."""
    (tmp_path / "file").touch()
    for wrong in (tmp_path, tmp_path / "file" / "demos.json"):
        with pytest.raises(ConfigError, match=r"--json .* cannot be written"):
            check(Config(tmp_path / "demos", json=wrong))
    check(Config(tmp_path / "demos", json=tmp_path / "not" / "yet" / "demos.json"))


@pytest.mark.parametrize(("kind", "successes"), [("success", 2), ("failure", 0)])
def test_what_was_recorded_of_other_kinds_is_written_too(
    session: Session, tmp_path: Path, kind: Kind, successes: int
) -> None:
    """Guards --json of frames for a classifier: what is kept need not be a success."""
    file = tmp_path / "frames.json"
    config = Config(tmp_path / "frames", kind=kind, episodes=2, max_steps=6, who="script", json=file)
    assert record_by_hand(config, TASK, session, None) == 0
    found = read_json(file)
    assert (found["kind"], found["kept"], found["successes"]) == (kind, 2, successes)
    assert found["attempts"] == found["kept"] + found["discarded"] and found["steps"] > 0


def test_a_recording_that_does_not_succeed_is_written_too(session: Session, tmp_path: Path) -> None:
    """Guards --json of an operator who cannot do it: the figures say what was tried."""
    file = tmp_path / "demos.json"
    config = Config(tmp_path / "demos", episodes=1, max_steps=6, json=file)
    assert record_script(config, replace(TASK, max_steps=3), session, scoring(1000)) == 1
    found = read_json(file)
    assert (found["kept"], found["successes"], found["steps"]) == (0, 0, 0)
    assert found["attempts"] == found["discarded"] == 5


@pytest.mark.parametrize(("task", "judge", "text"), [("reach", "rule", "no rule"), ("reach", "a.npz", "--obs pixels")])
def test_a_judge_that_cannot_be_is_refused_before_a_robot_is_asked_for(
    tmp_path: Path, task: str, judge: str, text: str
) -> None:
    """Guards a person who would learn at the arm's first motion that nobody judges."""
    with pytest.raises(ConfigError, match=text):
        main(Config(tmp_path, task=task, judge=judge))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"operator": "spacemouse", "console": "page"}, "only keys, or a button"),
        ({"operator": "none", "console": "none"}, "only keys, or a button"),
        ({"operator": "gamepad", "buttons": "start=go"}, "write BUTTON=EVENT"),
        ({"episodes": -1}, "episodes"),
        ({"kind": "play", "judge": "rule"}, "recorded as play is taken at your word"),
    ],
)
def test_what_cannot_be_meant_is_said_before_a_robot_is_asked_for(tmp_path: Path, change: dict, text: str) -> None:
    """Guards a person who would wait at an arm that nobody can tell to begin."""
    with pytest.raises(ConfigError, match=text):
        check(Config(tmp_path, **change))


def test_the_script_goes_on_where_a_hand_has_left_off(session: Session, tmp_path: Path) -> None:
    """Guards a folder that a person began: numbers that come twice would be refused, and labels hit the wrong one."""
    with EpisodeStore(tmp_path) as store:
        book = Book(store, "demo", "demo", "anna", lambda text: None)
        for number in range(3):
            book(start("demo", number, "demo"))
            book(replace(counted("demo", number, 0), success=number != 1, terminated=True, truncated=False))
    assert record_script(Config(tmp_path, episodes=3, max_steps=6), TASK, session, scoring(4)) == 0
    numbers = [one.episode for one in EpisodeStore(tmp_path).records() if isinstance(one, EpisodeStart)]
    assert numbers == [0, 1, 2, 3]  # two of three were successes: one was missing


def test_a_recording_that_breaks_off_is_written_too(session: Session, tmp_path: Path) -> None:
    """Guards --json against a robot that is lost: what was recorded until then is on disk, and in the figures."""

    class Lost:
        name = "lost"

        def reset(self) -> None:
            pass

        def judge(self, obs, info) -> Verdict:
            raise RobotError("gone")

    file = tmp_path / "demos.json"
    with pytest.raises(RobotError, match="gone"):
        record_script(Config(tmp_path / "demos", episodes=1, max_steps=6, json=file), TASK, session, Lost())
    assert read_json(file)["kept"] == 0
