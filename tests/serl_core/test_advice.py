"""Advice beside the arm: each rule from records that are made up, and that it can be read."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_records import start, step

from serl_core.advice import DWELL, EXPLORE, EXPLORED, LED, LONG, Advisor, Kind, Latch, Learner, advisor_for
from serl_core.course import place_of
from serl_core.tasks import load_task
from serl_core.types import Judgement, Verdict

MOVES = 1.0  # full steps per step
PERIOD = 0.1  # s


class Run:
    """A rollout that is made up: the state of an observation is the place, in full steps, on a line."""

    def __init__(self) -> None:
        self.time = 0.0
        self.learner = Learner()
        self.lines: list[str] = []
        self.shown: dict[str, object] = {}
        self.advisor = Advisor(
            2,
            lambda obs: obs["state"].astype(float),
            lambda: self.learner,
            self.lines.append,
            self.shown.update,
            lambda: self.time,
        )
        self.changes: list[tuple[float, Kind]] = []
        self.episodes = 0
        self._at = 0.0
        self._index = 0

    @property
    def kind(self) -> Kind:
        return self.advisor.advice.kind

    def begin(self) -> None:
        self._at, self._index = 0.0, 0
        self.advisor(replace(start("a", self.episodes), obs={"state": np.zeros(1, np.float32)}))
        self._note()

    def _note(self) -> None:
        if (self.changes[-1][1] if self.changes else Kind.TRY) is not self.kind:
            self.changes.append((self.time, self.kind))

    def step(self, moves: float = MOVES, leads: bool = False, action: float = 0.5, **changes) -> Kind:
        self.time += PERIOD
        self._at += moves
        changes = {"truncated": False, **changes}
        self.advisor(
            replace(
                step("a", self.episodes, self._index),
                who="operator" if leads else "policy",
                proposal=np.full(3, action, np.float32),
                next_obs={"state": np.array([self._at], np.float32)},
                **changes,
            )
        )
        self._index += 1
        self._note()
        self.episodes += changes.get("terminated", False) or changes["truncated"]
        return self.kind

    def steps(self, count: int, **how) -> Kind:
        for _ in range(count):
            self.step(**how)
        return self.kind

    def judge(self, episode: int, verdict: Verdict) -> Kind:
        self.advisor.judge(Judgement("a", episode, verdict, 9 if verdict == "success" else -1, "anna", 0.0))
        self._note()
        return self.kind

    def episode(self, success: bool, helped: bool = False, length: int = 10) -> Kind:
        self.begin()
        self.steps(length - 1)
        self.step(leads=helped, success=success, terminated=success, truncated=not success)
        return self.kind


def test_it_is_left_alone_first():
    """Guards against help that comes before the policy has tried anything."""
    run = Run()
    run.begin()
    assert run.steps(EXPLORED - 1) is Kind.TRY
    assert run.steps(round(DWELL / PERIOD)) is Kind.EXPLORED and "help" in run.advisor.advice.text
    run.begin()
    assert run.steps(5) is Kind.TRY


def test_a_person_who_leads_for_long_is_told_to_let_go():
    """Guards against demonstrations instead of interventions; after the hand-over exploring counts anew."""
    run = Run()
    run.begin()
    assert run.steps(LED + 30, leads=True) is Kind.LET_GO
    assert run.steps(EXPLORED - 1) is Kind.TRY


@pytest.mark.parametrize(("motion", "kind"), [([0.0], Kind.STILL), ([0.6, -0.6], Kind.CIRCLING), ([0.3], Kind.TRY)])
def test_a_policy_that_is_stuck_needs_help(motion, kind):
    """Guards both ways of being stuck, and that slow progress is none."""
    run = Run()
    run.begin()
    for number in range(200):
        run.step(moves=motion[number % len(motion)])
        if number < EXPLORE - 1:
            assert run.kind is Kind.TRY
    assert (run.kind is kind) or (kind is Kind.TRY and run.kind is Kind.EXPLORED)


def test_help_in_every_success_is_too_much():
    """Guards the rule of a third: a policy that is always helped learns nothing of its own actions."""
    run = Run()
    for number in range(12):
        run.episode(success=True, helped=number % 3 != 0)
    assert run.kind is Kind.TOO_MUCH and "8 of 12" in run.advisor.advice.text
    assert run.shown["advice"] == run.advisor.advice.text and run.shown["on its own"] == "4 of 12"
    for _ in range(20):
        run.episode(success=True)
    assert run.kind is Kind.ALONE and "hands off" in run.advisor.advice.text


def test_a_policy_that_got_worse_is_helped_again():
    """Guards against "hands off" that outlives the success it came from."""
    run = Run()
    for _ in range(20):
        run.episode(success=True)
    assert run.kind is Kind.ALONE
    for _ in range(12):
        run.episode(success=False)
    assert run.kind is not Kind.ALONE


@pytest.mark.parametrize("ever", [False, True])
def test_a_long_time_without_a_success_of_its_own(ever):
    """Guards against hours of practice that lead nowhere, unnoticed; the first ever asks about the reward too."""
    run = Run()
    run.episode(success=ever)
    while run.advisor.course.since_alone()[0] < LONG:
        run.episode(success=False)
    run.episode(success=False)
    assert run.kind is (Kind.LOST if ever else Kind.NEVER)
    assert ("reward" in run.advisor.advice.text) != ever and "steps (2 min)" in run.advisor.advice.text
    run.time += DWELL
    assert run.episode(success=True) not in (Kind.LOST, Kind.NEVER)


def test_successes_that_are_denied_are_no_reason_to_keep_hands_off():
    """Guards against praise for a policy that pleases a judge which is wrong: the person has said so each time."""
    run = Run()
    for number in range(10):
        run.episode(success=True)
        run.judge(number, "failure")
    assert run.kind is not Kind.ALONE and run.shown["on its own"] == "0 of 10"
    assert run.advisor.course.since_alone()[0] == 100 and not run.advisor.course.ever_alone
    for number in range(10):
        run.judge(number, "success")  # taken back: as if never said
    run.time += DWELL
    assert run.step() is Kind.ALONE and run.advisor.course.since_alone()[0] == 1


def test_a_denied_success_uncovers_the_one_before_it():
    """Guards "time since a success of its own", which a false success must not reset, nor a helped one."""
    run = Run()
    for success, helped in ((True, False), (True, True), (True, False)):
        run.episode(success=success, helped=helped)
    course = run.advisor.course
    assert course.since_alone()[0] == 0
    run.judge(2, "failure")
    assert course.since_alone() == (20, pytest.approx(20 * PERIOD)) and (course.successes, course.alone) == (2, 1)
    run.judge(1, "failure")
    run.judge(1, "success")  # it was helped all the same
    assert course.since_alone()[0] == 20 and (course.successes, course.alone) == (2, 1)


def test_a_discarded_episode_counts_as_nothing_and_a_question_changes_nothing():
    """Guards the rates against episodes that a person took back, and against answers that are not there yet."""
    run = Run()
    for _ in range(3):
        run.episode(success=True)
    run.judge(2, "pending")
    assert run.shown["on its own"] == "3 of 3"
    run.judge(2, "discarded")
    assert run.shown["on its own"] == "2 of 2" and run.advisor.course.since_alone()[0] == 10
    run.judge(77, "success")
    assert run.shown["on its own"] == "2 of 2"


def test_a_verdict_on_the_running_episode_counts_when_it_ends():
    """Guards verdicts that arrive before the record they are about."""
    run = Run()
    run.begin()
    run.steps(5)
    run.judge(0, "success")
    assert run.shown["on its own"] == "0 of 0"
    run.step(truncated=True)
    assert run.shown["on its own"] == "1 of 1"
    assert run.episode(success=False) is not None and run.shown["on its own"] == "1 of 2"


def test_actions_at_their_limit_are_noticed():
    """Guards against values that run away; the gripper, which is all or nothing, does not count."""
    run = Run()
    for _ in range(20):
        run.begin()
        for _ in range(10):
            run.step(action=1.0)
        run.step(truncated=True)
    assert run.kind is Kind.SATURATED and "actions" in run.advisor.advice.text
    assert run.advisor.status()["actions at the limit"] == "90%"
    calm = Run()
    calm.begin()
    for _ in range(200):
        calm.time += PERIOD
        one = replace(step("a", 0, 0), proposal=np.array([0.1, 0.1, 1.0], np.float32), truncated=False)
        calm.advisor(replace(one, next_obs={"state": np.zeros(1, np.float32)}))
    assert calm.advisor.course.saturation == 0.0


def test_a_learner_that_is_away_or_slow_is_named():
    """Guards against help that nobody learns from: the person can wait, too."""
    run = Run()
    for _ in range(4):
        run.episode(success=True)
    run.learner = Learner(connected=False)
    assert run.episode(success=True, length=30) is Kind.AWAY
    run.learner = Learner.of_report(True, {"utd": 2.0, "utd_wanted": 4.0, "received": 7})
    run.time += DWELL
    assert run.episode(success=False, length=25) is Kind.SLOW and "2.0 of 4" in run.advisor.advice.text
    run.learner = Learner.of_report(True, {"utd": 3.1, "utd_wanted": 4.0})
    assert run.episode(success=False, length=25) is Kind.SLOW  # hysteresis
    run.learner = Learner.of_report(True, {})
    assert run.episode(success=False, length=25) is not Kind.SLOW


def test_a_latch_does_not_chatter_between_its_thresholds():
    """Guards the hysteresis that every rule rests on."""
    latch = Latch(0.5, 0.3)
    assert [latch(value) for value in (0.4, 0.5, 0.4, 0.3, 0.29, 0.4, None, 0.4, 0.6)] == [
        *(False, True, True, True, False),
        *(False, False, False, True),
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.3, 1.0]), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_advice_can_be_read(pieces):
    """Guards against advice that changes faster than it is read, whatever happens; an episode's end may change it."""
    run = Run()
    begun = []
    for moves, leads, success in pieces:
        run.begin()
        begun.append(run.time)
        run.steps(24, moves=moves, leads=leads)
        run.step(moves=moves, success=success, terminated=success, truncated=not success)
    for (before, _), (after, _) in pairwise(run.changes):
        assert after - before > DWELL - 1e-6 or any(before <= moment <= after for moment in begun)


def test_the_log_gets_a_line_when_the_course_changes():
    """Guards the actor's output: neither silence nor a line per episode, and nothing about a moment that is over."""
    run = Run()
    for number in range(60):
        run.episode(success=number >= 10, length=40)
    assert 1 <= len(run.lines) <= 5 and all("\n" not in line and "on its own" in line for line in run.lines)
    assert "hands off" in run.lines[-1] and not any("does not move" in line for line in run.lines)


def test_an_aborted_step_says_nothing_of_anybody():
    """Guards the figures: the robot failed, neither the policy nor the person did."""
    run = Run()
    run.begin()
    run.steps(5)
    run.step(leads=True, aborted=True, truncated=True)
    course = run.advisor.course
    assert course.steps == 5 and course.operator_share == 0.0 and not course.episodes[-1].helped


@pytest.mark.parametrize(("name", "arms"), [("pick_cube", 1), ("handover", 2)])
def test_places_are_those_of_every_arm_of_the_task(name, arms):
    """Guards the layout of observations that the motion is read from: 15 mm are one step, at the second arm too."""
    task = load_task(name)
    size = 23 * arms
    before, after = np.zeros(size), np.zeros(size)
    after[23 * (arms - 1)] = task.arms[-1].step_translation
    place = place_of(task)
    assert np.linalg.norm(place({"state": after}) - place({"state": before})) == pytest.approx(1.0)
    assert "advice" in advisor_for(task).status()
