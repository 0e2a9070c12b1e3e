"""``serl record``: demonstrations by the scripted operator, through the same takeover path as a person's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from robot_servers.keys import load_client_keys
from serl_core.config import Observation
from serl_core.data.episodes import EpisodeStore
from serl_core.metrics import Metrics, read
from serl_core.pairs import AnyTask
from serl_core.progress import Progress, progress
from serl_core.rollout import Decision, Identity, rollout
from serl_core.session import connected, episode_meta, make_env
from serl_core.tasks import load_task
from serl_core.teleop.scripted import OperatorConfig
from serl_core.types import DEMONSTRATOR, EpisodeStart, Obs, Record, Step

MAX_ATTEMPTS = 5  # per wanted demonstration; an operator worse than this cannot demonstrate


@dataclass(frozen=True)
class Config:
    """Record demonstrations: successful episodes of the scripted operator."""

    out: Path  # folder of the episodes
    task: str = "pick_cube"  # task by name, or the path of a task file
    obs: Observation = "state"  # what an observation holds
    episodes: int = 20  # successful episodes to have in the end, those of earlier calls included
    steps: int = 0  # go on beyond ``episodes`` until this many steps are kept
    robot: str = "tcp://127.0.0.1:5555"  # address of the robot server; of two arms LEFT,RIGHT, so is --truth
    truth: str | None = None  # address of the server's ground truth
    keys: Path | None = None  # folder of this machine's keys (serl keys), for a robot on another one
    seed: int = 0  # of scenes and operator


class SuccessfulEpisodes:
    """Keeps successful episodes in the store, whole; counts what it kept."""

    def __init__(self, store: EpisodeStore, metrics: Metrics, bar: Progress) -> None:
        before = read(metrics.path)  # of an earlier call, whose demonstrations count
        self.episodes = len(before)
        self.steps = sum(row["steps"] for row in before)
        self.attempts = before[-1]["attempts"] if before else 0
        self._store = store
        self._metrics = metrics
        self._bar = bar
        self._records: list[Record] = []

    def __call__(self, record: Record) -> None:
        if isinstance(record, EpisodeStart):
            self._records = []
        self._records.append(record)
        if isinstance(record, Step) and (record.terminated or record.truncated):
            self._finish(record)

    def _finish(self, last: Step) -> None:
        self.attempts += 1
        if last.success:
            for record in self._records:
                self._store.append(record)
            self.episodes += 1
            self.steps += len(self._records) - 1
            self._metrics.write(self.episodes, time.time(), steps=len(self._records) - 1, attempts=self.attempts)
            self._bar.advance()


def idle(task: AnyTask) -> Callable[[Obs], Decision]:
    """The policy of a robot that waits for its operator: it never moves."""
    action = np.zeros(task.action_dim, np.float32)
    return lambda obs: Decision(action)


def main(config: Config) -> int:
    """Record, and refuse to go on for ever with an operator who does not succeed."""
    task = load_task(config.task)
    keys = load_client_keys(config.keys) if config.keys else None
    with connected(task, config.obs, config.robot, config.truth, keys=keys) as session:
        env = make_env(session, task, config.obs, OperatorConfig(mode="always"), config.seed)
        with progress("recording demonstrations", config.episodes) as bar, EpisodeStore(config.out) as store:
            kept = SuccessfulEpisodes(store, Metrics(config.out / "metrics.jsonl"), bar)

            def enough() -> bool:
                return kept.episodes >= config.episodes and kept.steps >= config.steps

            first = kept.attempts

            def seeds() -> Iterator[int]:
                for index in count(first):
                    if enough() or kept.attempts >= MAX_ATTEMPTS * max(1, kept.episodes, config.episodes):
                        return
                    yield 1_000_000 + 10_000 * config.seed + index  # apart from training and evaluation seeds

            identity = Identity(DEMONSTRATOR, first_episode=first, source="demo")
            meta = episode_meta(session, task, config.obs)
            rollout(env, idle(task), [kept], identity=identity, seeds=seeds(), meta=meta)
    print(f"kept {kept.episodes} successful demonstrations ({kept.steps} steps) of {kept.attempts} in {config.out}")
    return 0 if enough() else 1
