"""A person records, on the arm without physics behind its real server: what is stored, and what it comes to."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from env_parts import REACH
from person_parts import Script, Seeker, in_order, scoring

from robot_servers.drivers.fake import FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.server import Server
from serl_core.attendance import Attendance, attended_by
from serl_core.data.episodes import EpisodeStore
from serl_core.envs.rewards import Judge
from serl_core.envs.takeover_machine import TakeoverConfig
from serl_core.record import idle
from serl_core.recording.book import Book
from serl_core.recording.person import Plan, record_person
from serl_core.session import Session, connected
from serl_core.teleop.console import Event
from serl_core.teleop.device import Device
from serl_core.types import EpisodeStart, Step

TASK = replace(REACH, privileged=None, privileged_dim=0, max_steps=40)
PLAN = Plan("demo", "state", episodes=2, steps=0, max_steps=0, first_seed=7, takeover=TakeoverConfig())
B, S, F, D, U, E, Q = Event.BEGIN, Event.SUCCESS, Event.FAILURE, Event.DISCARD, Event.UNDO, Event.END, Event.QUIT


@pytest.fixture
def session() -> Iterator[Session]:
    """An arm served in lockstep, without ground truth: nobody but the person can judge."""
    robot = GuardedRobot(FakeDriver(cameras=("front",)))
    robot.connect()
    with Server(robot, "tcp://127.0.0.1:*") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with connected(TASK, "state", server.address) as session:
                yield session
        finally:
            server.stop()
            thread.join()
            robot.close()


def at(session: Session, console: Script, device: Device | None) -> Attendance:
    return attended_by(session, console, device, lambda: len(console.shown) > 3000, lambda seconds: None)


def hand(session: Session) -> Seeker:
    return Seeker(TASK, session.robot.state, lambda: np.array([0.55, 0.05, 0.35]))


def record(
    session: Session,
    out: Path,
    console: Script,
    device: Device | None,
    plan: Plan = PLAN,
    judge: Judge | None = None,
) -> tuple[Book, list]:
    said: list[str] = []
    with EpisodeStore(out) as store:
        there = at(session, console, device)
        book, _ = record_person(
            plan,
            TASK,
            there,
            store,
            lambda: False,
            idle=idle(TASK),
            who="anna",
            meta={"task": "reach"},
            say=said.append,
            judge=judge,
        )
    return book, said


def stored(out: Path, as_recorded: bool = True) -> dict[int, list[Step]]:
    """The steps of each episode."""
    found: dict[int, list[Step]] = {}
    for record in EpisodeStore(out).records(as_recorded=as_recorded):
        if isinstance(record, EpisodeStart):
            found[record.episode] = []
        else:
            found[record.episode].append(record)
    return found


def test_a_person_records_judges_and_takes_back(session: Session, tmp_path: Path) -> None:
    """Guards the whole way: from a hand and keys through the server to demonstrations that a learner may use."""
    moments = [("begin", B), ("12", S), ("begin", B), ("8", F), ("begin", B), ("10", S), ("begin", U)]
    moments += [("begin", B), ("5", D), ("begin", B), ("9", E), ("judge", S), ("begin", Q)]
    console, device = Script(in_order(*moments)), hand(session)
    book, said = record(session, tmp_path, console, device)
    assert console.heard == [event for _, event in moments]
    assert [entry.verdict for entry in book.ledger.entries] == [
        "success",
        "failure",
        "discarded",
        "discarded",
        "success",
    ]
    assert (book.kept, book.steps) == (2, sum(book.lengths))
    recorded, used = stored(tmp_path), stored(tmp_path, as_recorded=False)
    assert [len(steps) for steps in recorded.values()] == [entry.steps for entry in book.ledger.entries]
    assert all(recorded.values()) and [bool(used[number]) for number in range(5)] == [True, True, False, False, True]
    ends = [(steps[-1].success, steps[-1].terminated, steps[-1].truncated) for steps in recorded.values()]
    assert ends == [(1, 1, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (0, 0, 1)]
    assert used[4][-1].success and used[4][-1].reward == 1.0  # said after its end
    assert all(step.who == "operator" for step in recorded[0])  # the wait for the hand is not part of it
    assert any("taken back: episode 2" in text for text in said)
    assert console.shown[-1]["kept"] == "2/2" and not any(shown.get("device") for shown in console.shown)


def test_a_judge_gives_the_verdict_and_the_person_has_the_last_word(session: Session, tmp_path: Path) -> None:
    """Guards demonstrations judged by a classifier: dated at its first frame, and never against what a person says."""
    moments = [("begin", B), ("begin", B), ("begin", Event.FALSE_SUCCESS), ("begin", B), ("4", F)]
    moments += [("begin", B), ("5", S), ("begin", Q)]
    console = Script(in_order(*moments))
    book, _ = record(session, tmp_path, console, hand(session), judge=scoring(9))
    assert console.heard == [event for _, event in moments] and book.kept == 2
    labels = [label for (_, _), label in sorted(EpisodeStore(tmp_path).labels.newest().items())]
    assert [(label.verdict, label.source) for label in labels] == [
        ("success", "judge"), ("failure", "person"), ("failure", "person"), ("success", "person"),
    ]  # fmt: skip
    assert labels[0].step == 9 and (labels[1].wrong, labels[1].wrong_step) == ("false_success", 9)
    recorded, used = stored(tmp_path), stored(tmp_path, as_recorded=False)
    assert [len(recorded[0]), len(recorded[1])] == [11, 11] and recorded[2][-1].terminated
    assert (len(used[0]), used[0][-1].success, used[0][-1].terminated) == (10, True, True)
    assert not used[1][-1].success and not used[1][-1].terminated
    starts = [one for one in EpisodeStore(tmp_path).records() if isinstance(one, EpisodeStart)]
    assert {one.meta["judge"] for one in starts} == {"person, else success by scores@1"}


def test_what_a_judge_saw_before_the_hand_is_no_part_of_the_episode(session: Session, tmp_path: Path) -> None:
    """Guards against a success that is dated before the first step: the arm may wait where the last one ended."""
    reads: list[int] = []

    def late() -> bool:
        reads.append(1)
        return len(reads) > 20

    console = Script(in_order(("begin", B), ("begin", Q)))
    book, _ = record(session, tmp_path, console, replace(hand(session), pushes=late), judge=scoring(0))
    steps = stored(tmp_path)[0]
    assert [(step.success, step.ago) for step in steps] == [(False, 0), (True, 1)]
    assert book.ledger.entries[0].judged == 0


def test_frames_of_a_kind_need_no_verdict(session: Session, tmp_path: Path) -> None:
    """Guards the first classifier's frames: recorded before anybody can judge, by a person without a device."""
    for kind, verdict, step in (("success", "success", 0), ("failure", "failure", -1), ("play", "pending", -1)):
        console = Script(in_order(("begin", B), ("6", E), ("begin", B), ("4", D), ("begin", Q)))
        book, _ = record(session, tmp_path / kind, console, None, replace(PLAN, kind=kind, episodes=1, max_steps=8))
        labels = EpisodeStore(tmp_path / kind).labels.newest()
        assert [(label.verdict, label.step) for label in labels.values()] == [(verdict, step), ("discarded", -1)]
        assert book.kept == 1 and book.ledger.entries[0].actor == kind
        starts = [one for one in EpisodeStore(tmp_path / kind).records() if isinstance(one, EpisodeStart)]
        assert all(one.meta["kind"] == kind and one.source == "online" for one in starts)


def test_time_over_is_a_truncation_and_the_wait_for_the_hand_does_not_count(session: Session, tmp_path: Path) -> None:
    """Guards a person's time: the limit is the one they were told, from their first push on."""
    reads: list[int] = []

    def late() -> bool:
        reads.append(1)
        return len(reads) > 60  # longer than the task's own limit

    device = replace(hand(session), pushes=late)
    console = Script(in_order(("begin", B), ("begin", Q)))
    book, _ = record(session, tmp_path, console, device, replace(PLAN, max_steps=15))
    steps = stored(tmp_path)[0]
    assert len(steps) == 15 and steps[-1].truncated and not steps[-1].terminated
    assert book.ledger.entries[0].verdict == "discarded"  # nobody judged it
    left = [status["left"] for status in console.shown if status.get("step") in (1, 14)]
    assert left == ["1 s", "0 s"]


def test_a_device_that_is_lost_holds_the_arm_and_says_so(session: Session, tmp_path: Path) -> None:
    """Guards a demonstration against the last push of an unplugged device."""
    device = hand(session)

    def script(status: Mapping[str, Any]) -> list[Event]:
        device.connected = status.get("step") not in (5, 6, 7)
        device.pushes = lambda: device.connected and status.get("step") != 8  # let go, then taken up again
        return list(moments(status))

    moments = in_order(("begin", B), ("14", S), ("begin", Q))
    book, _ = record(session, tmp_path, Script(script), device)
    who = "".join(step.who[0] for step in stored(tmp_path)[0])
    assert "on" in who and who.strip("o") == "n" * 4 and who.endswith("o"), who
    lost = [step for step in stored(tmp_path)[0] if step.who == "nobody"]
    assert not any(step.action.any() for step in lost) and {step.takeover for step in lost} == {0}
    assert book.kept == 1


def test_a_stop_and_a_hold_cost_the_episode_and_nothing_else(session: Session, tmp_path: Path) -> None:
    """Guards recorded data against the ways in which people stop an arm."""
    recover = session.robot.recover
    stopped: list[str] = []

    def script(status: Mapping[str, Any]) -> list[Event]:
        if session.robot.status().mode == "stopped":
            stopped.append(session.robot.status().reason)
            recover()
        return list(moments(status))

    moments = in_order(("begin", B), ("5", Event.STOP), ("begin", B), ("5", Event.HOLD), ("begin", B),
                       ("6", S), ("begin", Q))  # fmt: skip
    book, _ = record(session, tmp_path, Script(script), hand(session))
    assert [entry.verdict for entry in book.ledger.entries] == ["discarded", "discarded", "success"]
    assert stopped and "STOP by key" in stopped[0]
    assert [steps[-1].truncated for steps in stored(tmp_path).values()] == [True, True, False]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_said_whenever_nothing_is_lost(session: Session, tmp_path: Path, seed: int) -> None:
    """Guards the whole recorder against random people: the store, its labels and the counts agree."""
    rng, said_at = np.random.default_rng(seed), [0]
    events = [B, B, B, S, F, D, U, E, Event.FALSE_SUCCESS, Event.MISSED_SUCCESS, Event.HOLD]

    def script(status: Mapping[str, Any]) -> list[Event]:
        said_at[0] += 1
        if said_at[0] > 400:
            return [Q]
        return [events[rng.integers(len(events))] for _ in range(rng.integers(0, 3))] if rng.random() < 0.3 else []

    counted: list = []
    with EpisodeStore(tmp_path) as store:
        there = at(session, Script(script), replace(hand(session), pushes=lambda: bool(rng.random() < 0.8)))
        append = store.append
        store.append = lambda record: counted.append(record) or append(record)  # type: ignore[method-assign]
        book, _ = record_person(
            replace(PLAN, max_steps=15), TASK, there, store, lambda: False, idle=idle(TASK), who="anna", meta={},
            say=lambda text: None,
        )  # fmt: skip
    recorded = list(EpisodeStore(tmp_path).records(as_recorded=True))
    assert len(recorded) == len(counted) > 10
    steps: dict[int, int] = {}
    for one in recorded:
        if isinstance(one, Step):
            assert one.step == steps.get(one.episode, 0)
            steps[one.episode] = one.step + 1
    labels = EpisodeStore(tmp_path).labels.newest()
    assert {entry.number: entry.verdict for entry in book.ledger.entries} == {
        number: label.verdict for (_, number), label in labels.items()
    }
    assert book.kept == sum(label.verdict == "success" for label in labels.values())
    assert [entry.steps for entry in book.ledger.entries] == list(steps.values())
