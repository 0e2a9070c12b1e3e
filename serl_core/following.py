"""A learner follows verdicts: what is said of an episode beside its recording reaches replay, whoever said it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import final

from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import Label, LabelLayer
from serl_core.data.replay import Replay
from serl_core.types import SILENCE

log = logging.getLogger(__name__)

PATIENCE = (
    600.0  # s until a question that nobody answers is given up; an actor that lives does so with its next episode
)


@final
class Following:
    """Hands ``replay`` the verdicts on the episodes of the stores that it watches, each once and in their order.

    A question to a person whose actor was killed is answered by nobody: after `PATIENCE` it is taken for silence, and
    the store has that verdict too. One that comes later still replaces it. What a person themselves called "pending"
    (``serl label``, ``serl record``) stays so. ``now`` is monotonic, ``wall`` since 1970, s.
    """

    def __init__(
        self, replay: Replay, now: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._replay = replay
        self._now = now
        self._wall = wall
        self._layers: list[LabelLayer] = []
        self._open: dict[tuple[str, int], tuple[LabelLayer, float]] = {}  # questions, and until when they are

    def watch(self, store: EpisodeStore) -> None:
        """From now on; those that are there already come with the next `follow`."""
        self._layers.append(store.labels)

    def follow(self) -> None:
        """What was said since the last call. Raises `StoreError` if what silence means cannot be written."""
        for layer in self._layers:
            for label in layer.news():
                self._replay.relabel(label)
                self._note(label, layer)
        for episode, (layer, until) in self._open.items():
            if self._now() >= until:
                self._give_up(*episode, layer)

    def _note(self, label: Label, layer: LabelLayer) -> None:
        self._open.pop((label.actor, label.episode), None)
        if label.verdict == "pending" and label.who == SILENCE:
            self._open[label.actor, label.episode] = layer, self._now() + PATIENCE

    def _give_up(self, actor: str, episode: int, layer: LabelLayer) -> None:
        """The next news end the question."""
        log.warning("episode %d of %s: no verdict in %.0f s; it stays as recorded", episode, actor, PATIENCE)
        layer.add(Label(actor, episode, "failure", "person", SILENCE, self._wall()))
