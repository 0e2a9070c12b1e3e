"""Where the host keeps the frames they are collected a call ahead: what changed meanwhile must not be learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serl_core.data.labels import Label, Verdict
from serl_core.data.replay import Replay, Where, as_frames
from serl_core.data.routing import HilSerl
from serl_core.data.sampling import Sampling
from serl_core.engine import Engine
from serl_core.nets.sight import as_stored
from serl_core.types import EpisodeStart, Source, Step, Who

BOTH = pytest.mark.parametrize("where", ["device", "host"])
STEPS = 5


class Telling:
    """An agent that says what it was given."""

    def update(self, state: Any, batches: Any, see: Any) -> tuple[Any, dict[str, Any]]:
        return state, {"reward": batches["reward"], "number": batches["obs"]["front"][..., 0, 0]}


def frame(number: int) -> dict[str, np.ndarray]:
    return {"state": np.full(1, number, np.float32), "front": np.full((1, 1), number, np.float32)}


def begin(store: Replay, episode: int, actor: str = "a", source: Source = "online") -> None:
    store.insert(EpisodeStart(actor, episode, frame(100 * episode), source))


def step(store: Replay, episode: int, number: int, who: Who = "policy", actor: str = "a") -> None:
    """The last of an episode is recorded as a success."""
    ends, action, seen = number == STEPS - 1, np.zeros(2, np.float32), frame(100 * episode + number + 1)
    store.insert(Step(actor, episode, number, action, action, np.zeros(7), False, seen, float(ends), 0.0, ends, False,
                      ends, who, -1 if who == "policy" else 0, 0, 0.0))  # fmt: skip


def succeed(store: Replay, episode: int, actor: str = "a", source: Source = "online") -> None:
    begin(store, episode, actor, source)
    for number in range(STEPS):
        step(store, episode, number, actor=actor)


def say(store: Replay, verdict: Verdict, step: int = -1) -> None:
    store.relabel(Label("a", 0, verdict, "person", "anna", 1.0, step=step))


class Calls:
    """An engine on a replay; each call gives the rewards and the frames' numbers of its batch."""

    def __init__(self, store: Replay, **sampling: float) -> None:
        self._engine = Engine(Telling(), store, Sampling(0.9, 64, **sampling), 1, as_stored())  # type: ignore[arg-type]
        self._count = 0

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        _, told = self._engine.update({}, self._count)
        self._count += 1
        return np.array(told["reward"]), np.array(told["number"])


def replay(where: Where, capacity: int = 40, **routing: float) -> Replay:
    return Replay(capacity, frame(0), 2, as_frames, where=where, routing=HilSerl(**routing))  # type: ignore[arg-type]


@BOTH
@pytest.mark.parametrize("n_step", [1, 3])
def test_a_verdict_between_two_calls_is_in_the_next_batch(where: Where, n_step: int) -> None:
    """Bug: the batch that was collected ahead goes on rewarding a success that a person has denied."""
    store = replay(where)
    succeed(store, 0)
    call = Calls(store, n_step=n_step)
    assert call()[0].max() == 1
    say(store, "failure")
    assert call()[0].max() == 0
    say(store, "success", step=2)
    rewards, numbers = call()
    assert rewards.max() == 1 and numbers.max() == 2


@BOTH
def test_what_a_question_withholds_is_not_in_the_next_batch(where: Where) -> None:
    """Bug: the end of an episode is learnt although nobody has said yet what it was."""
    store = replay(where)
    succeed(store, 0)
    call = Calls(store)
    assert call()[1].max() == 4
    say(store, "pending")
    assert call()[1].max() == 3


@BOTH
def test_a_takeover_between_two_calls_is_in_the_next_batch(where: Where) -> None:
    """Bug: the step that a person had to end is learnt without its penalty once more."""
    store = replay(where, penalty=0.5)
    begin(store, 0)
    step(store, 0, 0)
    step(store, 0, 1)
    call = Calls(store)
    assert call()[0].min() == 0
    step(store, 0, 2, "operator")
    assert call()[0].min() == -0.5


@BOTH
def test_what_has_become_old_is_not_in_the_next_batch(where: Where) -> None:
    """Bug: a demonstration is copied although it has just left the demonstrations."""
    store = replay(where, demo_age=2)
    succeed(store, 0, "d", "demo")
    call = Calls(store, demo_ratio=1.0)
    assert call()[1].max() == 4
    succeed(store, 1)
    assert store.size("demos") == 0 and call()[1].min() >= 100


@BOTH
def test_what_was_overwritten_is_not_in_the_next_batch(where: Where) -> None:
    """Bug: transitions are learnt that replay holds no longer, and which no verdict reaches."""
    store = replay(where, capacity=2 * (STEPS + 1))
    succeed(store, 0)
    call = Calls(store)
    assert call()[1].max() == 4
    for episode in (1, 2):
        succeed(store, episode)
    assert call()[1].min() >= 100


# ── the price ───────────────────────────────────────────────────────────────────────────────────


def counted(store: Replay, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by two with each batch whose frames are collected: "obs" and "next_obs"."""
    fetched: list[Any] = []

    def fetch(frames: Any, fetch: Any = store.fetch) -> Any:
        fetched.append(frames)
        return fetch(frames)

    monkeypatch.setattr(store, "fetch", fetch)
    return fetched


@pytest.mark.parametrize("asked", [False, True])
def test_new_transitions_leave_what_was_collected(monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    """Bug: every call waits for its frames, because something new has always arrived; also where a question is open."""
    store = replay("host", capacity=100)
    succeed(store, 1, "b")
    begin(store, 0)
    step(store, 0, 0)
    if asked:
        say(store, "pending")
    call, fetched = Calls(store), counted(store, monkeypatch)
    for number in range(1, STEPS):
        call()
        step(store, 0, number)
    assert call()[1].max() < 200
    assert len(fetched) == 2 * (STEPS + 1)


def test_a_full_ring_leaves_what_was_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: each frame overwrites another in a full ring, and every call waits for its frames from then on."""
    store = replay("host", capacity=30)
    succeed(store, 0, "d", "demo")
    for episode in range(6):
        succeed(store, episode)
    call, fetched = Calls(store, demo_ratio=1.0), counted(store, monkeypatch)
    for episode in range(6, 16):
        call()
        succeed(store, episode)
    assert store.size("online") < 30 and len(fetched) == 2 * (10 + 1)


def test_only_a_verdict_that_changes_something_costs_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: every verdict is paid for, also those that confirm what was recorded, as nearly all do; so is a new view."""
    store = replay("host")
    succeed(store, 0)
    call, fetched = Calls(store), counted(store, monkeypatch)
    call()
    say(store, "success", step=4)
    store.refresh(EpisodeStart("a", 0, frame(0)), as_frames)
    call()
    assert len(fetched) == 2 * 3
    say(store, "failure")
    call()
    call()
    assert len(fetched) == 2 * 6
