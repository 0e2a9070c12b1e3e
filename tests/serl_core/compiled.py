"""An agent whose updates are compiled, as the engine does it, for tests that bring their own minibatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


class Compiled:
    """``agent`` with `update` and `update_critic` compiled and donated; everything else is the agent's."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self.traces = 0
        self.update = jax.jit(self._counted(agent.update), donate_argnums=0)
        self.update_critic = jax.jit(self._counted(getattr(agent, "update_critic", agent.update)), donate_argnums=0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(state: Any, batches: Any) -> Any:
            self.traces += 1
            return function(state, batches)

        return run
