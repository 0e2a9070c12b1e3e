"""``serl label``: a person's verdict on recorded episodes; the recordings stay, and a running learner follows."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from robot_servers.interface import nearest
from serl_core.config import ConfigError
from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import Label, Verdict
from serl_core.types import EpisodeStart, Record


@dataclass(frozen=True)
class Config:
    """Say how an episode really ended. Without a verdict: list the episodes, and how they ended so far."""

    run: Annotated[Path, tyro.conf.Positional]  # run directory, or a folder of episodes, e.g. RUN/demos
    verdict: Annotated[Verdict | None, tyro.conf.Positional] = None  # what to add
    actor: str | None = None  # whose episode: the session, as listed; not needed where there is only one
    episode: int | None = None  # its number
    step: int | None = None  # of a success: the step that led to it; without, the last one
    who: str = field(default_factory=getpass.getuser)  # who says so


@dataclass
class Episode:
    """What the recordings say of one episode: how many steps it has, and how the last of them ended it."""

    actor: str
    number: int
    steps: int = 0
    ended: str = "unfinished"  # the actor or its server died, or it still runs


def episodes(records: Iterable[Record]) -> dict[tuple[str, int], Episode]:
    """By actor session and number, in the order of their beginning."""
    found: dict[tuple[str, int], Episode] = {}
    for record in records:
        key = (record.actor, record.episode)
        episode = found.setdefault(key, Episode(*key))
        if isinstance(record, EpisodeStart) or record.aborted:  # an aborted step was not executed
            continue
        episode.steps = record.step + 1
        if record.success:
            episode.ended = "success"
        elif record.terminated:
            episode.ended = "failure"
        elif record.truncated:
            episode.ended = "time over"
    return found


def table(found: Iterable[Episode], labels: Mapping[tuple[str, int], Label]) -> str:
    """One line per episode, the verdict that counts at its end."""
    rows = [("actor", "episode", "steps", "recorded", "verdict")]
    for episode in found:
        label = labels.get((episode.actor, episode.number))
        at = f" at step {label.step}" if label and label.step >= 0 else ""
        verdict = f"{label.verdict}{at} ({label.source} {label.who})" if label else ""
        rows.append((episode.actor, str(episode.number), str(episode.steps), episode.ended, verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def store_of(run: Path) -> EpisodeStore:
    """The store of a run directory, or in the folder itself. Raises `ConfigError` if there is none."""
    for folder in (run / "episodes", run):
        if any(folder.glob("*.mcap")):
            return EpisodeStore(folder)
    raise ConfigError(f"{run} holds no episodes: give a run directory, or a folder of episodes such as RUN/demos")


def meant(config: Config, found: Mapping[tuple[str, int], Episode]) -> Episode:
    """The episode that is meant. Raises `ConfigError` naming the nearest one."""
    actors = sorted({owner for owner, _ in found})
    if config.episode is None or (config.actor is None and len(actors) > 1):
        raise ConfigError(
            f"a verdict needs --episode, of several actors --actor too: serl label {config.run} lists them"
        )
    actor = config.actor or actors[0]
    numbers = [number for owner, number in found if owner == actor]
    if not numbers:
        raise ConfigError(f'unknown actor "{actor}"{nearest(actor, actors)}')
    if config.episode not in numbers:
        other = min(numbers, key=lambda number: abs(number - (config.episode or 0)))
        raise ConfigError(f"{actor} has no episode {config.episode}; the nearest is {other}")
    return found[actor, config.episode]


def label_of(config: Config, episode: Episode, wall_time: float) -> Label:
    """The verdict to add. Raises `ConfigError` for a step that is not there, or means nothing."""
    verdict, step = config.verdict or "pending", -1
    where = f"episode {episode.number} of {episode.actor}"
    if not episode.steps:
        raise ConfigError(f"{where} has no step yet: there is nothing to judge")
    if verdict == "success":
        step = episode.steps - 1 if config.step is None else config.step
        if not 0 <= step < episode.steps:
            raise ConfigError(f"{where} has steps 0 to {episode.steps - 1}, none {step}")
    elif config.step is not None:
        raise ConfigError(f"--step says when a success came; a {verdict} has none")
    return Label(episode.actor, episode.number, verdict, "person", config.who, wall_time, step)


def main(config: Config) -> int:
    """List, or add a verdict and show what counts from now on."""
    store = store_of(config.run)
    found = episodes(store.records(as_recorded=True))
    if config.verdict is None:
        listed = [episode for episode in found.values() if config.actor in (None, episode.actor)]
        print(table(listed, store.labels.newest()))
        return 0
    episode = meant(config, found)
    store.labels.add(label_of(config, episode, time.time()))
    print(table([episode], store.labels.newest()))
    return 0
