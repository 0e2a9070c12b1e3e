"""What becomes of a run's frames: features, projected by what demonstrations show, computed once and kept on disk.

And the replay that holds them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import numpy.typing as npt

from serl_core.blueprint import TRAINS, Blueprint
from serl_core.config import ConfigError
from serl_core.data.episodes import EpisodeStore
from serl_core.data.features import RememberedFeatures
from serl_core.data.memory import place_frames
from serl_core.data.refresh import Refresher
from serl_core.data.replay import Replay
from serl_core.data.routing import Routing
from serl_core.nets.frames import SHIFTS
from serl_core.nets.projection import Projection, fit_projection, load_projection, save_projection
from serl_core.tasks import load_task
from serl_core.types import EpisodeStart, Judgement, Obs

Frame = tuple[str, npt.NDArray[np.uint8]]  # where it is recorded, for people, and the frame
Encode = Callable[[Obs], Mapping[str, npt.NDArray[Any]]]
FITTED_ON = 1_000  # frames of demonstrations; with 16 positions each they say enough about a few hundred channels


class Wanted(Protocol):
    """What of the learner's configuration matters here."""

    @property
    def task(self) -> str: ...
    @property
    def capacity(self) -> int: ...
    @property
    def run_dir(self) -> Path: ...
    @property
    def demos(self) -> Path | None: ...
    @property
    def channels(self) -> int: ...


def with_projection(blueprint: Blueprint, config: Wanted) -> Blueprint:
    """The same with fewer channels, where the frozen trunk has more than wanted.

    Fitted once and kept in the run's folder. Raises ConfigError if there is nothing to fit on, or nothing that fits.
    """
    if not blueprint.cameras or blueprint.vision in TRAINS:
        return blueprint
    if not 0 < config.channels < blueprint.frozen_trunk.features[0]:
        return blueprint
    path, trunk = config.run_dir / "projection.npz", blueprint.frozen_trunk
    if not path.exists():
        save_projection(path, _fitted(blueprint, config), trunk.digest)
    try:
        shape = trunk.features[0], config.channels
        return replace(blueprint, projection=load_projection(path, trunk.digest, shape))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def replay_for(
    config: Wanted, blueprint: Blueprint, routing: Routing, encode: Encode, sharding: jax.sharding.Sharding | None
) -> Replay:
    """An empty one, its frames where they fit. Raises `StoreError` if they fit nowhere."""
    example = blueprint.raw_example()
    where, available = place_frames(config.capacity, encode(example), jax.local_devices())
    return Replay(
        config.capacity,
        example,
        load_task(config.task).action_dim,
        encode=encode,
        views=blueprint.views,
        where=where,
        sharding=sharding,
        available=available,
        routing=routing,
    )


def refresher(blueprint: Blueprint, replay: Replay, stores: Sequence[EpisodeStore], seed: int) -> Refresher | None:
    """What makes new views while there is nothing to learn; None where replay keeps no views, or all there are."""
    if not 1 < blueprint.views < SHIFTS:
        return None
    return Refresher(replay, blueprint.replay_encoder(np.random.default_rng([seed, 2])), stores)


def remembered(run_dir: Path, blueprint: Blueprint, seed: int) -> AbstractContextManager[Encode]:
    """What replay encodes frames with. Cached features lie in a file, and are there again after a restart."""
    encode = blueprint.replay_encoder(np.random.default_rng([seed, 1]))
    if not blueprint.cameras or blueprint.vision != "cached":
        return contextlib.nullcontext(encode)
    digest = blueprint.frozen_trunk.digest
    return RememberedFeatures(run_dir / "features", digest, encode, blueprint.raw_example())


def _fitted(blueprint: Blueprint, config: Wanted) -> Projection:
    trunk = blueprint.frozen_trunk
    folder = config.demos or config.run_dir / "demos"
    features = []
    for where, frame in _some(_demonstrated(folder, blueprint.cameras), FITTED_ON):
        try:
            features.append(np.asarray(trunk.spec.apply(trunk.params, frame[None])))
        except ValueError as error:
            raise ConfigError(f"{where}: {error}: record demonstrations with this task's cameras (--demos)") from error
    if not features:
        raise ConfigError(
            f"the {trunk.features[0]} channels of the trunk {blueprint.trunk} are projected to {config.channels} by "
            "what demonstrations show, and there are none: record some, or give --channels 0 to keep all"
        )
    try:
        projection, share = fit_projection(np.concatenate(features), config.channels)
    except ValueError as error:
        raise ConfigError(f"the features of {folder} cannot be projected: {error}") from error
    print(f"features projected to {config.channels} channels keep {share:.1%} of their variance", flush=True)
    return projection


def _some(frames: Iterable[Frame], most: int) -> list[Frame]:
    """At most so many, of all alike: the same ones in every run."""
    rng, kept = np.random.default_rng(0), list[Frame]()
    for number, frame in enumerate(frames):
        if len(kept) < most:
            kept.append(frame)
        elif (place := int(rng.integers(number + 1))) < most:
            kept[place] = frame
    return kept


def _demonstrated(folder: Path, cameras: tuple[str, ...]) -> Iterator[Frame]:
    """Every frame, and where it is recorded. Raises ConfigError for records without one of the ``cameras``."""
    if not folder.exists():
        return
    for stored in EpisodeStore(folder).stored():
        record = stored.record()
        if isinstance(record, Judgement):
            continue
        seen = record.obs if isinstance(record, EpisodeStart) else record.next_obs
        step = "start" if isinstance(record, EpisodeStart) else f"step {record.step}"
        where = f"{stored.file}: {step} of episode {record.episode} of {record.actor}"
        lacking = [name for name in cameras if name not in seen]
        if lacking:
            raise ConfigError(
                f"{where} shows {sorted(seen)}, without the camera {lacking[0]}: "
                "record demonstrations with this task's cameras (--demos)"
            )
        yield from ((f"{where}, camera {name}", seen[name]) for name in cameras)
