"""Records, a replay of them, and what it gives back, for the tests of replay and of sampling."""

from __future__ import annotations

from typing import Any

import numpy as np

from serl_core.data.replay import Replay
from serl_core.data.sampling import Sampling
from serl_core.types import EpisodeStart, Source, Step, Who

DISCOUNT = 0.9
EXAMPLE = {"state": np.zeros(3, np.float32)}
ROWS = 128  # transitions that are gathered at a time: one shape, compiled once


def frame(actor: int, episode: int, step: int) -> dict[str, np.ndarray]:
    """An observation that says which one it is."""
    return {"state": np.array([actor, episode, step], np.float32)}


def start(actor: int, episode: int, source: Source = "online") -> EpisodeStart:
    return EpisodeStart(str(actor), episode, frame(actor, episode, 0), source)


def step(
    actor: int,
    episode: int,
    number: int,
    who: Who = "policy",
    terminated: bool = False,
    truncated: bool = False,
    reward: float = 0.0,
    penalty: float = 0.0,
) -> Step:
    action = np.array([(number + 1) / 1000, (actor + 1) / 1000], np.float32)
    return Step(
        actor=str(actor),
        episode=episode,
        step=number,
        action=action,
        proposal=np.zeros(2, np.float32),
        target=np.zeros(7),
        bent=False,
        next_obs=frame(actor, episode, number + 1),
        reward=reward,
        grasp_penalty=penalty,
        terminated=terminated,
        truncated=truncated,
        success=terminated,
        who=who,
        takeover=0 if who == "operator" else -1,
        policy_version=0,
        time=0.0,
    )


def replay(capacity: int = 100) -> Replay:
    return Replay(capacity, EXAMPLE, 2, dict)


def gather(store: Replay, slots: Any = None, **sampling: int) -> dict[str, Any]:
    """The transitions that begin at ``slots``, of all online ones by default."""
    wanted = store.slots("online") if slots is None else np.asarray(slots)
    if not wanted.size:
        return {"obs": {"state": np.zeros((0, 3))}, "next_obs": {"state": np.zeros((0, 3))}, "action": np.zeros((0, 2))}
    got = store.gather(np.resize(wanted, ROWS), Sampling(DISCOUNT, **sampling))
    return {name: _first(value, wanted.size) for name, value in got.items()}


def _first(value: Any, count: int) -> Any:
    return {name: x[:count] for name, x in value.items()} if isinstance(value, dict) else value[:count]


def fill(
    store: Replay, actor: int, episode: int, who: str, source: Source = "online", terminated: bool = False
) -> None:
    """One episode; ``who`` has a letter per step: p policy, o operator, n nobody. Reward = 1 at the last step."""
    store.insert(start(actor, episode, source))
    for number, letter in enumerate(who):
        last = number == len(who) - 1
        hand: Who = {"p": "policy", "o": "operator", "n": "nobody"}[letter]
        ends = {"terminated": last and terminated, "truncated": last and not terminated}
        store.insert(step(actor, episode, number, hand, reward=float(last), **ends))


def assert_pairs(store: Replay) -> None:
    """Every transition of both partitions joins a frame with the one after it, and their action."""
    for partition in ("online", "demos"):
        slots = store.slots(partition)
        assert slots.size == store.size(partition) == np.unique(slots).size
        got = gather(store, slots)
        now, then = got["obs"]["state"], got["next_obs"]["state"]
        np.testing.assert_array_equal(now[:, :2], then[:, :2])
        np.testing.assert_array_equal(now[:, 2] + 1, then[:, 2])
        np.testing.assert_allclose(got["action"], (np.stack([now[:, 2], now[:, 0]], 1) + 1) / 1000, rtol=1e-5)
