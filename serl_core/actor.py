"""``serl actor``: drive the robot with the newest policy, under a person's correction, and stream what happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Literal

from serl_core.config import ConfigError, Observation
from serl_core.metrics import Metrics
from serl_core.policies import LinkPolicy
from serl_core.processes import StopFlag
from serl_core.rollout import Identity, rollout
from serl_core.session import connected, make_env
from serl_core.summary import Tally, write_json
from serl_core.tasks import load_task
from serl_core.teleop.scripted import OperatorConfig
from serl_core.transport import ActorLink
from serl_core.types import EpisodeStart, Record


@dataclass(frozen=True)
class Config:
    """Drive the robot with the newest policy and stream what happens to the learner."""

    run_dir: Path  # spool, metrics and figures of this actor
    task: str = "pick_cube"  # task by name, or the path of a task file
    obs: Observation = "state"  # what the policy sees
    robot: str = "tcp://127.0.0.1:5555"  # address of the robot server
    truth: str | None = None  # address of a simulated scene's ground truth: success oracle, scripted operator
    learner: str = "tcp://127.0.0.1:5557"  # address of the learner
    operator: Literal["scripted", "none"] = "scripted"  # who corrects the policy
    name: str = "actor"  # of this actor: letters, digits, "_", "." and "-"
    env_steps: int = 0  # end after this many steps; 0: until stopped
    max_behind: int = 20  # lockstep: wait while the learner is this many transitions behind
    seed: int = 0


class Recorder:
    """Sends every record to the learner, and under the lockstep clock waits for it to keep up."""

    def __init__(self, link: ActorLink, max_behind: int | None, patience: float) -> None:
        self._link = link
        self._max_behind = max_behind
        self._patience = patience

    def __call__(self, record: Record) -> None:
        self._link.send(record)
        if self._max_behind is not None:
            self._wait(self._max_behind)

    def _wait(self, max_behind: int) -> None:
        def caught_up(report: Mapping[str, Any]) -> bool:
            return self._link.learner_lag() + report.get("behind", 0) <= max_behind

        if not self._link.wait_until(caught_up, timeout=self._patience):
            raise ConfigError(f"the learner did not catch up within {self._patience:.0f} s; is it still running?")


class EpisodeLog:
    """Writes one line of metrics per episode, and the ages of the weights that acted."""

    def __init__(self, tally: Tally, metrics: Metrics, policy: LinkPolicy, wall: Callable[[], float]) -> None:
        self.ages: list[int] = []
        self._tally = tally
        self._metrics = metrics
        self._policy = policy
        self._wall = wall

    def __call__(self, record: Record) -> None:
        if isinstance(record, EpisodeStart):
            return
        if record.policy_version >= 0:
            self.ages.append(self._tally.steps - 1 - self._policy.transitions)
        if record.terminated or record.truncated:
            figures = asdict(self._tally.episodes[-1])
            self._metrics.write(self._tally.steps, self._wall(), **figures, version=self._policy.version)


def training_seeds(seed: int) -> Iterator[int]:
    """Episode seeds of a training run, apart from those of evaluations and demonstrations."""
    return count(2_000_000 + 100_000 * seed)


def main(config: Config) -> int:
    """Act until the steps are done or someone stops it; everything sent is delivered before it ends."""
    task = load_task(config.task)
    with (
        connected(task, config.obs, config.robot, config.truth) as session,
        ActorLink(config.learner, config.name, config.run_dir / "spool") as link,
        StopFlag().on_signals() as stop,
    ):
        operator = OperatorConfig(mode="intervene") if config.operator == "scripted" else None
        env = make_env(session, task, config.obs, operator, config.seed)
        policy = LinkPolicy(link, config.seed)
        policy.wait(timeout=120.0)
        tally = Tally()
        lockstep = session.robot.metadata.clock == "lockstep"
        log = EpisodeLog(tally, Metrics(config.run_dir / "metrics" / "actor.jsonl"), policy, time.time)
        recorder = Recorder(link, config.max_behind if lockstep else None, patience=120.0)
        rollout(
            env,
            policy,
            [recorder, tally, log],
            identity=Identity(link.session),
            seeds=training_seeds(config.seed),
            stop=lambda: stop() or 0 < config.env_steps <= tally.steps,
            meta={"task": task.name, "obs": config.obs},
        )
        link.wait_drained(timeout=60.0)
        write_json(config.run_dir / "actor.json", figures(tally, log))
    return 0


def figures(tally: Tally, log: EpisodeLog) -> dict[str, float | None]:
    """What an actor reports at its end."""
    return {
        "env_steps": tally.steps,
        "episodes": len(tally.episodes),
        "intervention_steps": tally.operator_steps,
        "interventions": len(tally.takeovers),
        "bent_commands": tally.bent,
        "weight_age_steps_median": median(log.ages) if log.ages else None,
    }
