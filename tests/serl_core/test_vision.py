"""What the networks see of frames: features computed once, in every update, or by a trunk that learns too."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import Compiled

from serl_core.blueprint import TRAINS, Blueprint
from serl_core.config import ConfigError
from serl_core.nets.projection import Projection
from serl_core.nets.sight import through
from serl_core.nets.trunks import SMALL, load_named
from serl_core.perception import with_projection

RNG = np.random.default_rng(0)
TO_FIVE = Projection(jnp.zeros(128), jnp.eye(128, 5))


def frames(count: int) -> np.ndarray:
    return RNG.integers(0, 255, (count, 128, 128, 3), dtype=np.uint8)


def batch(obs: dict[str, np.ndarray], action_dim: int) -> dict:
    size = obs["state"].shape[0]
    facts = {name: np.zeros((1, size), np.float32) for name in ("reward", "grasp_penalty", "discount")}
    both = {name: x[None] for name, x in obs.items()}
    action, human = np.zeros((1, size, action_dim), np.float32), np.zeros((1, size), bool)
    return {"obs": both, "next_obs": both, "action": action, "human": human, **facts}


def blueprint(vision: str) -> Blueprint:
    return Blueprint.for_task("pick_cube", "pixels", vision=vision)  # type: ignore[arg-type]


def test_exact_vision_is_the_trunks_features_of_a_crop() -> None:
    """Bug: inside the update features have another layout, scale or order than the policy's."""
    trunk = load_named("small", SMALL)
    grey = np.full((3, 128, 128, 3), 90, np.uint8)  # the same in every crop
    sight = through(trunk, ("front",))
    obs = {"front": grey, "state": np.zeros((3, 2))}
    seen = sight.see(sight.params, {"obs": obs, "next_obs": obs}, jax.random.PRNGKey(0))
    np.testing.assert_allclose(seen["obs"]["front"], trunk(grey).astype(np.float32), atol=0.02)
    few = trunk.projected(TO_FIVE)
    sight = through(few, ("front",))
    seen = sight.see(sight.params, {"obs": obs, "next_obs": obs}, jax.random.PRNGKey(0))
    np.testing.assert_allclose(seen["obs"]["front"], few(grey).astype(np.float32), atol=0.02)
    assert seen["obs"]["front"].shape == (3, 5, 16)


def test_a_trained_trunk_moves_and_is_published() -> None:
    """Bug: the trunk stays as it began, or the actor acts with another one than the critic trains."""
    plan = blueprint("trained")
    small = replace(plan, agent_config=replace(plan.agent_config, batch=2, hidden=(8,), utd=1))
    agent = Compiled(small.agent())
    state = agent.init(jax.random.key(0))
    before = jax.tree.map(np.array, state.critic["encoder"]["trunk"])
    obs = {"state": np.zeros((2, *small.example()["state"].shape), np.float32)}
    pictures = {name: frames(2) for name in small.cameras}
    state, metrics = agent.update(state, batch({**obs, **pictures}, small.load_task().action_dim))
    after = agent.policy(state).encoder["trunk"]
    assert bool(metrics["finite"])
    assert all(not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


@pytest.mark.parametrize("vision", ["cached", "exact", "trained", "scratch"])
def test_what_a_policy_needs_travels_with_it(vision: str) -> None:
    """Bug: the actor takes the weights of one kind of vision for another's."""
    plan = replace(
        blueprint(vision), projection=Projection(np.zeros(128, np.float32), np.eye(128, 5, dtype=np.float32))
    )
    back = Blueprint.from_tree(plan.to_tree())
    assert back.vision == vision
    shapes = {name: x.shape for name, x in back.example().items()}
    assert shapes == {name: x.shape for name, x in plan.example().items()}
    assert shapes["front"] == ((128, 128, 3) if vision in TRAINS else (5, 16))


class Wanted:
    """The part of a learner's configuration that matters for the projection."""

    def __init__(self, run_dir, channels: int) -> None:
        self.run_dir, self.demos, self.channels = run_dir, None, channels


def test_without_demonstrations_there_is_nothing_to_project_by(tmp_path) -> None:
    """Bug: features are projected by chance, and the run learns slowly without saying why."""
    with pytest.raises(ConfigError, match="there are none: record some, or give --channels 0"):
        with_projection(blueprint("cached"), Wanted(tmp_path, 16))
    assert with_projection(blueprint("cached"), Wanted(tmp_path, 128)).projection is None
    assert with_projection(blueprint("cached"), Wanted(tmp_path, 0)).projection is None


@pytest.mark.parametrize(("vision", "same"), [("trained", True), ("scratch", False)])
def test_a_trunk_that_is_trained_begins_with_its_weights_unless_from_scratch(vision: str, same: bool) -> None:
    """Bug: weights that were given are forgotten, and somebody waits for days for what they had already."""
    plan = blueprint(vision)
    state = plan.agent().init(jax.random.key(0))
    file = jax.tree.leaves(load_named("small", SMALL).params)
    for critic in (state.critic, state.target):
        begun = jax.tree.leaves(critic["encoder"]["trunk"])
        assert [x.shape for x in begun] == [x.shape for x in file]
        assert all(np.array_equal(x, y) for x, y in zip(begun, file, strict=True)) == same


def test_a_trunk_from_scratch_has_no_file_and_another_one_needs_it(tmp_path) -> None:
    """Bug: a file is silently ignored, or its absence."""
    with pytest.raises(ConfigError, match="--vision scratch begins with random weights"):
        replace(blueprint("scratch"), weights=tmp_path / "trunk.npz").agent()
    with pytest.raises(ConfigError, match="resnet10 does not come with the package: give --trunk-weights"):
        replace(blueprint("trained"), trunk="resnet10").agent()
    with pytest.raises(ConfigError, match=r"trunk\.npz"):
        replace(blueprint("trained"), weights=tmp_path / "trunk.npz").agent()
