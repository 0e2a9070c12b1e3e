"""Classifiers as files: one .npz without pickle, whole at every moment, that says by itself what it is for."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import traverse_util

from serl_core.agents.calibration import softmax
from serl_core.agents.classifier import ClassifierConfig, Head, frame_logits
from serl_core.config import ConfigError
from serl_core.envs.scored import Belief
from serl_core.nets.containers import read_npz
from serl_core.nets.encoders import Params

FORMAT = 2
ABOUT = "about"  # the member of the .npz that holds everything but the heads, JSON as uint8


@dataclass(frozen=True)
class Classifier:
    """A trained classifier. ``prior`` and ``temperature`` as in `serl_core.judging.crossfit.Trained`.

    ``trunk`` is (name, digest) of the frozen trunk whose features it reads; ``beliefs`` says when each class is
    believed, ``report`` what was measured in training.
    """

    task: str
    cameras: tuple[str, ...]
    classes: tuple[str, ...]
    success: str  # the class that is a success
    ruin: tuple[str, ...]  # classes that end an episode as a failure
    trunk: tuple[str, str]
    network: ClassifierConfig
    members: tuple[Params, ...]
    prior: tuple[float, ...]
    temperature: float
    beliefs: Mapping[str, Belief]
    report: Mapping[str, Any]
    version: str = ""  # of the file it was read from: the beginning of its SHA-256

    @property
    def head(self) -> Head:
        """The network of every member."""
        return Head(self.network, self.cameras, len(self.classes))

    def probabilities(self, features: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
        """Of each class, from one frame's features (channels, positions) by camera."""
        values = frame_logits(self.head, self.members, features) + np.array(self.prior)
        return dict(zip(self.classes, softmax(values, self.temperature).tolist(), strict=True))

    def save(self, path: Path) -> None:
        """Write the file, in place of an older one if there is one: who reads it finds either, never a part."""
        arrays: dict[str, Any] = {
            f"{n}/{name}": leaf for n, member in enumerate(self.members) for name, leaf in _flat(member).items()
        }
        blob = io.BytesIO()
        arrays[ABOUT] = np.frombuffer(json.dumps(self._about()).encode(), np.uint8)
        np.savez(blob, **arrays)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        with beside.open("wb") as file:
            file.write(blob.getvalue())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)

    def _about(self) -> dict[str, Any]:
        tree = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("members", "version")}
        beliefs = {name: asdict(belief) for name, belief in self.beliefs.items()}
        return {**tree, "format": FORMAT, "network": asdict(self.network), "beliefs": beliefs}


def load_classifier(path: Path) -> Classifier:
    """The classifier of a file. Raises `ConfigError` saying what is wrong with it."""
    try:
        data = path.read_bytes()
        arrays = read_npz(data)
        about = json.loads(arrays.pop(ABOUT).tobytes())
        return _classifier(about, arrays, hashlib.sha256(data).hexdigest()[:8])
    except OSError as error:
        raise ConfigError(f"no classifier at {path} ({error.strerror}): train one (serl classifier train)") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is no classifier of this version ({error!s:.120}): train it again") from error


def _classifier(about: dict[str, Any], arrays: dict[str, npt.NDArray[Any]], version: str) -> Classifier:
    beliefs = _beliefs(about)
    network: dict[str, Any] = _tuples(about.pop("network"))
    groups: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for name, array in arrays.items():
        member, _, rest = name.partition("/")
        groups.setdefault(member, {})[rest] = array
    made = Classifier(
        **_tuples(about),
        network=ClassifierConfig(**network),
        beliefs=beliefs,
        members=tuple(_nested(groups[name]) for name in sorted(groups, key=int)),
        version=version,
    )
    if not made.members or not {made.success, *made.ruin} <= {*made.classes} or len(made.prior) != len(made.classes):
        raise ValueError("it has no heads, or classes that do not fit them")
    if not {made.success} <= {*made.beliefs} <= {*made.classes}:
        raise ValueError("it has no threshold for its success, or one for a class that it has not")
    return made


def _beliefs(about: dict[str, Any]) -> dict[str, Belief]:
    """By class. A file of format 1 has one threshold, chosen for the success: of another class it knows none."""
    found = about.pop("format")
    if found == 1:
        return {about["success"]: Belief(**about.pop("belief"))}
    if found != FORMAT:
        raise ValueError("another format")
    return {name: Belief(**belief) for name, belief in about.pop("beliefs").items()}


def _tuples(tree: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()}


def _flat(params: Params) -> dict[str, npt.NDArray[Any]]:
    return {name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(dict(params), sep="/").items()}


def _nested(flat: Mapping[str, npt.NDArray[Any]]) -> Params:
    return traverse_util.unflatten_dict({name: jnp.array(leaf) for name, leaf in flat.items()}, sep="/")
