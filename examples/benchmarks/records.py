"""Made-up records, for benchmarks and tests of what carries and keeps them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serl_core.types import Obs, Step

DISTINCT = 64  # observations, so that no cache of a processor holds them all
ZEROS = np.zeros(7, np.float32)


def pictures(side: int = 128, cameras: tuple[str, ...] = ("front", "wrist")) -> list[Obs]:
    """Observations (state (20,) float32, frames (side, side, 3) uint8) of noise: the hardest to store."""
    rng = np.random.default_rng(0)
    return [
        {
            "state": rng.normal(size=20).astype(np.float32),
            **{name: rng.integers(0, 256, (side, side, 3), np.uint8) for name in cameras},
        }
        for _ in range(DISTINCT)
    ]


def step(
    actor: str,
    number: int,
    obs: Obs,
    episode: int = 0,
    last: bool = False,
    version: int = 0,
    action: npt.NDArray[np.float32] = ZEROS,
) -> Step:
    """A transition that says its number."""
    return Step(
        actor=actor,
        episode=episode,
        step=number,
        action=action,
        proposal=np.zeros_like(action),
        target=np.zeros(7),
        bent=False,
        next_obs=obs,
        reward=0.0,
        grasp_penalty=0.0,
        terminated=False,
        truncated=last,
        success=False,
        who="policy",
        takeover=-1,
        policy_version=version,
        time=0.1 * number,
    )
