"""The learner's hot path on its own: agent, replay full of made-up frames, engine; and what to time of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from serl_core.agents.policy import params_to_tree
from serl_core.agents.sac import SAC, SACConfig, make_policy
from serl_core.data.replay import Replay, as_frames
from serl_core.data.sampling import Sampling, sample
from serl_core.engine import Engine
from serl_core.nets.frames import view_encoder
from serl_core.nets.once import EncodedOnce
from serl_core.nets.projection import Projection
from serl_core.nets.sight import Sight, as_stored, through
from serl_core.nets.trunks import FrozenTrunk, load_named
from serl_core.policies import VIEWS
from serl_core.types import EpisodeStart, Obs, Step

Mode = Literal["cached", "exact", "state"]
FRAME, STATE, ACTION, EPISODE = (128, 128, 3), 20, 7, 100
CEILING = 2048  # rows and columns of the matrices whose product is the ceiling


@dataclass(frozen=True)
class Bench:
    """What is timed: networks and data of one kind. Nothing is trained for real, so that frames may be made up."""

    mode: Mode
    agent_config: SACConfig
    cameras: int
    trunk_name: str
    trunk_weights: Path | None
    channels: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the cameras."""
        return tuple(f"camera{number}" for number in range(self.cameras)) if self.mode != "state" else ()

    @cached_property
    def trunk(self) -> FrozenTrunk:
        """With its weights, or untrained: they take as long."""
        from_file = self.trunk_weights is not None or self.trunk_name == "small"
        trunk = load_named(self.trunk_name, self.trunk_weights) if from_file else load_named(self.trunk_name, seed=0)
        width = trunk.features[0]
        if not 0 < self.channels < width:
            return trunk
        return trunk.projected(Projection(jnp.zeros(width), jnp.eye(width, self.channels)))

    @cached_property
    def raw(self) -> dict[str, npt.NDArray[Any]]:
        """One observation as a robot gives it."""
        frames = {name: np.zeros(FRAME, np.uint8) for name in self.names}
        return {"state": np.zeros(STATE, np.float32), **frames}

    @cached_property
    def example(self) -> dict[str, npt.NDArray[Any]]:
        """The same as the networks see it."""
        features = {name: np.zeros(self.trunk.features, np.float16) for name in self.names}
        return {"state": self.raw["state"], **features}

    @cached_property
    def agent(self) -> SAC:
        """The learner's agent."""
        return SAC(self.agent_config, self.example, ACTION)

    @property
    def sight(self) -> Sight:
        """As the learner's."""
        if self.mode != "exact":
            return as_stored()
        return through(self.trunk, self.names, jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)

    def encoder(self) -> Callable[[Obs], Mapping[str, npt.NDArray[Any]]]:
        """What a frame costs that enters replay."""
        cached = self.mode == "cached"
        return view_encoder(self.trunk, self.names, VIEWS, np.random.default_rng(0)) if cached else as_frames

    def stored_bytes(self, transitions: int) -> int:
        """Of replay's frames."""
        features, pixels = int(np.prod(self.trunk.features)) * 2 * VIEWS, int(np.prod(FRAME))
        each = {"cached": features, "exact": pixels, "state": 0}[self.mode]
        return frames_of(transitions) * (len(self.names) * each + 4 * STATE)

    def replay(self, transitions: int) -> Replay:
        """Filled with so many transitions, no two frames alike; every page of it has been touched."""
        replay = Replay(
            frames_of(transitions), self.raw, ACTION, self._made_up(), VIEWS if self.mode == "cached" else 1
        )
        action = np.zeros(ACTION, np.float32)
        for number in range(transitions):
            episode, index = divmod(number, EPISODE)
            last = index == EPISODE - 1
            if index == 0:
                replay.insert(EpisodeStart("bench", episode, self.raw, "demo" if episode % 10 == 0 else "online"))
            replay.insert(
                Step("bench", episode, index, action, action, np.zeros(7), False, self.raw, float(last), 0.0, last,
                     False, last, "policy", -1, 0, 0.0)
            )  # fmt: skip
        return replay

    def engine(self, replay: Replay) -> Engine:
        """The learner's."""
        config = self.agent_config
        spec = Sampling(config.discount, config.batch, n_step=config.n_step)
        return Engine(self.agent, replay, spec, config.utd, self.sight)

    def fresh_state(self) -> Any:
        """Before any training."""
        return self.agent.init(jax.random.key(0))

    def _made_up(self) -> Callable[[Obs], Mapping[str, npt.NDArray[Any]]]:
        """An encoder that takes a different piece of one random block every time, in no time."""
        shape, dtype = ((VIEWS, *self.trunk.features), np.float16) if self.mode == "cached" else ((1, *FRAME), np.uint8)
        size = int(np.prod(shape))
        block = np.random.default_rng(0).integers(0, 2, 2 * size).astype(dtype)
        count = iter(range(1 << 40))

        def encode(obs: Obs) -> dict[str, npt.NDArray[Any]]:
            pieces = {name: block[(at := next(count) * 7 % size) : at + size].reshape(shape) for name in self.names}
            return {"state": obs["state"], **pieces}

        return encode

    def critic_flops(self) -> float:
        """Of one critic update, as XLA counts them before it optimises."""
        config, sight = self.agent_config, self.sight
        raw = {name: np.zeros((config.batch, *x.shape), x.dtype) for name, x in self.raw.items()}
        seen = {name: np.zeros((config.batch, *x.shape), x.dtype) for name, x in self.example.items()}
        obs = raw if self.mode == "exact" else seen
        facts = {name: np.zeros(config.batch, np.float32) for name in ("reward", "grasp_penalty", "discount")}
        action, human = np.zeros((config.batch, ACTION), np.float32), np.zeros(config.batch, bool)
        batch = {"obs": obs, "next_obs": obs, "action": action, "human": human, **facts}
        batches = jax.tree.map(lambda x: x[None], batch)

        def once(state: Any, params: Any, batches: Any) -> Any:
            return self.agent.update_critic(state, batches, partial(sight.see, params))

        lowered = jax.jit(once).lower(self.fresh_state(), sight.params, batches)
        counted: Any = lowered.cost_analysis()
        return float(counted["flops"])


def frames_of(transitions: int) -> int:
    """How many frames these many transitions have."""
    return transitions + -(-transitions // EPISODE)


def clocked(work: Callable[[], Any]) -> float:
    """Seconds until the device is done with it."""
    begun = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - begun


def median_ms(work: Callable[[], Any], repeats: int) -> float:
    """Median of some runs, after two that do not count."""
    times = [clocked(work) for _ in range(repeats + 2)][2:]
    return 1000 * float(np.median(times))


def ceiling(dtype: Any, repeats: int = 8) -> float:
    """FLOP/s of a large matrix product: the most that anything here can reach."""
    a = jnp.ones((CEILING, CEILING), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    fastest = min(clocked(lambda: product(a)) for _ in range(repeats + 1))
    return 2 * CEILING**3 / fastest


def stages(bench: Bench, replay: Replay, engine: Engine, state: Any, repeats: int) -> dict[str, float]:
    """Parts of the work, ms each: what a frame costs that comes in, drawing a batch, copying a policy to publish."""
    spec = engine.spec
    draw = jax.jit(partial(sample, spec=spec, updates=1))
    encode, key = bench.encoder(), jax.random.PRNGKey(0)
    frame = iter(range(1 << 30))

    def enter() -> None:
        replay.insert(EpisodeStart(f"bench{next(frame)}", 0, bench.raw))
        jax.block_until_ready(replay.table())

    return {
        "encode_ms": median_ms(lambda: encode(bench.raw), repeats),
        "insert_ms": median_ms(enter, repeats),
        "sample_ms": median_ms(lambda: draw(replay.table(), key), repeats),
        "publish_ms": median_ms(lambda: params_to_tree(bench.agent.policy(state)), repeats),
    }


def acting(bench: Bench, seconds: float, hz: float = 10.0) -> list[float]:
    """Milliseconds of each action at a fixed rate: frames through the trunk, then the policy."""
    act = make_policy(bench.agent_config, bench.example, ACTION)
    encode = EncodedOnce().encoder(bench.trunk, bench.names) if bench.names else dict
    params, key = bench.agent.policy(bench.fresh_state()), jax.random.key(0)
    took: list[float] = []
    begun = time.monotonic()
    for number in range(round(seconds * hz) + 3):
        obs = {name: np.array(x) for name, x in bench.raw.items()}  # other frames: nothing is remembered
        clock = time.perf_counter()
        act(params, encode(obs), key, True)
        took.append(1000 * (time.perf_counter() - clock))
        if number == 2:
            begun = time.monotonic()  # compiled
        time.sleep(max(0.0, begun + (number - 2) / hz - time.monotonic()) if number > 2 else 0.0)
    return took[3:]
