"""How much slower a learner is while it publishes every second: the real loop of ``serl learner``, from pictures.

Blocks with and without publishing follow each other in one process, in pairs of random order; the median of the
pairs' ratios counts, so that other work on the machine cancels out.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import numpy as np

from examples.benchmarks.records import DISTINCT, step
from examples.benchmarks.transport_pairs import End
from serl_core.blueprint import Blueprint
from serl_core.data.episodes import EpisodeStore
from serl_core.learner import Config, Learner
from serl_core.transport import LearnerLink
from serl_core.types import EpisodeStart, Obs

NEVER = 1e9  # s
STEPS = 300  # of the demonstrations that it learns from
WARM = 5  # calls before the clock starts: the first one compiles


@dataclass
class Blocks:
    """Ends the learner's loop after ``pairs`` of blocks of ``seconds``; until then it switches publishing on and off.

    To be asked by the loop in each of its rounds. ``costs``: s and CPU s per update of each block, in pairs (off, on).
    """

    pairs: int
    seconds: float
    learner: Learner
    rng: np.random.Generator
    now: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    costs: list[dict[bool, np.ndarray]] = field(default_factory=list)
    _order: list[bool] = field(default_factory=list)
    _begun: np.ndarray | None = None  # of the block: when, CPU time and updates before it

    def __call__(self) -> bool:
        """Whether enough was measured."""
        self.learner.limiter.insert(True)  # as if the robot never stopped: updates are always due
        if self._begun is None:
            if self.learner.grad_steps >= WARM * self.learner.recipe.utd:
                self._begin()
            return False
        if self.now() - self._begun[0] < self.seconds:
            return False
        wall, cpu, updates = self._all_done() - self._begun
        self.costs[-1][self._order.pop()] = np.array([wall, cpu]) / updates
        if self._order or len(self.costs) < self.pairs:
            self._begin()
            return False
        return True

    def _begin(self) -> None:
        if not self._order:
            self._order = [bool(first := self.rng.integers(2)), not first]
            self.costs.append({})
        publish_every = 1.0 if self._order[-1] else NEVER
        self.learner.config = replace(self.learner.config, publish_every=publish_every)
        self._begun = self._all_done()

    def _all_done(self) -> np.ndarray:
        """Calls are counted when they are dispatched: without this wait a block pays for the one before it."""
        jax.block_until_ready(self.learner.state)
        return np.array([self.now(), self.cpu(), self.learner.grad_steps])

    def slow_downs(self) -> np.ndarray:
        """Of each pair: by which share an update takes longer, and needs more CPU time, while publishing (pairs, 2)."""
        return np.array([costs[True] / costs[False] - 1.0 for costs in self.costs])


def record_demonstrations(folder: Path, example: Obs, action_dim: int) -> None:
    """Episodes of noise, in the shapes of a task."""
    rng = np.random.default_rng(0)
    pictures = [
        {
            name: (rng.integers(0, 256, x.shape) if x.dtype == np.uint8 else rng.normal(size=x.shape)).astype(x.dtype)
            for name, x in example.items()
        }
        for _ in range(DISTINCT)
    ]
    with EpisodeStore(folder) as store:
        store.append(EpisodeStart("demo", 0, pictures[0], "demo"))
        for number in range(STEPS):
            obs, last = pictures[number % DISTINCT], number == STEPS - 1
            store.append(step("demo", number, obs, last=last, action=np.zeros(action_dim, np.float32)))


def interval(name: str, values: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """The median with its 95 % bootstrap interval."""
    medians = np.median(rng.choice(values, (10_000, len(values))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return {name: float(np.median(values)), f"{name}_low": float(low), f"{name}_high": float(high)}


def slow_down(pairs: int, seconds: float = 2.0) -> dict[str, float]:
    """What publishing every second to one actor costs a learner: time and CPU time of its updates."""
    rng = np.random.default_rng(0)
    blueprint = Blueprint.for_task("pick_cube", "pixels")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        record_demonstrations(folder / "demos", blueprint.raw_example(), blueprint.load_task().action_dim)
        store = stack.enter_context(EpisodeStore(folder / "episodes"))
        link = stack.enter_context(LearnerLink("tcp://127.0.0.1:*"))
        config = Config(folder, obs="pixels", capacity=STEPS + 1, publish_every=NEVER, checkpoint_every=1 << 60)
        learner = Learner(config, link, store)
        stack.enter_context(End("holding", folder, link.address))
        blocks = Blocks(pairs, seconds, learner, rng)
        learner.learn(blocks)
    slower = blocks.slow_downs()
    return {
        **interval("publishing_slow_down", slower[:, 0], rng),
        **interval("publishing_cpu", slower[:, 1], rng),
        "publishing_pairs": pairs,
        "updates_per_s": float(1.0 / np.median([costs[False][0] for costs in blocks.costs])),
    }
