"""What a policy sees of the last frames of an episode, beside the newest."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import numpy.typing as npt

Obs = Mapping[str, npt.NDArray[Any]]


@final
class History:
    """Puts the features of the last ``length`` frames of each camera together: (C, S) each → (length · C, S).

    The oldest come first. Before an episode is so long its first frame stands for those before it, as when learning
    (`serl_core.data.sampling`). To be called once per step.
    """

    def __init__(self, cameras: tuple[str, ...], length: int) -> None:
        self._cameras = cameras
        self._kept: deque[dict[str, npt.NDArray[Any]]] = deque(maxlen=length)

    def begin(self) -> None:
        """An episode begins: what was seen in the last one is no longer true."""
        self._kept.clear()

    def __call__(self, obs: Obs) -> dict[str, npt.NDArray[Any]]:
        """The observation with stacked features."""
        newest = {name: obs[name] for name in self._cameras}
        missing = 1 if self._kept else self._kept.maxlen or 1
        self._kept.extend([newest] * missing)
        return {**obs, **{name: np.concatenate([kept[name] for kept in self._kept]) for name in self._cameras}}
