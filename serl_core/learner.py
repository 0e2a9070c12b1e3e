"""``serl learner``: store what arrives, learn from it as fast as the limiter grants, publish the policy.

The learner needs no robot, no camera and no server: spaces and networks follow from the task alone.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from robot_servers.keys import load_server_keys
from serl_core.agents.policy import params_to_tree, tree_from_flat, tree_to_flat
from serl_core.blueprint import TRAINS, VIEWS, Blueprint
from serl_core.checkpoint import Checkpoints
from serl_core.claim import check_claim
from serl_core.config import START_AFTER, ConfigError, Observation, Preset, Vision
from serl_core.data.episodes import EpisodeStore
from serl_core.data.invariants import Misfit
from serl_core.data.refresh import Refresher
from serl_core.engine import Engine, data_parallel
from serl_core.following import Following
from serl_core.limiter import UpdateLimiter
from serl_core.methods import Method, recipe
from serl_core.metrics import Metrics
from serl_core.nets.encoders import fit_normaliser
from serl_core.nets.frames import SHIFTS
from serl_core.perception import Encode, refresher, remembered, replay_for, with_projection
from serl_core.priority import standing_back
from serl_core.processes import StopFlag
from serl_core.progress import progress
from serl_core.summary import write_json
from serl_core.transport import LearnerLink
from serl_core.types import DEMONSTRATOR, Judgement, Message, Step

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Learn from demonstrations and from what actors send; either may start first."""

    run_dir: Path  # everything this run leaves behind
    task: str = "pick_cube"  # task by name, or the path of a task file
    obs: Observation = "state"  # what the policy sees
    seed: int = 0
    address: str = "tcp://127.0.0.1:5557"  # where actors connect
    keys: Path | None = None  # folder of the server's keys (serl keys): needed for an address that others can reach
    insecure: bool = False  # allow such an address without keys: whoever reaches it can send anything
    demos: Path | None = None  # demonstrations to start from; default: RUN_DIR/demos
    env_steps: int = 0  # end after this many online transitions; 0: learn until stopped
    method: Method = "hil-serl"  # what is learnt from, see `serl_core.methods`; "bc" needs no actor and ends by itself
    takeover_penalty: float = 0.0  # hil-serl: subtracted from the reward of the policy's last steps before a takeover
    takeover_penalty_steps: int = 1  # how many of them
    demo_age: int = 0  # online transitions after which what a person did is no longer a demonstration; 0: never
    imitation: float | None = None  # weight of following the person where critics agree; 0: off; hil-serl: or as preset
    rlif_expert: Literal["last", "none", "all"] = "last"  # rlif: which of the person's steps are learnt from
    preset: Preset = "default"  # "plain": RLPD without our additions; "rlpd": that with the paper's ten critics
    utd: int = 4  # critic updates per online transition
    trunk: str = "small"  # frozen image trunk: small, resnet10, resnet18
    trunk_weights: Path | None = None  # its weights; the small one comes with the package
    vision: Vision = "cached"  # "exact": fresh crops through the trunk in every update; "trained", "scratch": it learns
    channels: int = 128  # of the trunk's features: more are projected to so many, fitted on demonstrations; 0: all
    stack: int = 1  # frames of each camera that the policy sees at once: with those before it
    views: int = VIEWS  # shifted views of each frame that are kept as features; 81: every shift there is
    capacity: int = 200_000  # frames in replay, one per transition and one more per episode
    start_after: int = START_AFTER  # online transitions before training starts
    lockstep: bool = False  # the actor waits for the learner instead of the other way round
    publish_every: float = 0.5  # s, in real time; every 10 transitions in lockstep
    checkpoint_every: int = 2_000  # online transitions
    nice: int = 10  # steps that the learner stands back for actor and server on the same computer; 0: for nobody
    log_every: int = 100  # online transitions between two lines of metrics
    resume: bool = False  # go on from the newest checkpoint and everything stored


PUBLISH_EVERY_STEPS = 10  # transitions between two versions in lockstep
UNSEEN_VERSIONS = 1_000_000  # more than can have been published since the last known one: versions never go back
RECEIVE_AT_MOST = 64  # records between two updates, so that a flood of data does not stop learning


class Learner:
    """Networks, replay and counters of one run; `learn` is the loop."""

    def __init__(
        self,
        config: Config,
        link: LearnerLink,
        store: EpisodeStore,
        blueprint: Blueprint | None = None,
        encode: Encode | None = None,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.blueprint = blueprint or blueprint_for(config)
        self.agent = self.blueprint.agent()
        self.recipe = recipe(config, self.blueprint.agent_config)
        sharding = data_parallel(jax.local_devices(), self.blueprint.agent_config.batch)
        encode = encode or self.blueprint.replay_encoder(np.random.default_rng([config.seed, 1]))
        self.replay = replay_for(config, self.blueprint, self.recipe.routing, encode, sharding)
        print(self.replay.describe(), flush=True)  # before demonstrations are read, which may take minutes
        spec, utd = replace(self.recipe.sampling, stack=self.blueprint.stack), self.recipe.utd
        self.engine = Engine(self.agent, self.replay, spec, utd, self.blueprint.sight(), config.seed, sharding)
        self.limiter = UpdateLimiter(
            utd=utd,
            per_call=utd,
            lockstep=config.lockstep,
            start_after=config.start_after,
        )
        self.checkpoints = Checkpoints(config.run_dir / "checkpoints")
        self.metrics = Metrics(config.run_dir / "metrics" / "learner.jsonl")
        self.version = 0
        self.grad_steps = 0
        self._link = link
        self._store = store
        self._verdicts = Following(self.replay, now, wall)
        self._now = now
        self._wall = wall
        self.received: Counter[str] = Counter()  # online steps of each actor session, refused ones included
        self._pending: dict[str, Any] = {}  # the last call's metrics, still on the device
        self._published_at = (-1.0e9, -1)
        self._logged_at = 0
        self._checkpointed_at = 0
        demonstrations = self._load_demonstrations()
        self._refresher: Refresher | None = None
        if not config.lockstep:  # how often it gets its turn would decide what is learnt
            self._refresher = refresher(self.blueprint, self.replay, [*demonstrations, store], config.seed)
        known = self.replay.size("demos")
        normaliser = fit_normaliser(*self.replay.state_statistics("demos")) if known else None
        self.state = self.engine.placed(self.agent.init(jax.random.key(config.seed), normaliser))
        if config.resume:
            self._resume()
        self._verdicts.watch(store)
        self._verdicts.follow()

    # ── the loop ────────────────────────────────────────────────────────────────────────────────

    def learn(self, stop: Callable[[], bool]) -> None:
        """Until stopped, or until every update for the last wanted transition is done."""
        self._pretrain(stop)
        with progress("learning (transitions)", self.config.env_steps or self.config.capacity) as bar:
            while not (stop() or self._finished()):
                self._receive()
                if self.limiter.grants():
                    self._update()
                elif self._refresher:
                    self._refresher.step()
                self._publish_if_due()
                self._log_if_due()
                self._checkpoint_if_due()
                bar.update(self.received.total(), self._pace())
        self._publish()
        self._log()
        self._checkpoint()

    def _pace(self) -> str:
        """Achieved UTD and how far it is behind, or what it waits for."""
        pace = f"UTD {self.limiter.achieved_utd:.1f}, {self.limiter.behind:.0f} transitions behind"
        return self.limiter.waiting() or pace

    def _finished(self) -> bool:
        """Every step the actors made has arrived; what replay refused of them counts, or this would wait for ever."""
        arrived = 0 < self.config.env_steps <= self.received.total()
        return self.recipe.offline or (arrived and not self.limiter.grants())

    def _receive(self) -> None:
        """Store, insert, follow verdicts, report, acknowledge; wait for data only when no update is due.

        Storing may add a verdict: no update must see what was inserted without it. The report goes before the
        acknowledgements: an actor must not see itself caught up in between.
        """
        patience = 0.0 if self.limiter.grants() else 0.02
        arrived = self._link.receive(RECEIVE_AT_MOST, timeout=patience)
        self._store.extend(arrived)
        for delivery in arrived:
            self.limiter.insert(self._insert(delivery.record))
        self._verdicts.follow()
        self._report()
        for delivery in arrived:
            self._link.ack(delivery.actor, delivery.seq)

    def _insert(self, record: Message, recorded: Path | None = None) -> bool:
        """Into replay; True for an online transition. What replay refuses is stored all the same.

        Of a demonstration, in the file ``recorded``: raises ConfigError if it shows another task or other cameras.
        """
        if isinstance(record, Judgement):  # the store has made a label of it
            return False
        if isinstance(record, Step) and record.actor != DEMONSTRATOR:
            self.received[record.actor] += 1
        try:
            return self.replay.insert(record)
        except ValueError as error:
            if recorded is not None and isinstance(error, Misfit):
                raise ConfigError(f"{recorded}: {error}: give demonstrations of this task (--demos)") from error
            log.error("%sstored, but not learnt from: %s", f"{recorded}: " if recorded else "", error)
            return False

    def _pretrain(self, stop: Callable[[], bool]) -> None:
        """Updates on the demonstrations, before anything acts. Raises ConfigError if there are none."""
        if self.recipe.pretrain and not self.replay.size("demos"):
            raise ConfigError(
                f"--method {self.config.method} begins with demonstrations, and there are none: record some"
            )
        while self.grad_steps < self.recipe.pretrain and not stop():
            self._verdicts.follow()
            self._learn()

    def _update(self) -> None:
        """A call that was granted."""
        self._learn()
        self.limiter.done()
        self._report()

    def _learn(self) -> None:
        """One compiled call: UTD critic updates and one actor update."""
        self._check(self._pending)  # one call late, so that the device never waits for the host
        if self.recipe.sampling.demo_ratio == 1.0 and not self.replay.size("demos"):
            raise ConfigError(  # replay would give the policy's own steps instead, and it would imitate itself
                f"--method {self.config.method} has no demonstration left to learn from: give a larger "
                "--demo-age, or record some; verdicts may have taken them all (serl label lists them)"
            )
        self.state, self._pending = self.engine.update(self.state, self.grad_steps // self.recipe.utd)
        self.grad_steps += self.recipe.utd

    def _check(self, metrics: dict[str, Any]) -> None:
        if metrics and not bool(jax.device_get(metrics["finite"])):
            bad = [name for name, value in jax.device_get(metrics).items() if not np.isfinite(value)]
            raise FloatingPointError(
                f"{', '.join(bad)} became infinite or NaN at gradient step {self.grad_steps}: a loss or its gradient; "
                f"the last good state is the newest checkpoint in {self.config.run_dir / 'checkpoints'}"
            )

    # ── what others see ─────────────────────────────────────────────────────────────────────────

    def _report(self) -> None:
        """Tell the actors how far learning is behind what they sent."""
        report = {"received": self.received.total(), "behind": self.limiter.behind, "grad_steps": self.grad_steps}
        wanted = 0.0 if self.config.lockstep else self.limiter.utd  # in lockstep the actor waits
        pace = {"utd": self.limiter.recent_utd, "utd_wanted": wanted}
        self._link.report({**report, **pace})

    def _publish_if_due(self) -> None:
        seconds, transitions = self._published_at
        if self.config.lockstep:
            due = self.limiter.stored - transitions >= PUBLISH_EVERY_STEPS or transitions < 0
        else:
            due = self._now() - seconds >= self.config.publish_every
        if due:
            self._publish()

    def _publish(self) -> None:
        self._check(self._pending)  # nobody acts on what became infinite
        self.version += 1
        params = params_to_tree(self.agent.policy(self.state))
        self._link.publish(self.version, params, {**self.blueprint.to_tree(), "received": dict(self.received)})
        self._published_at = (self._now(), self.limiter.stored)

    def _log_if_due(self) -> None:
        if self.limiter.stored - self._logged_at >= self.config.log_every:
            self._log()

    def _log(self) -> None:
        self._logged_at = self.limiter.stored
        values = {name: float(value) for name, value in jax.device_get(self._pending).items()}
        self.metrics.write(self.limiter.stored, self._wall(), **values, **self.figures())

    def figures(self) -> dict[str, float]:
        """Counters of the run so far."""
        return {
            "env_steps": self.received.total(),
            "behind": self.limiter.behind,
            "updates_forgiven": self.limiter.forgiven,
            "grad_steps": self.grad_steps,
            "achieved_utd": self.limiter.achieved_utd,
            "version": self.version,
            "refreshed": self._refresher.refreshed if self._refresher else 0,
        }

    # ── what survives ───────────────────────────────────────────────────────────────────────────

    def _checkpoint_if_due(self) -> None:
        if self.limiter.stored - self._checkpointed_at >= self.config.checkpoint_every:
            self._checkpoint()

    def _checkpoint(self) -> None:
        self._check(self._pending)
        self._checkpointed_at = self.limiter.stored
        self.checkpoints.save(
            self.limiter.stored,
            {
                "blueprint": self.blueprint.to_tree(),
                "agent": tree_to_flat(self.state),
                "policy": params_to_tree(self.agent.averaged_policy(self.state)),  # all that an evaluation reads
                "limiter": self.limiter.state_dict(),
                "grad_steps": self.grad_steps,
                "version": self.version,
            },
        )

    def _resume(self) -> None:
        """Everything stored goes back into replay; networks and counters come from the newest checkpoint."""
        newest = self.checkpoints.latest()
        saved = None if newest is None else self.checkpoints.load(newest)
        if saved is not None:
            self.blueprint.check_trunk(saved["blueprint"])
        stored, acted_with = 0, 0
        for record in self._store.records(as_recorded=True):  # verdicts follow, and may change again
            stored += self._insert(record)
            acted_with = max(acted_with, record.policy_version if isinstance(record, Step) else 0)
        if saved is not None:
            self.state = self.engine.placed(tree_from_flat(self.state, saved["agent"]))
            self.limiter.load(saved["limiter"])
            self.grad_steps, self.version = saved["grad_steps"], saved["version"]
            self._checkpointed_at = self._logged_at = self.limiter.stored
        self.version = max(self.version, acted_with) + UNSEEN_VERSIONS
        # What came after the checkpoint is still to be learnt from.
        self.limiter.insert(max(0, stored - self.limiter.stored))

    def _load_demonstrations(self) -> list[EpisodeStore]:
        """Into replay; the store they came from, if there is one."""
        folder = self.config.demos or self.config.run_dir / "demos"
        if not folder.exists():
            print(f"no demonstrations in {folder}: learning from scratch, which takes far longer", flush=True)
            return []
        demonstrations = EpisodeStore(folder)
        for stored in demonstrations.stored():  # as recorded: verdicts follow, and may change again
            self._insert(stored.record(), recorded=stored.file)
        self._verdicts.watch(demonstrations)
        self._verdicts.follow()
        return [demonstrations]


def blueprint_for(config: Config) -> Blueprint:
    """The networks of a run. Raises ConfigError for settings that do not fit together."""
    if not 1 <= config.views <= SHIFTS:
        raise ConfigError(f"--views {config.views}: a frame has 1 to {SHIFTS} views")
    if config.stack < 1 or (config.stack > 1 and (config.obs == "state" or config.vision in TRAINS)):
        raise ConfigError(f"--stack {config.stack}: 1 or more, and more only of a frozen trunk's features of pixels")
    if not 0 <= config.nice <= 19:
        raise ConfigError(f"--nice {config.nice}: 0 to 19, the most that a process can stand back")
    blueprint = Blueprint.for_task(
        config.task, config.obs, config.preset, config.utd, config.trunk, config.trunk_weights, config.vision, config
    )
    return with_projection(replace(blueprint, cached_views=config.views, stack=config.stack), config)


def main(config: Config) -> int:
    """Learn until done or stopped; always leave a checkpoint and the figures of the run."""
    claimed = check_claim(config)
    keys = load_server_keys(config.keys) if config.keys else None
    with (
        EpisodeStore(config.run_dir / "episodes") as store,
        LearnerLink(config.address, store.last_of_each(), config.insecure, keys=keys) as link,
        StopFlag().on_signals() as stop,
    ):
        blueprint = blueprint_for(config)
        recipe(config, blueprint.agent_config)  # refuses what does not fit together, before the folder is claimed
        write_json(config.run_dir / "config.json", claimed)  # only now: store and port are ours
        print(f"ready {link.address}", flush=True)
        with remembered(config.run_dir, blueprint, config.seed) as encode, standing_back(config.nice):
            learner = Learner(config, link, store, blueprint, encode)
            learner.learn(stop)
        write_json(config.run_dir / "learner.json", learner.figures())
    return 0
