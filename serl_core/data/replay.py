"""Replay: transitions rebuilt from records, each observation kept once.

Frames live in a ring of slots. A transition is the slot of its observation plus ``next``, the slot
of the observation it led to; the last frame of an episode has a slot and no transition. Records of
several actors may interleave: neighbours are found by ``next``, never by adjacency. The partitions
"online" and "demos" are index sets over the one ring; which of them a transition is in, and with which
reward, the method's routing says (`serl_core.data.routing`), by HIL-SERL's an operator's steps are in both.

Verdicts (`serl_core.data.labels`) change what transitions come to, never which were stored: those that
follow a success, and the last one of an episode that awaits its verdict, are withheld from sampling and
end the windows before them. A takeover changes what the steps before it come to in the same way: at once, when its
first step arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, final

import jax
import numpy as np
import numpy.typing as npt

from serl_core.data.host_frames import HostFrames
from serl_core.data.index_set import NONE, IndexSet, Slots
from serl_core.data.invariants import Invariants, Running
from serl_core.data.known import Ages, Known
from serl_core.data.labels import Label, judged
from serl_core.data.memory import available_memory, check_memory, gigabytes
from serl_core.data.revisions import Revisions
from serl_core.data.routing import HilSerl, Routed, Routing
from serl_core.data.sampling import OPERATOR, Batch, Frames, Sampling, assemble, gather
from serl_core.data.table import Mirror, Table, bits
from serl_core.types import EpisodeStart, Obs, Record, Step, Who, led_to_takeover

Partition = Literal["online", "demos"]
Where = Literal["device", "host"]
HANDS: tuple[Who, ...] = ("policy", "operator", "nobody")
_OVERHEAD = 107  # bytes per frame beside observation and action: rewards, flags, links and index sets, here and there


def as_frames(obs: Obs) -> dict[str, npt.NDArray[Any]]:
    """What to encode with where frames are kept as they are: each is its only view."""
    return {name: x if name == "state" else x[None] for name, x in obs.items()}


@final
class Replay:
    """Frames and transitions of the newest episodes, and all demonstrations.

    ``capacity`` counts frames. ``example_obs`` is one raw observation; ``encode`` maps a raw
    observation to the one that is stored (features instead of frames), with each camera's ``views`` versions of it
    along a leading axis. ``where`` the cameras' frames lie: on the device, or in this process's memory if they do not
    fit there; ``sharding`` says which device, or on which of them all. ``routing``: what the method makes of records.

    What is in "demos" stays when the ring comes round, until it fills half of it.
    Raises `StoreError` if the memory that all of it will take is not there (``available``, bytes).
    """

    def __init__(
        self,
        capacity: int,
        example_obs: Obs,
        action_dim: int,
        encode: Callable[[Obs], Mapping[str, npt.NDArray[Any]]],
        views: int = 1,
        where: Where = "device",
        sharding: jax.sharding.Sharding | None = None,
        routing: Routing | None = None,
        available: Callable[[], int] = available_memory,
    ) -> None:
        if capacity < 2:
            raise ValueError(f"replay: a capacity of {capacity} frames holds no transition")
        self._capacity = capacity
        self._invariants = Invariants(example_obs, action_dim)
        self._encode = encode
        self._routing = routing or HilSerl()
        self._views = views
        self.on_host = where == "host"
        stored = encode(example_obs)
        self._cameras = tuple(sorted(stored.keys() & example_obs.keys() - {"state"}))
        frame = sum(x.nbytes for x in stored.values())
        self.memory_bytes = capacity * (frame + 2 * 4 * action_dim + _OVERHEAD)
        check_memory(self.memory_bytes, available(), f"replay of {self._size_text()}")
        self._facts = {
            "action": np.zeros((capacity, action_dim), np.float32),
            "reward": np.zeros(capacity, np.float32),
            "penalty": np.zeros(capacity, np.float32),
            "terminated": np.zeros(capacity, np.bool_),
            "hands": np.zeros(capacity, np.int8),  # whose: an index into HANDS
            "withheld": np.zeros(capacity, np.bool_),
            "next": np.full(capacity, NONE, np.int32),  # of a transition's slot: the slot it led to
            "previous": np.full(capacity, NONE, np.int32),  # of a frame's slot: the transition that led to it
        }
        self._known = Known(capacity)
        self._ages = Ages(self._routing.demo_age)
        self._arrived = 0  # online transitions
        self.revisions = Revisions(capacity)
        self._kept = np.zeros(capacity, np.bool_)  # frames of demonstrations and interventions
        self._kept_count = 0
        self._head = 0
        self._sets: dict[Partition, IndexSet] = {"online": IndexSet(capacity), "demos": IndexSet(capacity)}
        self._episodes: dict[str, Running] = {}
        self._owners: dict[tuple[str, int], int] = {}
        self._names: list[tuple[str, int]] = []  # actor and episode of each owner
        self._labels: dict[tuple[str, int], Label] = {}
        at_home = self._cameras if self.on_host else ()
        self._dtypes = {name: stored[name].dtype for name in at_home}
        self._host = HostFrames(capacity, {name: bits(stored[name]) for name in at_home})
        away = {name: x for name, x in stored.items() if name not in at_home}
        self._mirror = Mirror(capacity, away, self._facts, {**self._sets}, sharding)

    def describe(self) -> str:
        """What memory it will take, for people."""
        return f"replay needs {gigabytes(self.memory_bytes)} for {self._size_text()}"

    def _size_text(self) -> str:
        return f"{self._capacity} frames (one per transition, one more per episode), {len(self._cameras)} cameras"

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
            self._owners[record.actor, record.episode] = len(self._names)
            self._names.append((record.actor, record.episode))
            return False
        episode = self._invariants.check_step(record, self._episodes.get(record.actor))
        if record.aborted:  # its action was not executed: nothing follows from it
            episode.done = True
            return False
        return self._insert_step(record, episode)

    def table(self) -> Table:
        """Everything as it is now, for one compiled call; see `Mirror.table`. Raises ValueError if it is empty."""
        if not any(map(len, self._sets.values())):
            raise ValueError("replay is empty: insert demonstrations or online episodes before sampling")
        return self._mirror.table()

    def sampling(self, spec: Sampling) -> Sampling:
        """``spec``, with the cameras and the views of this replay."""
        return replace(spec, cameras=self._cameras, views=self._views)

    def fetch(self, frames: Frames) -> Mapping[str, npt.NDArray[Any]]:
        """Those of the cameras' frames that the host keeps, as new arrays."""
        return {name: x.view(self._dtypes[name]) for name, x in self._host.fetch(frames).items()}

    def gather(self, slots: npt.ArrayLike, spec: Sampling, seed: int = 0) -> Batch:
        """The transitions, windows or chunks that begin at ``slots`` (any shape), as arrays for the host."""
        key = jax.random.PRNGKey(seed)
        chosen, held = gather(self._mirror.table(), jax.numpy.asarray(slots), key, self.sampling(spec))
        frames = {when: {**held[when], **self.fetch(frames)} for when, frames in chosen.frames.items()}
        return jax.tree.map(np.array, assemble(chosen, frames))

    def slots(self, partition: Partition) -> Slots:
        """The slots of all transitions of a partition, for `gather`, in no order."""
        return self._sets[partition].items()

    def state_statistics(self, partition: Partition = "demos") -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Mean and standard deviation (n,) of "state" over a partition. Raises ValueError when it is empty."""
        slots = self.slots(partition)
        if not slots.size:
            raise ValueError(f'replay: no transition in "{partition}" to take statistics of')
        states = np.array(self._mirror.table().frames["state"][slots], np.float64)
        return states.mean(axis=0).astype(np.float32), states.std(axis=0).astype(np.float32)

    def _insert_step(self, step: Step, episode: Running) -> bool:
        slot = self._store_frame(step.next_obs)
        before, last = episode.slot, episode.last
        episode.slot, episode.step, episode.last = slot, episode.step + 1, step
        episode.done = step.terminated or step.truncated
        if before == NONE:  # the frame it began from was overwritten while the actor paused
            return False
        facts, online = self._facts, episode.source == "online"
        facts["action"][before], facts["penalty"][before] = step.action, step.grasp_penalty
        facts["hands"][before] = HANDS.index(step.who) if online else OPERATOR
        facts["withheld"][before] = True  # until it is settled below: no plan holds it, so what it comes to is news
        self._link(before, slot)
        self._known.remember(before, step, episode.source, self._owners[step.actor, step.episode])
        self._arrived += online
        self._ages.add(self._arrived, before, self._known)
        label = self._labels.get((step.actor, step.episode))
        if label is None:
            self._settle(before, None)
        else:
            self.relabel(label)
        self._look_back(before, last, step)
        for old in self._ages.expired(self._arrived, self._known):
            if facts["next"][old] != NONE:
                self._expire(old)
        return online

    def refresh(self, record: Record, encode: Callable[[Obs], Mapping[str, npt.NDArray[Any]]]) -> bool:
        """Keep what ``encode`` makes of a record's frame in the place of what is kept of it; False if it is gone.

        The record must have been inserted before. Nothing but the cameras' frames changes.
        """
        slot = self._slot_of(record)
        if slot == NONE:
            return False
        stored = encode(record.obs if isinstance(record, EpisodeStart) else record.next_obs)
        self._put(slot, stored)
        return True

    # ── what became known later ──────────────────────────────────────────────────────────────────

    def _look_back(self, slot: int, last: Step | None, step: Step) -> None:
        """The transitions before the one at ``slot`` hear that a takeover began with it, or ended before it."""
        label = self._labels.get((step.actor, step.episode))
        before, known = int(self._facts["previous"][slot]), self._known
        if last is not None and step.who == "policy" != last.who and before != NONE:
            known.released[before] = True
            self._settle(before, label)
        if not known.online[slot] or not led_to_takeover(last, step):
            return
        for steps in range(1, self._routing.lookback + 1):
            if before == NONE or known.who(before) != "policy":
                return
            known.before[before] = steps
            self._settle(before, label)
            before = int(self._facts["previous"][before])

    def _expire(self, slot: int) -> None:
        """It is old now: it leaves "demos", and its frame is no longer kept; nor is the one it led to, at the end."""
        self._known.old[slot] = True
        self._settle(slot, self._labels.get(self._names[int(self._known.owner[slot])]))
        for frame in (slot, int(self._facts["next"][slot])):
            if frame not in self._sets["demos"] and self._kept[frame]:
                self._kept[frame] = False
                self._kept_count -= 1

    def relabel(self, label: Label) -> None:
        """Follow a verdict, now and for what its episode still brings; a later one takes its place.

        A demonstration that failed is withheld as a whole. No transition counts as new by this.
        """
        self._labels[label.actor, label.episode] = label
        owner = self._owners.get((label.actor, label.episode))
        there = self._facts["next"] != NONE
        for slot in np.flatnonzero(there & (self._known.owner == owner)) if owner is not None else []:
            self._settle(int(slot), label)

    def _settle(self, slot: int, label: Label | None) -> None:
        """Make of a transition what is known of it by now."""
        number, known, following = int(self._known.step[slot]), self._known, int(self._facts["next"][slot])
        before = self._sampled(slot)
        recorded = known.recorded(slot)
        outcome = judged(label, number, recorded)
        waits = label is not None and label.verdict == "pending" and self._facts["next"][following] == NONE
        rejected = label is not None and label.verdict == "failure" and not known.online[slot]
        self._facts["withheld"][slot] = outcome is None or waits or rejected
        routed = self._routing.route(known.seen(slot, outcome or recorded))
        self._facts["reward"][slot], self._facts["terminated"][slot] = routed.reward, routed.terminated
        self._mirror.fact(slot)
        self._offer(slot, routed)
        if before not in (None, self._sampled(slot)):
            self.revisions.changed()

    def _sampled(self, slot: int) -> tuple[bool | float, ...] | None:
        """What can change of a transition that a plan may hold; None of one that is withheld, for no plan holds it."""
        if self._facts["withheld"][slot]:
            return None
        outcome = float(self._facts["reward"][slot]), bool(self._facts["terminated"][slot])
        return *outcome, *(slot in members for members in self._sets.values())

    def _offer(self, slot: int, routed: Routed) -> None:
        """Put a transition into the partitions it belongs to, or take it out if it is withheld."""
        withheld = self._facts["withheld"][slot]
        for partition, belongs in ((self._sets["demos"], routed.demos), (self._sets["online"], routed.online)):
            if withheld or not belongs:
                partition.discard(slot)
            elif slot not in partition:
                partition.add(slot)
        if routed.demos:
            self._keep(slot)
            self._keep(int(self._facts["next"][slot]))

    def _slot_of(self, record: Record) -> int:
        """Where a record's frame is, or NONE. An episode's frames but the first are found by what led to them."""
        owner = self._owners.get((record.actor, record.episode))
        number = 0 if isinstance(record, EpisodeStart) else record.step
        begins = self._facts["next"] != NONE
        found = np.flatnonzero(begins & (self._known.owner == owner) & (self._known.step == number))
        if owner is None or not found.size:
            return NONE
        return int(found[0] if isinstance(record, EpisodeStart) else self._facts["next"][found[0]])

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
        self._put(slot, stored)
        self._head = (slot + 1) % self._capacity
        return slot

    def _put(self, slot: int, stored: Mapping[str, npt.NDArray[Any]]) -> None:
        """Half precision as its bits on the host too, so that no ring is of a type that XLA would widen."""
        self._host.write(slot, {name: bits(stored[name]) for name in self._dtypes})
        self._mirror.frame(slot, stored)

    def _evict(self, slot: int) -> None:
        """Forget a frame and both transitions that need it."""
        self._forget_transition(slot)
        before = int(self._facts["previous"][slot])
        if before != NONE:
            self._forget_transition(before)
        self._kept_count -= int(self._kept[slot])
        self._kept[slot] = False
        for episode in self._episodes.values():
            if episode.slot == slot:
                episode.slot = NONE

    def _forget_transition(self, slot: int) -> None:
        self.revisions.forgotten(slot)
        for partition in self._sets.values():
            partition.discard(slot)
        following = int(self._facts["next"][slot])
        if following != NONE:
            self._facts["previous"][following] = NONE
            self._mirror.fact(following)
        self._facts["next"][slot] = NONE
        self._facts["withheld"][slot] = False
        self._mirror.fact(slot)

    def _link(self, slot: int, following: int) -> None:
        self._facts["next"][slot], self._facts["previous"][following] = following, slot
        self._mirror.fact(slot)
        self._mirror.fact(following)
