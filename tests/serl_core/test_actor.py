from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
from env_parts import REACH, Arm, Hand, push
from link_ends import eventually
from link_records import step
from person_parts import Script, in_order

from examples.benchmarks.ports import free_address
from serl_core.actor import Board, Config, Recorder, attended_env, heard_verdicts
from serl_core.advice import Advisor, advisor_for
from serl_core.attendance import attended_by
from serl_core.config import Task
from serl_core.envs.attention import attended
from serl_core.rollout import Decision, Identity, rollout
from serl_core.session import Session
from serl_core.summary import Tally
from serl_core.teleop.console import Event
from serl_core.transport import ActorLink, LearnerLink
from serl_core.types import EpisodeStart, Judgement, Message


def test_without_a_learner_the_actor_acts_on_and_says_so(tmp_path: Path) -> None:
    """Guards against an absence that nobody notices, and against an arm that stops for it unasked."""
    address, said = free_address(), list[str]()
    with ActorLink(address, "actor", tmp_path, away_after=0.2) as link:
        recorder = Recorder(link, None, stop=lambda: False, say=said.append)
        recorder(step(link.session, 0, 0))
        recorder(step(link.session, 0, 1))
        assert len(said) == 1 and said[0].startswith("learner away for") and "acting on with weights -1" in said[0]
        with LearnerLink(address):
            assert link.wait_connected(30.0)
            recorder(step(link.session, 0, 2))
        assert said[1:] == ["the learner is back"]


def test_told_to_hold_it_takes_no_step_until_the_learner_is_back(tmp_path: Path) -> None:
    """Guards against an arm that moves with old weights although it was told to hold."""
    address, said = free_address(), list[str]()
    with ActorLink(address, "actor", tmp_path, away_after=0.2) as link:
        heard: list[str] = []
        recorder = Recorder(
            link, None, stop=lambda: False, hold=True, say=said.append, hear=lambda: heard.append("hold")
        )
        thread = threading.Thread(target=recorder, args=(step(link.session, 0, 0),))
        thread.start()
        assert eventually(lambda: bool(said))
        assert "the arm holds" in said[0]
        thread.join(0.5)
        assert thread.is_alive()
        with LearnerLink(address):
            thread.join(30.0)
        assert not thread.is_alive() and said[1:] == ["the learner is back"]
        assert heard  # a person is heard while it waits, also after the learner is back


def test_an_actor_that_holds_can_be_stopped(tmp_path: Path) -> None:
    """Guards against a Ctrl-C that waits for a learner."""
    stopped = threading.Event()
    with ActorLink(free_address(), "actor", tmp_path) as link:
        recorder = Recorder(link, None, stop=stopped.is_set, hold=True, say=lambda text: stopped.set())
        recorder(step(link.session, 0, 0))
    assert stopped.is_set()


def told(script: Script, task: Task, run_dir: Path) -> tuple[list[Message], Tally, Advisor]:
    """What an actor sends whose hand pushes to the goal, while ``script`` is said; and what is counted."""
    arm, sent, tally = Arm(), list[Message](), Tally()
    session = Session(arm.robot, arm.clock(), arm.truth)
    there = attended_by(session, script, Hand([push()] * 9 + [push(0.5)] * 2), lambda: False, lambda seconds: None)
    board = Board(there.ears.status, tally, lambda: 7)
    advisor = advisor_for(task, show=there.ears.status.update)
    verdicts = heard_verdicts(there, "anna", sent.append, tally, board, advisor)
    rollout(
        attended_env(Config(run_dir, operator="none"), task, there, lambda: False),
        lambda obs: Decision(np.zeros(task.action_dim, np.float32)),
        [verdicts, lambda record: sent.append(record), tally, board, advisor],
        identity=Identity("a"),
        seeds=attended(range(5), there.ears),
        stop=there.ears.over,
    )
    return sent, tally, advisor


def test_what_is_said_at_the_console_ends_the_actors_episode_and_travels(tmp_path: Path) -> None:
    """Guards a person's verdict while it trains: into the running record, or behind it, and shown as it stands."""
    console = Script(in_order(("4", Event.SUCCESS), ("3", Event.FALSE_SUCCESS), ("6", Event.QUIT)))
    sent, tally, advisor = told(console, replace(REACH, max_steps=12), tmp_path)
    assert [(one.success, one.steps < 12) for one in tally.episodes] == [(False, True), (False, False)]
    assert tally.operator_steps > 0
    denied = [one for one in sent if isinstance(one, Judgement)]
    assert [(one.episode, one.verdict, one.who) for one in denied] == [(0, "failure", "anna")]
    rates = [one["successes"] for one in console.shown if "successes" in one]
    assert [*dict.fromkeys(rates)] == ["0/0", "1/1", "0/1", "0/2"] and console.shown[-1]["weights"] == 7
    assert advisor.course.successes == 0 and console.shown[-1]["on its own"].startswith("0 of")


def test_what_cannot_be_meant_is_shown_where_it_was_said(tmp_path: Path) -> None:
    """Guards against a verdict that only the log of another window refuses."""
    console = Script(in_order(("2", Event.FALSE_SUCCESS), ("4", Event.SUCCESS), ("3", Event.QUIT)))
    told(console, replace(REACH, max_steps=12), tmp_path)
    refused = [one.get("refused", "") for one in console.shown]
    assert refused[0] == refused[-1] == "" and any("no episode has ended here yet" in text for text in refused)


def test_an_episode_that_is_ended_is_a_question_until_it_is_answered(tmp_path: Path) -> None:
    """Guards what goes to the learner while a person thinks, the answer, and that going on without one is silence."""
    answers = in_order(("3", Event.END), ("judge", Event.SUCCESS), ("2", Event.END), ("judge", Event.BEGIN))
    sent, tally, _ = told(Script(answers), replace(REACH, max_steps=5), tmp_path)
    shown = [
        (one.episode, f"{one.verdict} by {one.who}" if isinstance(one, Judgement) else one.step)
        for one in sent
        if not isinstance(one, EpisodeStart)
    ]
    first, second = ([what for episode, what in shown if episode == number] for number in (0, 1))
    assert first[-3:] == ["pending by silence", first[-2], "success by anna"] and isinstance(first[-2], int)
    assert second[-3:] == ["pending by silence", second[-2], "failure by silence"]
    assert [one.success for one in tally.episodes[:2]] == [True, False]
