"""What JAX compiles: agents for tests that bring their own minibatches, and what to ask of compiled code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.monitoring

COMPILED = "/jax/core/compile/backend_compile_duration"


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Names of all functions that JAX compiles meanwhile, whoever asks for them; filled as they come."""
    found: list[str] = []

    def hear(event: str, duration_secs: float, **about: Any) -> None:
        if event == COMPILED:
            found.append(str(about.get("fun_name", "?")))

    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)


def types_of(shape: Sequence[int], lowered: Any) -> set[str]:
    """Of all arrays of this shape in a lowered function's compiled code: their types as XLA calls them, like "u16"."""
    wanted = ",".join(map(str, shape))
    return set(re.findall(rf"(\w+)\[{wanted}\]", lowered.compile().as_text()))


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
