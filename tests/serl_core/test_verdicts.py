"""Verdicts given while it trains: about which episode, at which step, and that they reach store and replay once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from link_ends import actor, counts, eventually, learner
from link_records import obs, start, step

from examples.benchmarks.ports import free_address
from robot_servers import wire
from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import HardExample, LabelLayer, hard_examples, label_of
from serl_core.data.replay import Replay, as_frames
from serl_core.data.sampling import Sampling
from serl_core.envs.rewards import PersonJudge
from serl_core.teleop.console import Event, Said
from serl_core.types import SILENCE, EpisodeStart, Judgement, Record, Step, record_from_tree, record_to_tree
from serl_core.verdicts import Verdicts

STEPS = 4


class Desk:
    """A rollout of short episodes, and a person who says things meanwhile."""

    def __init__(self) -> None:
        self.sent: list[Judgement] = []
        self.complaints: list[str] = []
        self.verdicts = Verdicts([self.sent.append], "anna", self.complaints.append)
        self.clock = 0.0

    def say(self, event: Event) -> None:
        self.clock += 1.0
        self.verdicts.hear(Said(event, "key", self.clock))

    def episode(self, number: int, end: str = "", said: dict[int, Event] | None = None) -> None:
        """``end``: "success", "failure" or "" (time over); ``said`` what is said during which step."""
        self.verdicts(start("a", number))
        for index in range(STEPS):
            if said and index in said:
                self.say(said[index])
            self.verdicts(ended(number, index, end))

    def last(self) -> tuple[Any, ...]:
        one = self.sent[-1]
        return one.episode, one.verdict, one.step, one.wrong, one.wrong_step


def ended(episode: int, index: int, end: str) -> Step:
    last = index == STEPS - 1
    success, done = last and end == "success", last and end != ""
    plain = step("a", episode, index)
    return replace(plain, success=success, reward=float(success), terminated=done, truncated=last and not done)


def test_a_false_success_is_denied_and_named():
    """Guards the correction this is for: the judge saw a success that was none, noticed when the next one runs."""
    desk = Desk()
    desk.episode(0, "success")
    desk.episode(1, "success")
    desk.verdicts(start("a", 2))
    desk.verdicts(ended(2, 0, ""))
    desk.say(Event.FALSE_SUCCESS)
    assert desk.last() == (1, "failure", -1, "false_success", 3) and desk.sent[0].wall_time == 1.0
    assert desk.sent[0].who == "anna" and not desk.complaints


def test_a_missed_success_is_granted_at_its_step():
    """Guards against a success that is put where the episode ended, long after it came."""
    desk = Desk()
    desk.episode(0, "", said={1: Event.MISSED_SUCCESS})
    assert desk.last() == (0, "success", 1, "missed_success", 1)
    desk.episode(1, "")
    desk.say(Event.MISSED_SUCCESS)  # between two episodes: of the one that is over
    assert desk.last() == (1, "success", 3, "missed_success", 3)


def test_what_the_record_says_itself_is_not_said_again():
    """Guards against a second verdict beside the judge that listened to the same key."""
    desk = Desk()
    desk.episode(0, "success", said={3: Event.SUCCESS})
    desk.episode(1, "failure", said={3: Event.FAILURE})
    assert not desk.sent
    desk.episode(2, "success", said={3: Event.MISSED_SUCCESS})  # ended by the person: still the judge's mistake
    assert desk.last() == (2, "success", 3, "missed_success", 3)


def test_a_slip_of_the_person_is_not_the_judges_mistake():
    """Guards the classifier against hard examples that are wrong."""
    desk = Desk()
    desk.episode(0, "success", said={3: Event.SUCCESS})
    desk.say(Event.FALSE_SUCCESS)
    assert desk.last() == (0, "failure", -1, "", -1)
    desk.episode(1, "")
    desk.say(Event.MISSED_SUCCESS)
    desk.say(Event.FALSE_SUCCESS)
    assert desk.last() == (1, "failure", -1, "", -1)


def test_a_verdict_without_a_judge_becomes_a_label():
    """Guards runs whose judge does not listen: what was said during an episode counts at the step it met."""
    desk = Desk()
    desk.episode(0, "", said={2: Event.SUCCESS})
    assert desk.last() == (0, "success", 2, "", -1)
    desk.episode(1, "", said={2: Event.FAILURE})
    assert desk.last() == (1, "failure", -1, "", -1)
    desk.episode(2, "", said={0: Event.DISCARD})
    assert desk.last() == (2, "discarded", -1, "", -1)


def test_a_verdict_can_be_taken_back():
    """Guards against a person who corrects themselves: the last word counts, also about the same episode."""
    desk = Desk()
    desk.episode(0, "")
    for event, verdict in ((Event.SUCCESS, "success"), (Event.FALSE_SUCCESS, "failure"), (Event.SUCCESS, "success")):
        desk.say(event)
        assert desk.sent[-1].verdict == verdict
    assert not desk.complaints


def test_undo_goes_back_one_by_one():
    """Guards "take the last one back", said twice."""
    desk = Desk()
    desk.episode(0, "success")
    desk.episode(1, "success")
    for episode in (1, 0):
        desk.say(Event.UNDO)
        assert desk.last() == (episode, "discarded", -1, "", -1)
    desk.say(Event.UNDO)
    assert len(desk.sent) == 2 and "serl label" in desk.complaints[0]


@pytest.mark.parametrize("event", [Event.FALSE_SUCCESS, Event.MISSED_SUCCESS, Event.SUCCESS, Event.FAILURE])
def test_a_verdict_after_one_was_taken_back_is_on_no_other(event: Event):
    """Guards the episode before it: it has its verdict, and the person does not see that it would change."""
    desk = Desk()
    desk.episode(0, "success")
    desk.episode(1, "")
    desk.say(Event.UNDO)
    desk.say(event)
    assert len(desk.sent) == 1 and "was taken back" in desk.complaints[0]
    desk.episode(2, "")
    desk.say(Event.SUCCESS)
    assert desk.last()[:2] == (2, "success")


@pytest.mark.parametrize("event", [Event.FALSE_SUCCESS, Event.MISSED_SUCCESS, Event.SUCCESS, Event.FAILURE, Event.UNDO])
def test_a_verdict_on_nothing_is_one_line_with_the_way_out(event: Event):
    """Guards a person who corrects what an earlier process recorded: nothing is sent, and they learn how to."""
    desk = Desk()
    desk.say(event)
    assert not desk.sent and len(desk.complaints) == 1
    assert "serl label RUN" in desk.complaints[0] and "\n" not in desk.complaints[0]


def test_a_verdict_that_contradicts_the_facts_is_refused():
    """Guards episodes that are closed: a false success that was none, a missed one that was seen."""
    desk = Desk()
    desk.episode(0, "")
    desk.say(Event.FALSE_SUCCESS)
    desk.episode(1, "success")
    desk.say(Event.MISSED_SUCCESS)
    assert not desk.sent and "was no success" in desk.complaints[0] and "already" in desk.complaints[1]
    desk.verdicts(start("a", 2))
    desk.say(Event.SUCCESS)
    desk.verdicts(replace(step("a", 2, 0), aborted=True, truncated=True))
    assert not desk.sent and "no step" in desk.complaints[2]


def test_an_aborted_step_cannot_succeed():
    """Guards against a success at a step that was never executed."""
    desk = Desk()
    desk.verdicts(start("a", 0))
    desk.verdicts(step("a", 0, 0))
    desk.say(Event.SUCCESS)
    desk.verdicts(replace(step("a", 0, 1), aborted=True, truncated=True))
    assert desk.last() == (0, "success", 0, "", -1)


def test_a_success_that_was_confirmed_late_is_denied_where_it_began():
    """Guards the hard example: the frame that was taken for a success first, not the one that confirmed it."""
    desk = Desk()
    desk.verdicts(start("a", 0))
    desk.verdicts(step("a", 0, 0))
    desk.verdicts(replace(step("a", 0, 1), success=True, terminated=True, ago=1))
    desk.say(Event.FALSE_SUCCESS)
    assert desk.last() == (0, "failure", -1, "false_success", 0)


# ── questions ────────────────────────────────────────────────────────────────────────────────────


def asked_in(desk: Desk, number: int, then: Event | None) -> list[tuple[str, str]]:
    """An episode that a person ends without a verdict, what they say then, and the next one: verdicts, who says so."""
    before = len(desk.sent)
    desk.episode(number, "", said={STEPS - 1: Event.END})
    if then:
        desk.say(then)
    desk.verdicts(start("a", number + 1))
    return [(one.verdict, one.who) for one in desk.sent[before:] if one.episode == number]


QUESTION, SILENT = ("pending", SILENCE), ("failure", SILENCE)


@pytest.mark.parametrize(
    ("then", "verdict"),
    [
        (Event.SUCCESS, ("success", "anna")),
        (Event.FAILURE, ("failure", "anna")),
        (Event.DISCARD, ("discarded", "anna")),
        (Event.UNDO, ("discarded", "anna")),
        (None, SILENT),
        (Event.BEGIN, SILENT),
    ],
)
def test_an_end_without_a_verdict_is_a_question(then: Event | None, verdict: tuple[str, str]):
    """Guards the last step while a person thinks, each of their answers, and that silence ends the question."""
    assert asked_in(Desk(), 0, then) == [QUESTION, verdict]


def test_a_question_is_there_before_the_end_of_its_episode():
    """Guards the moment between the last step's record and the question: an update could learn it there."""
    desk = Desk()
    desk.verdicts(start("a", 0))
    desk.verdicts(step("a", 0, 0))
    desk.say(Event.END)
    assert not desk.sent
    desk.verdicts(replace(step("a", 0, 1), truncated=True))  # before whoever sends this record is told of it
    assert desk.last() == (0, "pending", -1, "", -1)


def test_who_has_judged_is_not_asked():
    """Guards against questions about episodes that have their verdict: from the person, or from the judge."""
    desk = Desk()
    desk.verdicts(start("a", 0))
    desk.say(Event.SUCCESS)
    desk.say(Event.END)
    desk.verdicts(replace(step("a", 0, 0), truncated=True))
    desk.episode(1, "success", said={3: Event.END})
    desk.episode(2, "failure", said={3: Event.END})
    desk.episode(3, "")
    desk.verdicts.leave()
    assert [one.verdict for one in desk.sent] == ["success"]


def test_where_nobody_else_judges_each_end_is_a_question():
    """Guards runs whose only judge is a person: a time limit says nothing about success."""
    desk = Desk()
    desk.verdicts(replace(start("a", 0), meta={"judge": PersonJudge(list).name}))
    for index in range(STEPS):
        desk.verdicts(ended(0, index, ""))
    desk.say(Event.SUCCESS)
    desk.verdicts(replace(start("a", 1), meta={"judge": PersonJudge(list, PersonJudge(list)).name}))
    for index in range(STEPS):
        desk.verdicts(ended(1, index, ""))
    desk.verdicts.leave()
    assert [(one.episode, one.verdict) for one in desk.sent] == [(0, "pending"), (0, "success")]


def test_leaving_ends_a_question():
    """Guards what an actor leaves behind that ends while somebody thinks: nobody answers any more."""
    desk = Desk()
    desk.episode(0, "", said={3: Event.END})
    for _ in range(2):
        desk.verdicts.leave()
    assert [(one.verdict, one.who) for one in desk.sent] == [QUESTION, SILENT]


def test_an_episode_without_a_step_is_no_question():
    """Guards the store against questions about nothing."""
    desk = Desk()
    desk.verdicts(start("a", 0))
    desk.say(Event.END)
    desk.verdicts(replace(step("a", 0, 0), aborted=True, truncated=True))
    assert not desk.sent


# ── on their way ─────────────────────────────────────────────────────────────────────────────────

FALSE = Judgement("s", 0, "failure", -1, "anna", 7.0, "false_success", 3)
MISSED = Judgement("s", 1, "success", 1, "anna", 8.0, "missed_success", 1)


def records(session: str, number: int, end: str) -> Iterator[Record]:
    yield start(session, number)
    for index in range(STEPS):
        yield replace(ended(number, index, end), actor=session)


def test_a_judgement_survives_the_wire():
    """Guards the format: what is sent is what arrives, and an older record without the new fields too."""
    for one in (FALSE, MISSED):
        assert record_from_tree(wire.unpack(wire.pack(record_to_tree(one)))) == one
    tree = record_to_tree(replace(MISSED, wrong="", wrong_step=-1))
    del tree["wrong"], tree["wrong_step"]
    assert isinstance(record_from_tree(tree), Judgement)


NONSENSE = [{"verdict": "maybe"}, {"step": 1}, {"wrong": ""}, {"wrong": "very"}, {"wrong_step": -1}]


@pytest.mark.parametrize("change", [*NONSENSE, {"wall_time": float("nan")}])
def test_a_judgement_that_cannot_be_meant_is_refused(change: dict[str, Any]):
    """Guards the learner, which must not fall over what a peer sends."""
    with pytest.raises(ValueError):
        record_from_tree({**record_to_tree(FALSE), **change})


def test_it_becomes_a_label_once_whatever_is_repeated(tmp_path: Path):
    """Guards exactly-once: a crash between label and record repeats the record, and must not repeat the label."""
    with EpisodeStore(tmp_path) as store:
        for record in records("s", 0, "success"):
            store.append(record)
        store.labels.add(label_of(FALSE))  # the crash: the label is there, the record is not
    before = [record for record in EpisodeStore(tmp_path).records(as_recorded=True)]
    with EpisodeStore(tmp_path) as store:
        store.append(FALSE)
    labels = LabelLayer(tmp_path).news()
    assert [(label.verdict, label.source, label.who, label.wrong_step) for label in labels] == [
        ("failure", "person", "anna", 3)
    ]
    after = list(EpisodeStore(tmp_path).records(as_recorded=True))
    assert len(after) == len(before) == STEPS + 1  # a judgement is no part of an episode
    assert EpisodeStore(tmp_path).open().last("s") == STEPS + 2


def test_hard_examples_are_what_counts_now(tmp_path: Path):
    """Guards the classifier against a mistake that the person took back."""
    with EpisodeStore(tmp_path) as store:
        for one in (FALSE, MISSED):
            store.append(one)
        assert hard_examples(store.labels.newest()) == [
            HardExample("s", 0, 3, "false_success"),
            HardExample("s", 1, 1, "missed_success"),
        ]
        store.append(Judgement("s", 0, "success", 3, "anna", 9.0))
        assert hard_examples(store.labels.newest()) == [HardExample("s", 1, 1, "missed_success")]


def test_verdicts_reach_store_and_replay_once_through_restarts(tmp_path: Path):
    """Guards the whole way, through a learner that dies before it acknowledges and one that is away meanwhile."""
    address, root = free_address(), tmp_path / "episodes"
    link = actor(address, tmp_path)
    session = link.session
    with learner(address, root):
        for record in (*records(session, 0, "success"), *records(session, 1, "")):
            link.send(record)
        assert link.wait_drained(30.0)
    link.send(replace(FALSE, actor=session))
    link.close()  # the learner is away, and the actor ends
    link = actor(address, tmp_path)
    with learner(address, root):
        link.send(replace(MISSED, actor=session))
        assert link.wait_drained(30.0)
    link.close()
    assert counts(root)[session] == list(range(1, 2 * (STEPS + 1) + 2))
    store = EpisodeStore(root)
    labels = store.labels.news()
    assert sorted((label.episode, label.verdict) for label in labels) == [(0, "failure"), (1, "success")]
    replay = Replay(64, obs(0), 2, as_frames)
    for record in store.records(as_recorded=True):
        replay.insert(record)
    for label in labels:
        replay.relabel(label)
    batch = replay.gather(np.sort(replay.slots("online")), Sampling(0.9))
    rewards = np.array(batch["reward"])
    assert replay.size("online") == STEPS + 2  # those after the missed success are void
    assert rewards.tolist() == [0, 0, 0, 0, 0, 1]


def test_an_unreadable_judgement_does_not_stop_the_learner(tmp_path: Path):
    """Guards the link: a peer of another version sends a verdict that this one has no word for."""
    address, root = free_address(), tmp_path / "episodes"
    with actor(address, tmp_path) as link, learner(address, root) as end:
        link.send(start(link.session, 0))
        broken = replace(FALSE)
        object.__setattr__(broken, "verdict", "maybe")
        link.send(broken)
        link.send(replace(step(link.session, 0, 0)))
        assert link.wait_drained(30.0)
        assert eventually(lambda: end.status().rejected == 1)
    kinds = [type(stored.record()) for stored in EpisodeStore(root).stored()]
    assert kinds == [EpisodeStart, Step]
