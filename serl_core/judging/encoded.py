"""Recorded frames as features of the frozen trunk, encoded once and kept in files that may be thrown away."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serl_core.config import ConfigError
from serl_core.judging.labelled import VOID, By, Recorded
from serl_core.nets.encoders import FRAME
from serl_core.nets.frames import crops
from serl_core.nets.trunks import FrozenTrunk
from serl_core.progress import Progress

AT_ONCE = 32  # pictures in one pass of the trunk: one shape, compiled once
Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Place:
    """Where a frame comes from; ``step`` is the step that led to it, −1 for an episode's first.

    ``by`` is what says of which class it is.
    """

    folder: Path
    actor: str
    episode: int
    step: int
    by: By = "verdict"


@dataclass(frozen=True)
class Examples:
    """All frames that have a class.

    ``features`` by camera: (N, views, channels, positions) float16, the first view unshifted; ``labels`` (N,)
    int64; ``owner`` (N,) int64, the number of the episode; ``trusted`` (N,) bool, see `Recorded`; ``places`` N.
    """

    features: dict[str, Halves]
    labels: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int64]
    trusted: npt.NDArray[np.bool_]
    places: tuple[Place, ...]


class FeatureFiles:
    """Features of one trunk and a number of views, one file per episode in ``folder``; None keeps nothing.

    ``seed`` draws the shifted views: the same ones whenever an episode is encoded anew.
    """

    def __init__(
        self, folder: Path | None, trunk: FrozenTrunk, cameras: tuple[str, ...], views: int, seed: int
    ) -> None:
        self.encoded = self.found = 0  # frames
        self._folder = folder
        self._trunk, self._cameras, self._views, self._seed = trunk, cameras, views, seed

    def features(self, episode: Recorded) -> Halves:
        """(T, cameras, views, channels, positions) of all its frames, from its file if that is complete."""
        shape = (len(episode.frames), len(self._cameras), self._views, *self._trunk.features)
        path = self._path(episode)
        known = _load(path, shape) if path else None
        if known is not None:
            self.found += shape[0]
            return known
        values = self._encode(episode).reshape(shape)
        self.encoded += shape[0]
        if path:
            _save(path, values)
        return values

    def _path(self, episode: Recorded) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(f"{self._trunk.digest} {self._cameras} {self._views} {self._seed}".encode())
        for obs in episode.frames:  # what they show, not where they are: another recording may lie there by now
            for camera in self._cameras:
                name.update(np.ascontiguousarray(obs[camera]).data)
        return self._folder / f"{name.hexdigest()[:32]}.npy"

    def _encode(self, episode: Recorded) -> Halves:
        rng = np.random.default_rng([self._seed, episode.episode])
        shifted = [
            crop for obs in episode.frames for name in self._cameras for crop in crops(obs[name], self._views, rng)
        ]
        parts = []
        for begin in range(0, len(shifted), AT_ONCE):
            some = np.stack(shifted[begin : begin + AT_ONCE])
            parts.append(self._trunk(np.resize(some, (AT_ONCE, *FRAME)))[: len(some)])
        return np.concatenate(parts)


def _load(path: Path, shape: tuple[int, ...]) -> Halves | None:
    """None unless it is there, whole and of that shape."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return values if values.shape == shape and values.dtype == np.float16 else None


def _save(path: Path, values: Halves) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    with beside.open("wb") as file:
        np.save(file, values)
    beside.replace(path)


def gather(episodes: Iterable[Recorded], files: FeatureFiles, cameras: tuple[str, ...], bar: Progress) -> Examples:
    """All frames of the episodes that have a class. Raises `ConfigError` for pictures that do not fit, or for none."""
    features, labels, owners, trusted, places = [], [], [], [], []
    for number, episode in enumerate(episodes):
        check_frames(episode, cameras)
        used = np.flatnonzero(episode.labels != VOID)
        features.append(files.features(episode)[used])
        labels.append(episode.labels[used])
        trusted.append(episode.trusted[used])
        owners.append(np.full(len(used), number, np.int64))
        places += [Place(episode.folder, episode.actor, episode.episode, int(frame) - 1, episode.by) for frame in used]
        bar.advance(note=f"{len(places)} frames")
    if not places:
        raise ConfigError("no frame has a class: every episode given awaits its verdict, or was discarded")
    together = np.concatenate(features)
    by_camera = {name: np.ascontiguousarray(together[:, index]) for index, name in enumerate(cameras)}
    return Examples(by_camera, np.concatenate(labels), np.concatenate(owners), np.concatenate(trusted), tuple(places))


def check_frames(episode: Recorded, cameras: Sequence[str]) -> None:
    """Raise `ConfigError` unless every frame shows these cameras, in the size that the trunk takes."""
    seen = sorted(name for name in episode.frames[0] if name != "state")
    missing = [name for name in cameras if name not in seen]
    if not seen:
        raise ConfigError(f"{episode.where} has no pictures: record it again with --obs pixels, or leave it out")
    if missing:
        raise ConfigError(
            f"{episode.where} was recorded from {', '.join(seen)}, the classifier needs {', '.join(missing)}: leave it "
            "out, or choose --cameras that all episodes have"
        )
    for obs in episode.frames:
        for name in cameras:
            if obs[name].shape != FRAME or obs[name].dtype != np.uint8:
                size = "×".join(map(str, obs[name].shape))
                raise ConfigError(
                    f"{episode.where}: camera {name} has pictures of {size}, others are "
                    f"{'×'.join(map(str, FRAME))}: leave it out, or record it again with the task's camera settings"
                )
