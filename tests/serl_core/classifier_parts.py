"""Small recorded episodes whose pictures show success as a bright square; shared by the tests of classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from serl_core.agents.classifier import ClassifierConfig
from serl_core.classifier import Config
from serl_core.data.episodes import EpisodeStore
from serl_core.judging.crossfit import Training
from serl_core.types import EpisodeStart, Source, Step

QUICK = ClassifierConfig(
    blocks=2, width=8, hidden=(8,), batch=16, updates=160, per_call=20, dropout=0.0, learning_rate=3e-3
)
CAMERAS = ("front", "wrist")  # of pick_cube


def picture(success: bool, rng: np.random.Generator, size: int = 128) -> np.ndarray:
    """(size, size, 3) uint8: noise, and where it succeeded a bright square."""
    image = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
    if success:
        image[40:90, 40:90] = 250
    return image


def observe(success: bool, rng: np.random.Generator, cameras: tuple[str, ...] = CAMERAS, size: int = 128):
    return {"state": np.zeros(3, np.float32), **{name: picture(success, rng, size) for name in cameras}}


def step(actor: str, episode: int, number: int, obs: dict[str, Any], **changes: Any) -> Step:
    """A step of no interest but for its pictures, and for ``changes``."""
    plain: dict[str, Any] = {
        "action": np.zeros(3, np.float32),
        "proposal": np.zeros(3, np.float32),
        "target": np.zeros(7),
        "bent": False,
        "reward": float(changes.get("success", False)),
        "grasp_penalty": 0.0,
        "terminated": False,
        "truncated": False,
        "success": False,
        "who": "policy",
        "takeover": -1,
        "policy_version": 0,
        "time": float(number),
    }
    return Step(actor=actor, episode=episode, step=number, next_obs=obs, **{**plain, **changes})


def write_episode(
    store: EpisodeStore,
    episode: int,
    shown: list[bool],
    *,
    actor: str = "demo",
    source: Source = "demo",
    meta: dict[str, Any] | None = None,
    claimed: list[bool] | None = None,
    cameras: tuple[str, ...] = CAMERAS,
    size: int = 128,
    ago: int = 0,
) -> None:
    """One episode whose step i shows success or not; ``claimed`` is what was recorded of it, by default the same."""
    rng = np.random.default_rng([episode, len(shown)])
    about = {"task": "pick_cube", **(meta or {})}
    store.append(EpisodeStart(actor, episode, observe(False, rng, cameras, size), source, about))
    for number, success in enumerate(shown):
        last = number == len(shown) - 1
        said = (claimed or shown)[number]
        obs = observe(success, rng, cameras, size)
        ends = {"terminated": last and said, "truncated": last and not said, "ago": ago if said else 0}
        store.append(step(actor, episode, number, obs, success=said, **ends))


def write_store(folder: Path, good: int = 3, bad: int = 3, **changes: Any) -> Path:
    """Episodes that succeed in the last of three steps, and others that never do."""
    with EpisodeStore(folder) as store:
        for episode in range(good + bad):
            write_episode(store, episode, [False, False, episode < good], **changes)
    return folder


def config(action: Any, data: Path | str, file: Path, **changes: Any) -> Config:
    """A quick training of a small classifier."""
    training = Training(folds=2, network=QUICK, k=1, n=1)
    return Config(action, (str(data),), file, **{"training": training, "views": 1, **changes})
