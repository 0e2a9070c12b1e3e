"""A run directory belongs to one run: what it was begun as is kept, and asked before it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from serl_core.config import ConfigError
from serl_core.summary import read_json

OF_A_RUN = (  # what must be the same after a resume
    *("task", "obs", "seed", "preset", "utd", "trunk", "vision", "channels", "stack", "lockstep"),
    *("method", "takeover_penalty", "takeover_penalty_steps", "demo_age", "imitation", "rlif_expert"),
)


class Claimed(Protocol):
    """The learner's configuration, of which `OF_A_RUN` are fields."""

    @property
    def run_dir(self) -> Path: ...
    @property
    def resume(self) -> bool: ...


def check_claim(config: Claimed) -> dict[str, Any]:
    """What ``config.json`` shall say. Raises ConfigError if there is another run, or one that is not resumed."""
    path = config.run_dir / "config.json"
    mine = {name: getattr(config, name) for name in OF_A_RUN}
    if path.exists():
        saved = read_json(path)
        if not config.resume:
            raise ConfigError(f"{config.run_dir} holds a run: go on with --resume, or choose another --run-dir")
        for name, value in mine.items():
            if saved.get(name) != value:
                raise ConfigError(f"{config.run_dir} was begun with {name} {saved.get(name)}, not {value}")
    return mine
