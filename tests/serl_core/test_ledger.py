"""What becomes of recorded episodes, in whatever order a person says things about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from link_records import start, step
from person_parts import said

from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import hard_examples
from serl_core.recording.book import TERMS, Book, Kind, next_episode
from serl_core.recording.ledger import Ledger
from serl_core.teleop.console import Event
from serl_core.types import EpisodeStart, Judgement, Record, Step, Verdict

S, F, M, D, U, E = Event.SUCCESS, Event.FAILURE, Event.MISSED_SUCCESS, Event.DISCARD, Event.UNDO, Event.END
FALSE = Event.FALSE_SUCCESS


class Told:
    """A ledger, and what it said and ruled."""

    def __init__(self, kind: Kind = "demo") -> None:
        self.rulings: list[tuple[Judgement, str]] = []
        self.said: list[str] = []
        self.ledger = Ledger(TERMS[kind], lambda *ruling: self.rulings.append(ruling), "anna", self.said.append)
        self.number = 0

    def episode(self, *spoken: Event, steps: int = 3, **end: object) -> None:
        """One of so many steps; ``spoken`` is said during the last, which ends like ``end``."""
        self.ledger(start("demo", self.number, "demo"))
        for number in range(steps):
            last = number == steps - 1
            for event in spoken if last else ():
                self.ledger.hear(said(event), True)
            self.ledger(replace(step("demo", self.number, number), **{"truncated": False, **(end if last else {})}))
        self.number += 1

    def hear(self, event: Event) -> None:
        self.ledger.hear(said(event), False)

    @property
    def verdicts(self) -> list[Verdict]:
        return [entry.verdict for entry in self.ledger.entries]


SUCCEEDS = {"success": True, "terminated": True, "reward": 1.0}
FAILS = {"terminated": True}
LATE = {"truncated": True}


@pytest.mark.parametrize(
    ("kind", "unsaid", "step_of_success"),
    [("demo", "discarded", 2), ("success", "success", 0), ("failure", "failure", 2), ("play", "pending", 2)],
)
def test_every_kind_has_its_verdict_where_nobody_says_anything(
    kind: Kind, unsaid: Verdict, step_of_success: int
) -> None:
    """Guards learner and classifier against episodes that nobody judged, and a recorder of frames against questions."""
    told = Told(kind)
    told.episode(**LATE)
    told.episode(S, **SUCCEEDS)
    told.episode(F, **FAILS)
    told.episode(D, **LATE)
    told.episode(steps=1, aborted=True, **LATE)  # nothing was carried out
    assert told.verdicts == [unsaid, "success", "failure", "discarded", "discarded"]
    assert [ruling.step for ruling, _ in told.rulings if ruling.episode == 1] == [-1, step_of_success]


def test_what_a_judge_recorded_counts_until_a_person_says_otherwise() -> None:
    """Guards the judge's success, also a late one, and the person's word against it."""
    told = Told()
    told.episode(**SUCCEEDS, ago=1)
    told.episode(**FAILS)
    assert [(one.verdict, one.step, source) for one, source in told.rulings if source == "judge"] == [
        ("success", 1, "judge"), ("failure", -1, "judge")]  # fmt: skip
    told.hear(FALSE)
    told.hear(M)
    assert told.verdicts == ["failure", "success"]
    wrong = [(one.episode, one.wrong, one.wrong_step) for one, _ in told.rulings if one.wrong]
    assert wrong == [(0, "false_success", 1), (1, "missed_success", 2)]


def test_what_a_person_said_themselves_is_no_mistake_of_the_judge() -> None:
    """Guards the classifier's hard examples against a person's slip."""
    told = Told()
    told.episode(S, **SUCCEEDS)
    told.hear(FALSE)
    assert told.verdicts == ["failure"] and not any(one.wrong for one, _ in told.rulings)


def test_taking_back_goes_back_over_what_was_kept() -> None:
    """Guards the demonstrations: undo takes the last one that counts, once, and never the running one."""
    told = Told()
    for spoken, end in ((S, SUCCEEDS), (S, SUCCEEDS), (F, FAILS)):
        told.episode(spoken, **end)
    told.ledger(start("demo", 3, "demo"))
    told.ledger.hear(said(U), True)
    assert told.verdicts == ["success", "discarded", "failure", "discarded"]
    told.hear(U)
    told.hear(U)
    assert told.verdicts == ["discarded"] * 2 + ["failure", "discarded"]
    assert told.said[-1] == "there is no episode to take back" and not told.ledger.kept


def test_an_episode_that_waits_for_its_verdict_is_what_is_taken_back() -> None:
    """Guards a good demonstration against an undo that was meant for the one just ended."""
    told = Told()
    told.episode(S, **SUCCEEDS)
    told.episode(E, **LATE)
    told.hear(U)
    assert told.verdicts == ["success", "discarded"] and told.said[-1].startswith("taken back: episode 1")
    told.hear(U)
    assert told.verdicts == ["discarded"] * 2


def test_free_play_counts_whatever_it_came_to() -> None:
    """Guards free play that happens to solve the task."""
    told = Told("play")
    for spoken, end in ((S, SUCCEEDS), (F, FAILS), (D, LATE)):
        told.episode(spoken, **end)
    told.episode(**LATE)
    assert [entry.number for entry in told.ledger.kept] == [0, 1, 3]


def test_a_verdict_afterwards_is_of_the_last_episode() -> None:
    """Guards a second thought, and what is said before there is anything to say it of."""
    told = Told()
    for event in (S, F, D, U, FALSE):
        told.hear(event)
    assert not told.rulings and len(told.said) == 5
    told.episode(**LATE)
    told.hear(S)
    assert told.verdicts == ["success"] and told.rulings[-1][0].step == 2
    told.hear(D)
    assert told.verdicts == ["discarded"]


def test_a_success_without_a_step_is_none() -> None:
    """Guards against a label on a step that does not exist."""
    told = Told()
    told.episode(S, steps=1, aborted=True, **LATE)
    told.hear(S)
    assert told.verdicts == ["discarded"] and all(one.step == -1 for one, _ in told.rulings)


# ── with a store ──

MOVES = st.lists(
    st.one_of(
        st.sampled_from(["begin", "step", "step", "step", "aborted", "success", "failure", "late"]),
        st.sampled_from([S, F, M, D, U, E, FALSE, Event.HOLD, Event.BEGIN]),
    ),
    max_size=60,
)


def play(book: Book, moves: list[str | Event], number: int) -> list[Record]:
    """Records and things said in this order, as far as the order of records allows; returns the records."""
    told: list[Record] = []
    steps = -1  # of the running episode; −1: none runs
    for move in moves:
        if isinstance(move, Event):
            book.ledger.hear(said(move), steps >= 0)
        elif move == "begin":
            if steps < 0:
                told.append(start("demo", number, "demo"))
                steps, number = 0, number + 1
                book(told[-1])
        elif steps >= 0:
            ends = {
                "success": SUCCEEDS,
                "failure": FAILS,
                "late": LATE,
                "aborted": {"truncated": True, "aborted": True},
            }
            told.append(replace(step("demo", number - 1, steps), **{"truncated": False, **ends.get(move, {})}))
            steps = steps + 1 if move == "step" else -1
            book(told[-1])
    return told


@given(kind=st.sampled_from(list(TERMS)), moves=MOVES, more=MOVES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_any_order_nothing_is_lost_and_the_counts_are_those_of_the_labels(
    tmp_path_factory: pytest.TempPathFactory, kind: Kind, moves: list[str | Event], more: list[str | Event]
) -> None:
    """Guards the recorder against any order of events, and against being stopped anywhere and started again."""
    out = tmp_path_factory.mktemp("fuzz")
    told: list[Record] = []
    book = None
    for part in (moves, more):
        with EpisodeStore(out) as store:
            book = Book(store, kind, "demo", "anna", lambda text: None)
            assert book.first_episode == len({record.episode for record in told})
            told += play(book, part, book.first_episode)
    assert book is not None
    stored = list(EpisodeStore(out).records(as_recorded=True))
    key = [(type(record).__name__, record.episode, getattr(record, "step", -1)) for record in stored]
    assert key == [(type(record).__name__, record.episode, getattr(record, "step", -1)) for record in told]
    labels = EpisodeStore(out).labels.newest()
    assert {entry.number: entry.verdict for entry in book.ledger.entries} == {
        episode: label.verdict for (_, episode), label in labels.items()}  # fmt: skip
    assert len(labels) == sum(isinstance(record, EpisodeStart) for record in told)
    steps = {(r.episode, r.step) for r in told if isinstance(r, Step) and not r.aborted}
    assert all((label.episode, label.step) in steps for label in labels.values() if label.step >= 0)
    assert all((one.episode, one.step) in steps for one in hard_examples(labels))
    finished = {r.episode for r in told if isinstance(r, Step) and (r.terminated or r.truncated)}
    assert {entry.number for entry in book.ledger.kept} <= finished


def test_an_episode_that_a_crash_left_behind_is_used_by_nobody(tmp_path: Path) -> None:
    """Guards demonstrations against half of one, and the half against being gone."""
    with EpisodeStore(tmp_path) as store:
        book = Book(store, "demo", "demo", "anna", lambda text: None)
        book(start("demo", 0, "demo"))
        book(step("demo", 0, 0))
    store = EpisodeStore(tmp_path)
    assert [record for record in store.records() if isinstance(record, Step)] == []
    assert len(list(store.records(as_recorded=True))) == 2
    with store:
        again = Book(store, "demo", "demo", "anna", lambda text: None)
        again.ledger.hear(said(S), False)
    assert (again.first_episode, again.kept, again.ledger.entries[0].steps) == (1, 0, 1)


def test_demonstrations_of_the_script_count_without_labels(tmp_path: Path) -> None:
    """Guards a person who adds theirs to a folder that the scripted operator began."""
    with EpisodeStore(tmp_path) as store:
        for number, end in enumerate((SUCCEEDS, LATE)):
            store.append(start("demo", number, "demo"))
            store.append(replace(step("demo", number, 0), **end))
        store.append(start("other", 9))
        book = Book(store, "demo", "demo", "anna", lambda text: None)
        assert (book.kept, book.first_episode) == (1, 2)
        book.ledger.hear(said(U), False)
    assert book.kept == 0 and EpisodeStore(tmp_path).labels.newest()["demo", 0].verdict == "discarded"
    assert next_episode([]) == 0


@pytest.mark.parametrize("event", [S, F, M, D])
def test_what_is_said_before_the_first_push_is_not_of_the_episode_before(event: Event) -> None:
    """Guards a good demonstration against a word about a scene that turned out bad after BEGIN."""
    told = Told()
    told.episode(S, **SUCCEEDS)
    told.hear(Event.BEGIN)
    told.hear(event)
    assert told.verdicts == ["success"] and "does not run yet" in told.said[-1]
    told.episode(F, **FAILS)
    told.hear(D)
    assert told.verdicts == ["success", "discarded"]


def test_what_was_taken_back_stays_so() -> None:
    """Guards against a success said a moment too late, of an episode that was just taken back."""
    told = Told()
    told.episode(S, **SUCCEEDS)
    told.hear(U)
    told.hear(S)
    assert told.verdicts == ["discarded"] and "was taken back" in told.said[-1]
