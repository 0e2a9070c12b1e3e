"""A person records, on the arm without physics behind its real server: what is stored, and what it comes to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from env_parts import REACH
from person_parts import Script, Seeker, in_order

from robot_servers.drivers.fake import FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.server import Server
from serl_core.attendance import Attendance, attended_by
from serl_core.data.episodes import EpisodeStore
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
    there = attended_by(session, console, device, lambda: len(console.shown) > 3000)
    there.ears._pause = lambda seconds: None
    return there


def hand(session: Session) -> Seeker:
    return Seeker(TASK, session.robot.state, lambda: np.array([0.55, 0.05, 0.35]))


def record(session: Session, out: Path, console: Script, device: Device | None, plan: Plan = PLAN) -> tuple[Book, list]:
    said: list[str] = []
    with EpisodeStore(out) as store:
        there = at(session, console, device)
        book = record_person(
            plan,
            TASK,
            there,
            store,
            lambda: False,
            idle=idle(TASK),
            who="anna",
            meta={"task": "reach"},
            say=said.append,
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
