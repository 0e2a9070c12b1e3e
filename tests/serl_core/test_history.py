"""Stacked frames: what is learnt from must be what was acted on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from learner_parts import Handed

from serl_core.blueprint import Blueprint
from serl_core.config import ConfigError
from serl_core.data.episodes import EpisodeStore
from serl_core.data.replay import Replay
from serl_core.data.sampling import Sampling
from serl_core.learner import Config, Learner, blueprint_for
from serl_core.nets.history import History
from serl_core.nets.sight import as_stored, through
from serl_core.nets.trunks import SMALL, load_named
from serl_core.policies import CheckpointPolicy
from serl_core.types import EpisodeStart, Record, Step

CHANNELS, POSITIONS, STACK = 2, 3, 3


def observation(number: int) -> dict[str, np.ndarray]:
    return {"state": np.array([number], np.float32), "front": np.full((CHANNELS, POSITIONS), number, np.float16)}


def episode(actor: str, first: int, steps: int) -> list[Record]:
    found: list[Record] = [EpisodeStart(actor, 0, observation(first))]
    action, target = np.zeros(1, np.float32), np.zeros(7)
    for index in range(steps):
        ends = index == steps - 1
        found.append(
            Step(actor, 0, index, action, action, target, False, observation(first + index + 1), 0.0, 0.0, False,
                 ends, False, "policy", -1, 0, 0.0)
        )  # fmt: skip
    return found


def acted_on(numbers: range) -> dict[int, np.ndarray]:
    """What a policy sees when it comes to each frame of an episode."""
    history = History(("front",), STACK)
    history(observation(99))
    history.begin()
    return {number: history(observation(number))["front"] for number in numbers}


@pytest.mark.parametrize("where", ["device", "host"])
def test_what_is_sampled_is_what_was_acted_on(where) -> None:
    """Guards against stacks in another order, of another episode or actor, or padded otherwise than when acting."""

    def encode(obs):
        return {**obs, "front": obs["front"][None]}

    replay = Replay(40, observation(0), 1, encode, where=where)
    for pair in zip(episode("a", 10, 5), episode("b", 20, 5), strict=True):
        for record in pair:
            replay.insert(record)
    expected = {**acted_on(range(10, 16)), **acted_on(range(20, 26))}
    batch = replay.gather(replay.slots("online"), Sampling(0.9, stack=STACK))
    assert batch["obs"]["front"].shape == (10, STACK, CHANNELS, POSITIONS)
    seen = as_stored(("front",)).see(None, batch, jax.random.PRNGKey(0))
    for when in ("obs", "next_obs"):
        for number, stacked in zip(seen[when]["state"][:, 0], seen[when]["front"], strict=True):
            np.testing.assert_array_equal(stacked, expected[int(number)])
    assert expected[11][:, 0].tolist() == [10, 10, 10, 10, 11, 11]  # the first one stands for what was before


def test_a_frame_that_was_overwritten_is_in_no_stack() -> None:
    """Guards the ring: the slot before may hold another episode by now."""
    replay = Replay(5, observation(0), 1, lambda obs: {**obs, "front": obs["front"][None]})
    for record in [*episode("a", 10, 4), *episode("b", 20, 1)]:
        replay.insert(record)
    batch = replay.gather(np.sort(replay.slots("online")), Sampling(0.9, stack=STACK))
    for state, stacked in zip(batch["obs"]["state"][:, 0], batch["obs"]["front"][..., 0, 0], strict=True):
        assert (np.diff(stacked) >= 0).all() and (state // 10 == stacked // 10).all() and stacked[-1] == state


def test_exact_vision_shifts_the_frames_of_a_stack_alike() -> None:
    """Guards against motion that comes from the augmentation."""
    trunk = load_named("small", SMALL)
    sight = through(trunk, ("front",))
    still = np.random.default_rng(0).integers(0, 255, (2, 1, 128, 128, 3), dtype=np.uint8).repeat(2, axis=1)
    obs = {"front": still, "state": np.zeros((2, 1))}
    seen = np.array(sight.see(sight.params, {"obs": obs, "next_obs": obs}, jax.random.PRNGKey(0))["obs"]["front"])
    assert seen.shape == (2, 2 * 128, 16)
    np.testing.assert_allclose(seen[:, :128], seen[:, 128:], atol=1e-4)


def test_a_run_with_stacked_frames_learns_and_its_checkpoint_acts(tmp_path: Path) -> None:
    """Guards the whole way: networks, sampling, checkpoint and a policy that forgets at the start of an episode."""
    config = Config(tmp_path, obs="pixels", capacity=50, lockstep=True, utd=1, stack=2, start_after=2)
    blueprint = blueprint_for(config)
    small = replace(blueprint, agent_config=replace(blueprint.agent_config, hidden=(8,), batch=4))
    rng = np.random.default_rng(0)

    def seen() -> dict[str, np.ndarray]:
        raw = blueprint.raw_example()
        return {name: rng.integers(0, 255, x.shape).astype(x.dtype) for name, x in raw.items()}

    rest = np.zeros(4, np.float32)
    with EpisodeStore(tmp_path / "episodes") as store:
        learner = Learner(config, Handed(0), store, small)  # type: ignore[arg-type]
        learner.replay.insert(EpisodeStart("a-1", 0, seen()))
        for index in range(3):
            step = Step("a-1", 0, index, rest, rest, np.zeros(7), False, seen(), 0.0, 0.0, False, index == 2, False,
                        "policy", -1, 0, 0.0)  # fmt: skip
            learner.limiter.insert(learner.replay.insert(step))
        learner.learn(lambda: not learner.limiter.grants())
        assert learner.grad_steps > 0
    policy = CheckpointPolicy(learner.checkpoints.latest())  # type: ignore[arg-type]
    assert policy.blueprint.stack == 2
    one, other = seen(), seen()
    policy.hear(EpisodeStart("eval", 0, one))
    first = policy(one).action
    after_another = policy(other), policy(one).action
    policy.hear(EpisodeStart("eval", 1, one))
    np.testing.assert_array_equal(policy(one).action, first)
    assert not np.array_equal(after_another[1], first)


@pytest.mark.parametrize("settings", [{"stack": 0}, {"stack": 2, "vision": "trained"}, {"stack": 2, "obs": "state"}])
def test_stacks_that_cannot_be_are_refused(settings) -> None:
    """Guards against a setting that is silently ignored."""
    with pytest.raises(ConfigError, match="--stack"):
        blueprint_for(Config(**{"run_dir": Path(), "obs": "pixels", **settings}))


def test_the_stack_travels_with_the_weights() -> None:
    """Guards an actor that would show the policy one frame where it learnt from three."""
    blueprint = replace(Blueprint.for_task("pick_cube", "pixels"), stack=3)
    assert Blueprint.from_tree(blueprint.to_tree()).example()["front"].shape == (3 * 128, 16)
