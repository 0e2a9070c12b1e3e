"""Replay: transitions rebuilt from records, each observation kept once.

Frames live in a ring of slots. A transition is the slot of its observation plus ``next``, the slot
of the observation it led to; the last frame of an episode has a slot and no transition. Records of
several actors may interleave: neighbours are found by ``next``, never by adjacency. The partitions
"online" and "demos" are index sets over the one ring; an operator's steps are in both.

Verdicts (`serl_core.data.labels`) change what transitions come to, never which were stored: those that
follow a success, and the last one of an episode that awaits its verdict, are withheld from sampling and
end the windows before them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt

from serl_core.data.index_set import NONE, IndexSet, Slots
from serl_core.data.invariants import Invariants, Running
from serl_core.data.labels import Label, Outcome, judged
from serl_core.data.memory import available_memory, check_memory, gigabytes
from serl_core.data.scratch import Scratch
from serl_core.types import EpisodeStart, Obs, Record, Step

Partition = Literal["online", "demos"]
Batches = dict[str, Any]
Floats = npt.NDArray[np.float32]
_OVERHEAD = 75  # bytes per frame beside observation and action: rewards, flags, links and index sets


@final
class Replay:
    """Frames and transitions of the newest episodes, and all demonstrations.

    ``capacity`` counts frames. ``example_obs`` is one raw observation; ``encode`` maps a raw
    observation to the one that is stored (features instead of frames). With ``views`` > 1 it gives so many
    versions of each frame along a leading axis, from which every sample draws one, for each camera and for
    obs and next_obs by itself. ``n_step`` > 1 sums rewards over windows that end with the episode and where
    control changes hands, and bootstrap there.

    Demonstrations and interventions stay when the ring comes round, until they fill half of it.
    Raises `StoreError` if the memory that all of it will take is not there (``available``, bytes).
    """

    def __init__(
        self,
        capacity: int,
        example_obs: Obs,
        action_dim: int,
        discount: float,
        n_step: int = 1,
        encode: Callable[[Obs], Mapping[str, npt.NDArray[Any]]] | None = None,
        views: int = 1,
        available: Callable[[], int] = available_memory,
    ) -> None:
        if capacity < 2 or n_step < 1 or not 0 <= discount <= 1:
            raise ValueError(f"replay: capacity {capacity} ≥ 2, n_step {n_step} ≥ 1, 0 ≤ discount {discount} ≤ 1")
        self._capacity, self._discount, self._n_step = capacity, discount, n_step
        self._invariants = Invariants(example_obs, action_dim)
        self._encode = encode or dict
        self._views = views
        stored = self._encode(example_obs)
        frame = sum(x.nbytes for x in stored.values())
        self.memory_bytes = capacity * (frame + 4 * action_dim + _OVERHEAD)  # claimed little by little, all in the end
        self._cameras = len(example_obs.keys() - {"state"})
        check_memory(self.memory_bytes, available(), f"replay of {self._size_text()}")
        self._obs = {name: np.zeros((capacity, *x.shape), x.dtype) for name, x in stored.items()}
        self._scratch = Scratch()
        self._action = np.zeros((capacity, action_dim), np.float32)
        self._reward = np.zeros(capacity, np.float32)
        self._penalty = np.zeros(capacity, np.float32)
        self._terminated = np.zeros(capacity, np.bool_)
        self._operator = np.zeros(capacity, np.bool_)
        self._recorded_reward = np.zeros(capacity, np.float32)
        self._recorded_terminated = np.zeros(capacity, np.bool_)
        self._recorded_success = np.zeros(capacity, np.bool_)
        self._owner = np.full(capacity, NONE, np.int32)  # number of the episode, counted over all actors
        self._step = np.zeros(capacity, np.int32)
        self._online = np.zeros(capacity, np.bool_)
        self._withheld = np.zeros(capacity, np.bool_)
        self._next = np.full(capacity, NONE, np.int64)  # of a transition's slot: the slot it led to
        self._previous = np.full(capacity, NONE, np.int64)  # of a frame's slot: the transition that led to it
        self._kept = np.zeros(capacity, np.bool_)  # frames of demonstrations and interventions
        self._kept_count = 0
        self._head = 0
        self._sets: dict[Partition, IndexSet] = {"online": IndexSet(capacity), "demos": IndexSet(capacity)}
        self._episodes: dict[str, Running] = {}
        self._owners: dict[tuple[str, int], int] = {}
        self._labels: dict[tuple[str, int], Label] = {}

    def describe(self) -> str:
        """What memory it will take, for people."""
        return f"replay needs {gigabytes(self.memory_bytes)} for {self._size_text()}"

    def _size_text(self) -> str:
        return f"{self._capacity} frames (one per transition, one more per episode), {self._cameras} cameras"

    def size(self, partition: Partition) -> int:
        """How many transitions a partition holds now."""
        return len(self._sets[partition])

    def insert(self, record: Record) -> bool:
        """Take the next record of an actor; True when this stored a transition of an online episode.

        Raises ValueError naming the fault; the replay is then as it was before.
        """
        if isinstance(record, EpisodeStart):
            self._invariants.check_start(record, self._episodes.get(record.actor))
            slot = self._store_frame(record.obs)
            self._episodes[record.actor] = Running(record.episode, record.source, slot)
            self._owners[record.actor, record.episode] = len(self._owners)
            return False
        episode = self._invariants.check_step(record, self._episodes.get(record.actor))
        if record.aborted:  # its action was not executed: nothing follows from it
            episode.done = True
            return False
        return self._insert_step(record, episode)

    def sample(self, rng: np.random.Generator, batch: int, utd: int, demo_ratio: float = 0.5) -> Batches:
        """``utd`` minibatches (leading dimensions (utd, batch)), a share ``demo_ratio`` of each from "demos".

        An empty partition is replaced by the other; entries as `serl_core.agents.sac` lists them.
        Raises ValueError when both are empty.
        """
        return self.gather(self._draw(rng, batch, utd, demo_ratio), rng)

    def sample_chunks(
        self, rng: np.random.Generator, batch: int, utd: int, length: int, demo_ratio: float = 0.5
    ) -> Batches:
        """Like `sample`, of windows of ``length`` consecutive actions (see `gather_chunks`)."""
        return self.gather_chunks(self._draw(rng, batch, utd, demo_ratio), length, rng)

    def _draw(self, rng: np.random.Generator, batch: int, utd: int, demo_ratio: float) -> Slots:
        demos = round(batch * demo_ratio)
        if not len(self._sets["online"]) and not len(self._sets["demos"]):
            raise ValueError("replay is empty: insert demonstrations or online episodes before sampling")
        if not len(self._sets["demos"]):
            demos = 0
        elif not len(self._sets["online"]):
            demos = batch
        parts = [(self._sets["demos"], demos), (self._sets["online"], batch - demos)]
        return np.concatenate([part.sample(rng, (utd, count)) for part, count in parts if count], axis=1)

    def gather(self, slots: Slots, rng: np.random.Generator | None = None) -> Batches:
        """The transitions (or n-step windows) that begin at ``slots`` (any shape), as new arrays.

        ``rng`` draws the views of their frames; without it each is the first.
        """
        if self._n_step == 1:
            reward, penalty = self._reward[slots], self._penalty[slots]
            discount = np.where(self._terminated[slots], np.float32(0), np.float32(self._discount))
            last = self._next[slots]
        else:
            reward, penalty, discount, last, _ = self._windows(slots, self._n_step)
        return {
            "obs": self._frames(slots, rng),
            "next_obs": self._frames(last, rng),
            "action": self._action.take(slots, axis=0),
            "reward": reward,
            "grasp_penalty": penalty,
            "human": self._operator[slots],
            "discount": discount,
        }

    def gather_chunks(self, slots: Slots, length: int, rng: np.random.Generator | None = None) -> Batches:
        """The windows of up to ``length`` steps that begin at ``slots`` (any shape), as new arrays.

        Like `gather`, but "action" is (…, length, A), and "valid" (…, length) says which of its rows were done
        within the window: it ends with the episode and where control changes hands. Further rows repeat the last.
        """
        reward, penalty, discount, last, visited = self._windows(slots, length)
        valid = np.ones(visited.shape, np.bool_)
        valid[..., 1:] = visited[..., 1:] != visited[..., :-1]
        return {
            "obs": self._frames(slots, rng),
            "next_obs": self._frames(last, rng),
            "action": self._action.take(visited, axis=0),
            "valid": valid,
            "reward": reward,
            "grasp_penalty": penalty,
            "human": self._operator[slots],
            "discount": discount,
        }

    def _frames(self, slots: Slots, rng: np.random.Generator | None) -> dict[str, npt.NDArray[Any]]:
        return {name: self._scratch.take(*self._seen(name, slots, rng)) for name in self._obs}

    def _seen(self, name: str, slots: Slots, rng: np.random.Generator | None) -> tuple[npt.NDArray[Any], Slots]:
        """The rows, and which of them, that hold one view of each frame."""
        values, views = self._obs[name], self._views
        if views == 1 or name == "state":
            return values, slots
        first = slots * views
        drawn = first if rng is None else first + rng.integers(views, size=slots.shape)
        return values.reshape(-1, *values.shape[2:]), drawn

    def slots(self, partition: Partition) -> Slots:
        """The slots of all transitions of a partition, for `gather`, in no order."""
        return self._sets[partition].items()

    def state_statistics(self, partition: Partition = "demos") -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Mean and standard deviation (n,) of "state" over a partition. Raises ValueError when it is empty."""
        slots = self._sets[partition].items()
        if not slots.size:
            raise ValueError(f'replay: no transition in "{partition}" to take statistics of')
        states = self._obs["state"][slots].astype(np.float64)
        return states.mean(axis=0).astype(np.float32), states.std(axis=0).astype(np.float32)

    def _windows(self, slots: Slots, length: int) -> tuple[Floats, Floats, Floats, Slots, Slots]:
        """Discounted reward and penalty sums, bootstrap discounts, last frames, and the steps (…, length)."""
        current, last = slots.copy(), self._next[slots]
        visited = [current]
        reward, penalty = self._reward[slots], self._penalty[slots]
        power = np.full(slots.shape, self._discount, np.float32)
        for _ in range(length - 1):
            same_hands = self._operator[last] == self._operator[current]
            going = ~self._terminated[current] & (self._next[last] != NONE) & ~self._withheld[last] & same_hands
            reward = reward + np.where(going, power * self._reward[last], np.float32(0))
            penalty = penalty + np.where(going, power * self._penalty[last], np.float32(0))
            power = np.where(going, power * np.float32(self._discount), power)
            current = np.where(going, last, current)
            last = self._next[current]
            visited.append(current)
        discount = np.where(self._terminated[current], np.float32(0), power)
        return reward, penalty, discount, last, np.stack(visited, axis=-1)

    def _insert_step(self, step: Step, episode: Running) -> bool:
        slot = self._store_frame(step.next_obs)
        before = episode.slot
        episode.slot, episode.step = slot, episode.step + 1
        episode.done = step.terminated or step.truncated
        if before == NONE:  # the frame it began from was overwritten while the actor paused
            return False
        operator = step.who == "operator" or episode.source == "demo"
        self._action[before], self._penalty[before] = step.action, step.grasp_penalty
        self._reward[before] = self._recorded_reward[before] = step.reward
        self._terminated[before] = self._recorded_terminated[before] = step.terminated
        self._recorded_success[before] = step.success
        self._operator[before], self._online[before] = operator, episode.source == "online"
        self._owner[before], self._step[before] = self._owners[step.actor, step.episode], step.step
        self._next[before], self._previous[slot] = slot, before
        if operator:
            self._keep(before)
            self._keep(slot)
        label = self._labels.get((step.actor, step.episode))
        if label is None:
            self._offer(before)
        else:
            self.relabel(label)
        return episode.source == "online"

    # ── verdicts ─────────────────────────────────────────────────────────────────────────────────

    def relabel(self, label: Label) -> None:
        """Follow a verdict, now and for what its episode still brings; a later one takes its place.

        A demonstration that failed is withheld as a whole. No transition counts as new by this.
        """
        self._labels[label.actor, label.episode] = label
        owner = self._owners.get((label.actor, label.episode))
        slots = np.flatnonzero((self._owner == owner) & (self._next != NONE)) if owner is not None else []
        newest = max((self._step[slot] for slot in slots), default=0)
        for slot in slots:
            self._judge(int(slot), label, newest)

    def _judge(self, slot: int, label: Label, newest: int) -> None:
        number, success = int(self._step[slot]), bool(self._recorded_success[slot])
        terminated = bool(self._recorded_terminated[slot])
        outcome = judged(label, number, Outcome(float(self._recorded_reward[slot]), terminated, False, success))
        waits = label.verdict == "pending" and number == newest
        rejected = label.verdict == "failure" and not self._online[slot]
        self._withheld[slot] = outcome is None or waits or rejected
        if outcome is not None:
            self._reward[slot], self._terminated[slot] = outcome.reward, outcome.terminated
        self._offer(slot)

    def _offer(self, slot: int) -> None:
        """Put a transition into the partitions it belongs to, or take it out if it is withheld."""
        for partition, belongs in (
            (self._sets["demos"], self._operator[slot]),
            (self._sets["online"], self._online[slot]),
        ):
            if self._withheld[slot]:
                partition.discard(slot)
            elif belongs and slot not in partition:
                partition.add(slot)

    # ── the ring ─────────────────────────────────────────────────────────────────────────────────

    def _keep(self, slot: int) -> None:
        self._kept_count += int(not self._kept[slot])
        self._kept[slot] = True

    def _store_frame(self, obs: Obs) -> int:
        stored = self._encode(obs)
        while self._kept[self._head] and self._kept_count <= self._capacity // 2:
            self._head = (self._head + 1) % self._capacity
        slot = self._head
        self._evict(slot)
        for name, value in stored.items():
            self._obs[name][slot] = value
        self._head = (slot + 1) % self._capacity
        return slot

    def _evict(self, slot: int) -> None:
        """Forget a frame and both transitions that need it."""
        self._forget_transition(slot)
        if self._previous[slot] != NONE:
            self._forget_transition(int(self._previous[slot]))
        self._kept_count -= int(self._kept[slot])
        self._kept[slot] = False
        for episode in self._episodes.values():
            if episode.slot == slot:
                episode.slot = NONE

    def _forget_transition(self, slot: int) -> None:
        for partition in self._sets.values():
            partition.discard(slot)
        if self._next[slot] != NONE:
            self._previous[self._next[slot]] = NONE
        self._next[slot] = NONE
        self._withheld[slot] = False
