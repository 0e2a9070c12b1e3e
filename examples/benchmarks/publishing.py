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

import numpy as np

from examples.benchmarks.records import DISTINCT, step
from examples.benchmarks.transport_pairs import End
from serl_core.data.episodes import EpisodeStore
from serl_core.learner import Config, Learner
from serl_core.policies import Blueprint
from serl_core.transport import LearnerLink
from serl_core.types import EpisodeStart, Obs

NEVER = 1e9  # s
STEPS = 300  # of the demonstrations that it learns from
WARM = 5  # calls before the clock starts: the first one compiles


@dataclass
class Blocks:
    """Ends the learner's loop after ``pairs`` of blocks of ``seconds``; until then it switches publishing on and off.

    To be asked by the loop in each of its rounds. ``rates``: updates per s of each block, in pairs (off, on).
    """

    pairs: int
    seconds: float
    learner: Learner
    rng: np.random.Generator
    now: Callable[[], float] = time.perf_counter
    rates: list[dict[bool, float]] = field(default_factory=list)
    _order: list[bool] = field(default_factory=list)
    _begun: tuple[float, int] | None = None  # of the block: when, and how many updates before

    def __call__(self) -> bool:
        """Whether enough was measured."""
        self.learner.limiter.insert(True)  # as if the robot never stopped: updates are always due
        if self._begun is None:
            if self.learner.grad_steps >= WARM * self.learner.agent.config.utd:
                self._begin()
            return False
        begun, updates = self._begun
        took = self.now() - begun
        if took < self.seconds:
            return False
        self.rates[-1][self._order.pop()] = (self.learner.grad_steps - updates) / took
        if not self._order and len(self.rates) == self.pairs:
            return True
        self._begin()
        return False

    def _begin(self) -> None:
        if not self._order:
            self._order = [bool(first := self.rng.integers(2)), not first]
            self.rates.append({})
        publish_every = 1.0 if self._order[-1] else NEVER
        self.learner.config = replace(self.learner.config, publish_every=publish_every)
        self._begun = self.now(), self.learner.grad_steps

    def slow_downs(self) -> list[float]:
        """Of each pair: the share of the updates that publishing costs."""
        return [1.0 - rates[True] / rates[False] for rates in self.rates]


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


def bootstrap(values: list[float], rng: np.random.Generator) -> tuple[float, float]:
    """95 % interval of the median."""
    medians = np.median(rng.choice(values, (10_000, len(values))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def slow_down(pairs: int, seconds: float = 2.0) -> dict[str, float]:
    """The share of its updates that a learner loses while it publishes every second to one actor."""
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
    low, high = bootstrap(blocks.slow_downs(), rng)
    return {
        "publishing_slow_down": float(np.median(blocks.slow_downs())),
        "publishing_slow_down_low": low,
        "publishing_slow_down_high": high,
        "publishing_pairs": pairs,
        "updates_per_s": float(np.median([rates[False] for rates in blocks.rates])),
    }
