"""From weights to actions: where a policy's weights come from, and how they act."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import numpy as np

from serl_core.agents.policy import PolicyParams, params_from_tree
from serl_core.blueprint import Blueprint
from serl_core.checkpoint import Checkpoints
from serl_core.config import ConfigError, Observation
from serl_core.nets.history import History
from serl_core.nets.once import EncodedOnce
from serl_core.pairs import AnyTask
from serl_core.rollout import Decision
from serl_core.transport import ActorLink, LinkError, Weights
from serl_core.types import EpisodeStart, Obs, Record

UNDISTURBED = 0.01  # s after a decision in which its command is sent
SLOW = 20.0  # s for the first weights, after which it is said what the learner is doing


class _Acting:
    """One compiled policy and the weights it acts with."""

    def __init__(self, blueprint: Blueprint, seed: int, once: EncodedOnce | None, *, explore: bool) -> None:
        self._act = blueprint.act()
        self._encode = blueprint.encoder(once)
        self._history = History(blueprint.cameras, blueprint.stack)
        self._example = blueprint.raw_example()
        self._rng = np.random.default_rng(seed)
        self._explore = explore

    def warm_up(self, params: Any) -> None:
        """Compile now: within a control step it would cost the arm its command."""
        self(params, self._example)

    def hear(self, record: Record) -> None:
        """What was seen before an episode is not remembered in it."""
        if isinstance(record, EpisodeStart):
            self._history.begin()

    def __call__(self, params: Any, obs: Obs) -> np.ndarray:
        key = self._rng.integers(0, 1 << 32, 2, np.uint32)  # splitting a key takes three dispatches, each may be late
        return self._act(params, self._history(self._encode(obs)), key, self._explore)


@final
class Aside:
    """Makes published weights ready to act with in a thread of its own: 2 to 6 ms that no step waits for.

    To `begin` right after an action was decided is best: work begins ``after`` s, when that is on its way to the robot,
    and in real time is done long before the next. Beside an action it would take its core or the interpreter.
    """

    def __init__(self, after: float = UNDISTURBED) -> None:
        self._after = after
        self._thread = ThreadPoolExecutor(1, "weights")
        self._coming: Future[PolicyParams] | None = None

    def begin(self, tree: Mapping[str, Any]) -> None:
        """With these, as they were published."""
        self._coming = self._thread.submit(self._make_ready, tree)

    def _make_ready(self, tree: Mapping[str, Any]) -> PolicyParams:
        time.sleep(self._after)
        return params_from_tree(tree)

    def ready(self) -> PolicyParams | None:
        """Once, as soon as they are. Raises what was wrong with them."""
        if self._coming is None or not self._coming.done():
            return None
        done, self._coming = self._coming, None
        return done.result()


class LinkPolicy:
    """Explores with the newest weights that have arrived; its version never goes back.

    ``once`` shares the features of frames with others that read them, such as a judge. `hear` is to be among the
    subscribers of its rollout.
    Raises ConfigError if the learner learns another task, or from other observations, than this actor's.
    """

    def __init__(
        self,
        link: ActorLink,
        task: AnyTask,
        obs: Observation,
        seed: int,
        weights: Path | None = None,
        once: EncodedOnce | None = None,
    ) -> None:
        self.version = -1
        self.received = 0  # how many steps of this session the learner had when it published them
        self._link = link
        self._wanted = (task.name, obs)
        self._seed = seed
        self._weights = weights
        self._once = once
        self._acting: _Acting | None = None
        self._params: Any = None
        self._aside = Aside()
        self._coming: Weights | None = None  # made ready beside the steps

    def wait(
        self,
        patience: float,
        stop: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = print,
    ) -> bool:
        """Wait for the first weights for as long as the learner is there; False if stopped.

        A learner that is there reads demonstrations and compiles, which a busy computer may do for minutes. Raises
        LinkError when it has been away for ``patience`` s.
        """
        begun = heard = now()
        said = False
        while not self._take_newest():
            if stop():
                return False
            status = self._link.status()
            if status.connected:
                heard = now()
            elif now() - heard > patience:
                raise LinkError(f"no weights from {self._link.address}: {status.text}; is it running? (serl learner)")
            if heard - begun > SLOW and not said:
                said = True
                say("the learner is there; its first weights come when it has read the demonstrations and compiled")
            self._link.wait_weights(self.version + 1, timeout=0.1)
        return True

    def __call__(self, obs: Obs) -> Decision:
        if self._acting is None:
            raise LinkError("asked to act before the first weights: call wait() first")
        self._take_ready()
        decision = Decision(self._acting(self._params, obs), self.version)
        self._make_ready()
        return decision

    def hear(self, record: Record) -> None:
        """A subscriber: says where an episode begins."""
        if self._acting is not None:
            self._acting.hear(record)

    def _take_newest(self) -> bool:
        """Now, however long it takes."""
        if (weights := self._newer()) is None:
            return False
        self._params = params_from_tree(weights.params)
        if self._acting is None:
            self._acting = self._begin(Blueprint.from_tree(weights.meta, self._weights))
        self._count(weights)
        return True

    def _make_ready(self) -> None:
        """For a later step, if newer weights have arrived."""
        if self._coming is None and (newer := self._newer()) is not None:
            self._coming = newer
            self._aside.begin(newer.params)

    def _take_ready(self) -> None:
        """The weights that were made ready since."""
        if self._coming is not None and (params := self._aside.ready()) is not None:
            self._params = params
            self._count(self._coming)
            self._coming = None

    def _newer(self) -> Weights | None:
        weights = self._link.weights()
        return weights if weights is not None and weights.version > self.version else None

    def _count(self, weights: Weights) -> None:
        self.version = weights.version
        self.received = int(weights.meta["received"].get(self._link.session, 0))

    def _begin(self, blueprint: Blueprint) -> _Acting:
        learnt = (blueprint.load_task().name, blueprint.obs)
        if learnt != self._wanted:
            raise ConfigError(
                f"the learner at {self._link.address} learns {' from '.join(learnt)}, this actor drives "
                f"{' from '.join(self._wanted)}: start both with the same --task and --obs"
            )
        acting = _Acting(blueprint, self._seed, self._once, explore=True)
        acting.warm_up(self._params)
        return acting


class CheckpointPolicy:
    """Acts without exploring, with the weights of one checkpoint; ``weights`` is the file of its image trunk.

    ``once`` and `hear` as in `LinkPolicy`.
    """

    def __init__(self, checkpoint: Path, weights: Path | None = None, once: EncodedOnce | None = None) -> None:
        saved = Checkpoints(checkpoint.parent).load(checkpoint)
        self.blueprint = Blueprint.from_tree(saved["blueprint"], weights)
        self._version = int(saved["version"])
        self._params = params_from_tree(saved["policy"])
        self._acting = _Acting(self.blueprint, 0, once, explore=False)
        self._acting.warm_up(self._params)

    def __call__(self, obs: Obs) -> Decision:
        return Decision(self._acting(self._params, obs), self._version)

    def hear(self, record: Record) -> None:
        """A subscriber: says where an episode begins."""
        self._acting.hear(record)
