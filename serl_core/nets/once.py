"""Each frame goes through a frozen trunk once, however many read its features: policy, classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from serl_core.nets.trunks import FrozenTrunk

Obs = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class _Newest:
    """The frames of one observation and what the trunk's module makes of them, (cameras, rows, columns, channels).

    Keeps the frames alive, so that none takes their place.
    """

    frames: dict[str, npt.NDArray[Any]]
    seen: Any


@final
class EncodedOnce:
    """Remembers the newest observation's features of each trunk. A frame is known again by being the same array.

    All frames of an observation go through in one pass, also those that whoever asks first does not need: the shape
    of the pass never changes, so nothing is compiled within a control step. For one thread; frames must not be
    written over.
    """

    def __init__(self) -> None:
        self.passes = 0  # through any trunk
        self._newest: dict[str, _Newest] = {}  # by the trunk's weights

    def encoder(self, trunk: FrozenTrunk, cameras: tuple[str, ...]) -> Callable[[Obs], dict[str, npt.NDArray[Any]]]:
        """A function that replaces the frames of ``cameras`` in an observation by their features."""

        def encode(obs: Obs) -> dict[str, npt.NDArray[Any]]:
            known = self._newest.get(trunk.weights)
            if known is None or any(known.frames.get(name) is not obs[name] for name in cameras):
                known = self._newest[trunk.weights] = self._pass(trunk, obs)
            features = dict(zip(known.frames, trunk.finish(known.seen), strict=True))
            return {**obs, **{name: features[name] for name in cameras}}

        return encode

    def _pass(self, trunk: FrozenTrunk, obs: Obs) -> _Newest:
        frames = {name: value for name, value in sorted(obs.items()) if name != "state"}
        self.passes += 1
        return _Newest(frames, trunk.spec.apply(trunk.params, np.stack(list(frames.values()))))
