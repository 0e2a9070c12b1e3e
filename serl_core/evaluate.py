"""``serl eval``: the success rate of the newest checkpoint. No takeover, no classifier; success from the oracle."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robot_servers.keys import ClientKeys, load_client_keys
from serl_core.agents.policy import act_inline
from serl_core.checkpoint import Checkpoints
from serl_core.config import ConfigError, Observation
from serl_core.envs.rewards import Judge
from serl_core.judging.scorer import chosen_judge
from serl_core.metrics import Metrics
from serl_core.nets.once import EncodedOnce
from serl_core.pairs import AnyTask
from serl_core.policies import CheckpointPolicy
from serl_core.progress import Progress, progress
from serl_core.rollout import Identity, Policy, Subscriber, rollout
from serl_core.session import connected, make_env
from serl_core.simulated import simulated_server
from serl_core.summary import Tally, write_json
from serl_core.teleop.scripted import OperatorConfig
from serl_core.types import EpisodeStart, Record

FIRST_SEED = 10_000  # evaluation seeds from here up are used for nothing else


@dataclass(frozen=True)
class Config:
    """Measure the success rate of the newest checkpoint of a run."""

    run_dir: Annotated[Path, tyro.conf.Positional]  # the run to evaluate
    episodes: int = 100
    robot: str = ""  # address of a robot server, of two arms LEFT,RIGHT; default: start a simulated one
    truth: str | None = None  # address of its ground truth
    keys: Path | None = None  # folder of this machine's keys (serl keys), for a robot on another one
    judge: str = ""  # without ground truth: "rule", or files of classifiers to be reached in turn, A.npz,B.npz
    first_seed: int = FIRST_SEED  # episode i has the seed first_seed + i
    trunk_weights: Path | None = None  # of the run's image trunk; the small one comes with the package


class EpisodeLog:
    """Moves a progress bar with every finished episode and writes one line of metrics about it, if wanted."""

    def __init__(self, bar: Progress, tally: Tally, first_seed: int, metrics: Metrics | None) -> None:
        self._bar = bar
        self._tally = tally
        self._first_seed = first_seed
        self._metrics = metrics

    def __call__(self, record: Record) -> None:
        if isinstance(record, EpisodeStart) or not (record.terminated or record.truncated):
            return
        done = len(self._tally.episodes)
        self._bar.update(done, f"{self._tally.successes}/{done} successes")
        if self._metrics is not None:
            seed, episode = self._first_seed + record.episode, self._tally.episodes[-1]
            self._metrics.write(done, time.time(), seed=seed, success=episode.success, steps=episode.steps)


def evaluate(
    policy: Policy,
    task: AnyTask,
    obs: Observation,
    address: tuple[str, str | None],
    *,
    episodes: int,
    first_seed: int = FIRST_SEED,
    operator: OperatorConfig | None = None,
    metrics: Metrics | None = None,
    keys: ClientKeys | None = None,
    judge: Judge | None = None,
    hears: Sequence[Subscriber] = (),
) -> Tally:
    """Run the episodes at ``address`` (robot server, ground truth) and count; ``operator`` only to measure one.

    ``judge`` takes the place of the task's own; ``hears`` is told of every record first.
    """
    tally = Tally()
    with connected(task, obs, *address, keys=keys) as session, progress("evaluating", episodes) as bar:
        rollout(
            make_env(session, task, obs, operator, first_seed, judge=judge),
            policy,
            [*hears, tally, EpisodeLog(bar, tally, first_seed, metrics)],
            identity=Identity("eval"),
            seeds=range(first_seed, first_seed + episodes),
        )
    return tally


def main(config: Config) -> int:
    """Evaluate and write RUN_DIR/eval.json."""
    act_inline()
    newest = Checkpoints(config.run_dir / "checkpoints").latest()
    if newest is None:
        raise ConfigError(f"no complete checkpoint in {config.run_dir / 'checkpoints'}: has this run been trained?")
    once = EncodedOnce()
    policy = CheckpointPolicy(newest, config.trunk_weights, once)
    task, obs = policy.blueprint.load_task(), policy.blueprint.obs
    judge = chosen_judge(config.judge, task, obs, once, config.trunk_weights)
    if judge is None and task.goals is None and bool(config.robot) != bool(config.truth):
        raise ConfigError("success needs the scene's ground truth: give --robot and --truth or neither, or a --judge")
    with contextlib.ExitStack() as stack:
        address = (config.robot, config.truth)
        if not config.robot:
            address = stack.enter_context(simulated_server(task, obs, config.run_dir / "logs"))
        path = config.run_dir / "metrics" / "eval.jsonl"
        path.unlink(missing_ok=True)  # its lines belong to the newest evaluation
        tally = evaluate(
            policy,
            task,
            obs,
            address,
            episodes=config.episodes,
            first_seed=config.first_seed,
            metrics=Metrics(path),
            keys=load_client_keys(config.keys) if config.keys else None,
            judge=judge,
            hears=[policy.hear],
        )
    judged = {"judge": config.judge or "the task's own"}
    result = {**tally.evaluation(), **judged, "first_seed": config.first_seed, "checkpoint": newest.name}
    write_json(config.run_dir / "eval.json", result)
    steps = result["mean_success_steps"]
    print(
        f"{result['successes']}/{result['episodes']} successes, 95 % interval "
        f"{result['wilson_low']:.2f} to {result['wilson_high']:.2f}"
        + (f", {steps:.1f} steps each" if steps is not None else "")
    )
    return 0
