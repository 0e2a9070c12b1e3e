"""A learner follows verdicts: what is said of an episode beside its recording reaches replay, whoever said it."""

from __future__ import annotations

from typing import final

from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import LabelLayer
from serl_core.data.replay import Replay


@final
class Following:
    """Hands ``replay`` the verdicts on the episodes of the stores that it watches, each once and in their order."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._layers: list[LabelLayer] = []

    def watch(self, store: EpisodeStore) -> None:
        """From now on; those that are there already come with the next `follow`."""
        self._layers.append(store.labels)

    def follow(self) -> None:
        """What was said since the last call."""
        for layer in self._layers:
            for label in layer.news():
                self._replay.relabel(label)
