"""The learner's hot path on its own: agent, replay full of made-up frames, engine; and what to time of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, final

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import NamedSharding, PartitionSpec

from serl_core.agents.policy import params_to_tree
from serl_core.agents.sac import SAC, SACConfig
from serl_core.blueprint import VIEWS
from serl_core.data.memory import place_frames
from serl_core.data.replay import Replay, as_frames
from serl_core.data.sampling import Batch, Plan, Sampling, assemble, sample
from serl_core.engine import AXIS, Engine, data_parallel
from serl_core.nets.frames import view_encoder
from serl_core.nets.projection import Projection
from serl_core.nets.sight import Sight, as_stored, through
from serl_core.nets.trunks import FrozenTrunk, load_named
from serl_core.types import EpisodeStart, Obs, Record, Step

Mode = Literal["cached", "exact", "state"]
FRAME, STATE, ACTION, EPISODE = (128, 128, 3), 20, 7, 100
CHAIN = (
    4  # products or passes that are timed as one: a fast device would be measured by what a single one's start takes
)
SIZES = (1024, 2048, 4096, 8192)  # rows and columns of the matrices whose products are the ceiling
BETTER = 1.03  # a larger size is tried while the last one was faster by this factor
PASSED = 1 << 27  # float32 numbers of one pass over memory, 0.5 GB a device: more than any cache holds


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
        """With its weights, or untrained: they take as long. Raises WeightsError."""
        trunk = load_named(self.trunk_name, self.trunk_weights)
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
    def views(self) -> int:
        """Of each frame in replay."""
        return VIEWS if self.mode == "cached" else 1

    @property
    def sight(self) -> Sight:
        """As the learner's."""
        if self.mode != "exact":
            return as_stored()
        return through(self.trunk, self.names, jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)

    @property
    def sharding(self) -> NamedSharding | None:
        """As the learner's: over all devices that JAX sees."""
        return data_parallel(jax.local_devices(), self.agent_config.batch)

    def encoder(self) -> Callable[[Obs], Mapping[str, npt.NDArray[Any]]]:
        """What a frame costs that enters replay."""
        cached = self.mode == "cached"
        return view_encoder(self.trunk, self.names, VIEWS, np.random.default_rng(0)) if cached else as_frames

    def stored_bytes(self, transitions: int, cameras: int | None = None, channels: int | None = None) -> int:
        """Of replay's frames; with other ``cameras`` or ``channels`` than these, if given."""
        width, positions = self.trunk.features
        features, pixels = (channels or width) * positions * 2 * VIEWS, int(np.prod(FRAME))
        each = {"cached": features, "exact": pixels, "state": 0}[self.mode]
        return frames_of(transitions) * ((cameras or len(self.names)) * each + 4 * STATE)

    def engine(self, replay: Replay) -> Engine:
        """The learner's."""
        config = self.agent_config
        spec = Sampling(config.discount, config.batch, n_step=config.n_step)
        return Engine(self.agent, replay, spec, config.utd, self.sight, 0, self.sharding)

    def fresh_state(self) -> Any:
        """Before any training."""
        return self.agent.init(jax.random.key(0))

    def made_up(self) -> Callable[[Obs], Mapping[str, npt.NDArray[Any]]]:
        """An encoder that makes another observation every time, in next to no time.

        All of them are pieces of one random block; each state and each view of a frame is stamped with its number.
        """
        shape, dtype = (self.trunk.features, np.float16) if self.mode == "cached" else (FRAME, np.uint8)
        size, rng, numbers = self.views * int(np.prod(shape)), np.random.default_rng(0), count()
        block = rng.integers(0, 2, 2 * size).astype(dtype)
        state = rng.normal(size=(1, STATE)).astype(np.float32)

        def piece() -> npt.NDArray[Any]:
            number = next(numbers)
            at = number * 7 % size
            rows = block[at : at + size].reshape(self.views, -1).copy()
            return stamp(rows, number * self.views).reshape(self.views, *shape)

        def encode(obs: Obs) -> dict[str, npt.NDArray[Any]]:
            return {"state": stamp(state.copy(), next(numbers))[0], **{name: piece() for name in self.names}}

        return encode


@final
class Filled:
    """A replay with so many transitions, no two frames alike, every page of it touched; and more that can arrive.

    Its frames lie where the learner would keep them. Raises StoreError if they fit nowhere.
    """

    def __init__(self, bench: Bench, transitions: int) -> None:
        capacity, encode = frames_of(transitions), bench.made_up()
        where, available = place_frames(capacity, encode(bench.raw), jax.local_devices())
        self.replay = Replay(
            capacity, bench.raw, ACTION, encode, bench.views, where, bench.sharding, available=available
        )
        self._records = _records(bench.raw)
        for record in islice(self._records, capacity):
            self.replay.insert(record)

    def arrive(self) -> None:
        """The next record, in the place of the oldest."""
        self.replay.insert(next(self._records))
        jax.block_until_ready(self.replay.table())


def _records(obs: Obs) -> Iterator[Record]:
    """Episodes without end, every tenth a demonstration."""
    action = np.zeros(ACTION, np.float32)
    for episode in count():
        yield EpisodeStart("bench", episode, obs, "online" if episode % 10 else "demo")
        for index in range(EPISODE):
            last = index == EPISODE - 1
            yield Step(
                "bench", episode, index, action, action, np.zeros(7), False, obs, float(last), 0.0, last,
                False, last, "policy", -1, 0, 0.0,
            )  # fmt: skip


def frames_of(transitions: int) -> int:
    """How many frames these many transitions have."""
    return transitions + -(-transitions // EPISODE)


def stamp(rows: npt.NDArray[Any], first: int) -> npt.NDArray[Any]:
    """Rows (N, …) whose first entries now tell their number, counted from ``first``: exact in all dtypes used here."""
    base, digits, scale = (256, 4, 1) if rows.dtype == np.uint8 else (1024, 3, 1024)
    numbers = np.arange(first, first + len(rows))
    rows[:, :digits] = numbers[:, None] // base ** np.arange(digits) % base / scale
    return rows


# ── timing ──────────────────────────────────────────────────────────────────────────────────────


def clocked(work: Callable[[], Any]) -> float:
    """Seconds until the device is done with it."""
    begun = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - begun


def median_ms(work: Callable[[], Any], repeats: int) -> float:
    """Median of some runs, after two that do not count."""
    times = [clocked(work) for _ in range(repeats + 2)][2:]
    return 1000 * float(np.median(times))


def fastest(work: Callable[[], Any], seconds: float = 0.1) -> float:
    """Seconds of the fastest of at least three runs, and of as many as fit into ``seconds``."""
    times = [clocked(work) for _ in range(3)]
    while sum(times) < seconds:
        times.append(clocked(work))
    return min(times)


def ceiling(dtype: Any, sharding: NamedSharding | None = None, seconds: float = 1.5) -> float:
    """FLOP/s of large matrix products on all devices at once: the most that anything here can reach.

    Sizes grow while that helps, and while products of the next will not take longer than ``seconds``. float32 is
    multiplied with the precision that networks get by default: on recent NVIDIA devices that is TF32.
    """
    best = 0.0
    for size in SIZES:
        rate = product_rate(size, dtype, sharding)
        helped, best = rate > BETTER * best, max(rate, best)
        following = devices_of(sharding) * 3 * CHAIN * 2 * (2 * size) ** 3  # FLOP
        if not helped or following / rate > seconds:
            break
    return best


def product_rate(size: int, dtype: Any, sharding: NamedSharding | None = None) -> float:
    """FLOP/s of (size, size) products, `CHAIN` of them in one call; several devices do a product each."""
    rng = np.random.default_rng(0)  # zeros or ones would need less power, and so run faster than anything real
    matrix = rng.standard_normal((size, size), np.float32) / np.float32(np.sqrt(size))
    each = jax.device_put(np.tile(matrix, (devices_of(sharding), 1)), _divided(sharding)).astype(dtype)
    whole = jax.device_put(matrix, sharding).astype(dtype)
    products = jax.jit(_products).lower(each, whole).compile()
    return devices_of(sharding) * CHAIN * 2 * size**3 / fastest(lambda: products(each, whole))


def _products(each: jax.Array, whole: jax.Array) -> jax.Array:
    wide = jnp.float32 if jax.default_backend() == "cpu" else None  # otherwise XLA multiplies bfloat16 as float32 there
    for _ in range(CHAIN):
        each = jnp.matmul(each, whole, preferred_element_type=wide).astype(whole.dtype)
    return each


def copy_rate(sharding: NamedSharding | None = None) -> float:
    """Bytes/s, read and written together, of passes over more memory than caches hold, on all devices at once."""
    kept = [jax.device_put(jnp.zeros(devices_of(sharding) * PASSED, jnp.float32), _divided(sharding))]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)  # in place: nothing else is read or written

    def passes() -> jax.Array:
        for _ in range(CHAIN):
            kept[0] = add(kept[0])
        return kept[0]

    passes()
    return 2 * kept[0].nbytes * CHAIN / fastest(passes)


def devices_of(sharding: NamedSharding | None) -> int:
    """How many of them are used."""
    return sharding.mesh.size if sharding else 1


def _divided(sharding: NamedSharding | None, *before: None) -> NamedSharding | None:
    """Along the first axis, or the one after those ``before``."""
    return NamedSharding(sharding.mesh, PartitionSpec(*before, AXIS)) if sharding else None


def minibatch(bench: Bench, filled: Filled, engine: Engine) -> tuple[Plan, Batch]:
    """A plan and the minibatch (1, batch, …) that it draws, wherever replay keeps its frames."""
    draw = jax.jit(partial(sample, spec=engine.spec, updates=1))
    chosen, frames = draw(filled.replay.table(), jax.random.PRNGKey(0))
    fetched = _fetch(bench, filled.replay, chosen)
    batches = assemble(chosen, {when: {**frames[when], **fetched[when]} for when in fetched})
    return chosen, jax.device_put(batches, _divided(bench.sharding, None))


def _fetch(bench: Bench, replay: Replay, chosen: Plan) -> dict[str, Any]:
    kept = {when: replay.fetch(frames) for when, frames in chosen.frames.items()}
    return jax.device_put(kept, _divided(bench.sharding, None))


def stages(
    bench: Bench, filled: Filled, engine: Engine, drawn: tuple[Plan, Batch], repeats: int
) -> dict[str, float | None]:
    """Parts of the work, ms each; None for what does not occur. ``drawn`` is from `minibatch`.

    ============ ==============================================================================
    sample_ms    drawing one minibatch, and gathering it where the device holds the frames
    fetch_ms     gathering it from the machine's memory; done while the device learns
    see_ms       its fresh crops through the trunk
    critic_ms    one critic update on what was seen
    encode_ms    what becomes of an observation that arrives: crops through the trunk
    insert_ms    its record, into replay
    publish_ms   a copy of the policy for those who act
    ============ ==============================================================================
    """
    replay, key, exact = filled.replay, jax.random.PRNGKey(0), bench.mode == "exact"
    draw = jax.jit(partial(sample, spec=engine.spec, updates=1))
    chosen, batches = drawn
    see, params = _seeing(bench), jax.device_put(bench.sight.params, bench.sharding)
    learn = _learning(bench, engine, see(params, batches, key))
    state, encode = engine.placed(bench.fresh_state()), bench.encoder()
    return {
        "sample_ms": median_ms(lambda: draw(replay.table(), key), repeats),
        "fetch_ms": median_ms(lambda: _fetch(bench, replay, chosen), repeats) if replay.on_host else None,
        "see_ms": median_ms(lambda: see(params, batches, key), repeats) if exact else None,
        "critic_ms": median_ms(learn, repeats),
        "encode_ms": median_ms(lambda: encode(bench.raw), repeats),
        "insert_ms": median_ms(filled.arrive, repeats),
        "publish_ms": median_ms(lambda: params_to_tree(bench.agent.policy(state)), repeats),
    }


def _seeing(bench: Bench) -> Callable[[Any, Batch, jax.Array], Batch]:
    """What the networks see of a minibatch (1, batch, …)."""
    sight = bench.sight

    def see(params: Any, batches: Batch, key: jax.Array) -> Batch:
        seen = sight.see(params, jax.tree.map(lambda x: x[0], batches), key)
        return jax.tree.map(lambda x: x[None], seen)

    return jax.jit(see)


def _learning(bench: Bench, engine: Engine, seen: Batch) -> Callable[[], Any]:
    """A critic update, again and again on the same minibatch."""
    update = jax.jit(bench.agent.update_critic, donate_argnums=0)
    states = [engine.placed(bench.fresh_state())]

    def learn() -> Any:
        states[0], metrics = update(states[0], seen)
        return metrics

    return learn


def critic_cost(bench: Bench, batches: Batch) -> tuple[float, float]:
    """FLOP of one critic update, as XLA counts them before it optimises, and the bytes that it moves.

    Those are the operands and results of what is costly (`moved_bytes`), and, each read and written once, the
    minibatch, parameters, targets and optimiser. What is done element by element in between counts as nothing, as if
    it were fused perfectly: XLA's own count before fusion, where it all goes through memory, is five times as much.
    """
    sight, state = bench.sight, bench.fresh_state()

    def once(state: Any, params: Any, batches: Batch) -> Any:
        return bench.agent.update_critic(state, batches, partial(sight.see, params))

    traced = jax.jit(once).trace(state, sight.params, batches)
    counted: Any = traced.lower().cost_analysis()
    twice = jax.tree.leaves((state.critic, state.critic_opt, state.target, batches))
    return float(counted["flops"]), moved_bytes(traced.jaxpr.jaxpr) + 2 * sum(x.nbytes for x in twice)


def moved_bytes(jaxpr: Jaxpr) -> int:
    """Operands and results of all products and convolutions; of what is gathered, as much as is taken, twice."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [x for x in jax.tree.leaves(equation.params) if isinstance(x, ClosedJaxpr | Jaxpr)]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(moved_bytes(x.jaxpr if isinstance(x, ClosedJaxpr) else x) for x in inner)
        taken: list[Any] = [x.aval for x in equation.outvars]
        match equation.primitive.name:
            case "dot_general" | "conv_general_dilated":
                moved = [*taken, *(x.aval for x in equation.invars)]
            case "gather" | "dynamic_slice":
                moved = [*taken, *taken]
            case _:
                moved = []
        total += sum(x.size * x.dtype.itemsize for x in moved)
    return total
