"""What every record must satisfy before it enters replay; each error names the field, the episode and the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final, get_args

import numpy as np
import numpy.typing as npt

from serl_core.types import EpisodeStart, Obs, Source, Step, Who


class Misfit(ValueError):
    """A record of another task or other cameras: its entries, their shapes or their dtypes are not those expected."""


@dataclass
class Running:
    """Where the episode of one actor stands: the slot of its newest frame, its last step, and the next one expected."""

    number: int
    source: Source
    slot: int
    step: int = 0
    done: bool = False
    last: Step | None = None


@final
class Invariants:
    """Shapes and dtypes of ``example_obs`` and of an action (``action_dim``,) float32; finite, in range, in order."""

    def __init__(self, example_obs: Obs, action_dim: int) -> None:
        self._action_dim = action_dim
        self._layout = {name: (x.shape, x.dtype) for name, x in example_obs.items()}

    def check_start(self, start: EpisodeStart, known: Running | None) -> None:
        """Raises ValueError unless ``start`` may follow the episode ``known`` of the same actor."""
        where = f"start of episode {start.episode} of {start.actor}"
        self._check_obs(start.obs, where)
        if start.source not in ("demo", "online"):
            raise ValueError(f'{where}: source {start.source!r} is neither "demo" nor "online"')
        if known is not None and start.episode <= known.number:
            raise ValueError(f"{where}: episode {known.number} came before; numbers must count up")

    def check_step(self, step: Step, episode: Running | None) -> Running:
        """The running episode that ``step`` goes on with. Raises ValueError if it does not fit."""
        where = f"step {step.step} of episode {step.episode} of {step.actor}"
        if episode is None or episode.number != step.episode:
            raise ValueError(f"{where}: no start of this episode came before it")
        if episode.done:
            raise ValueError(f"{where}: the episode has already ended")
        if step.step != episode.step:
            raise ValueError(f"{where}: step {episode.step} must come next")
        self._check_obs(step.next_obs, where)
        self._check_action(step.action, where)
        if not (np.isfinite(step.reward) and np.isfinite(step.grasp_penalty) and step.grasp_penalty <= 0):
            raise ValueError(f"{where}: reward {step.reward} must be finite, grasp_penalty {step.grasp_penalty} ≤ 0")
        if step.who not in get_args(Who):
            raise ValueError(f"{where}: who {step.who!r} is none of {', '.join(get_args(Who))}")
        return episode

    def _check_obs(self, obs: Obs, where: str) -> None:
        if set(obs) != set(self._layout):
            raise Misfit(f"{where}: observation has {sorted(obs)} instead of {sorted(self._layout)}")
        for name, (shape, dtype) in self._layout.items():
            if obs[name].shape != shape or obs[name].dtype != dtype:
                found = f"{obs[name].dtype}{obs[name].shape}"
                raise Misfit(f'{where}: "{name}" is {found} instead of {dtype}{shape}')
            if dtype.kind == "f" and not np.isfinite(obs[name]).all():
                raise ValueError(f'{where}: "{name}" is not finite')

    def _check_action(self, action: npt.NDArray[np.float32], where: str) -> None:
        if action.shape != (self._action_dim,) or action.dtype != np.float32:
            raise Misfit(f"{where}: action is {action.dtype}{action.shape}, not float32({self._action_dim},)")
        if not (np.abs(action) <= 1 + 1e-6).all():
            raise ValueError(f"{where}: action {action} is not finite or leaves [-1, 1]")
