import numpy as np

from serl_core.nets.once import EncodedOnce
from serl_core.nets.trunks import load_named

RNG = np.random.default_rng(0)


def observation(**changes):
    frames = {name: RNG.integers(0, 255, (128, 128, 3), dtype=np.uint8) for name in ("front", "wrist")}
    return {"state": np.zeros(2, np.float32), **frames, **changes}


def test_policy_and_judge_share_one_pass():
    """Guards the cost of a control step: the trunk runs once per frame, whoever asks first and for what."""
    once, trunk = EncodedOnce(), load_named("small")
    judge, policy = once.encoder(trunk, ("wrist",)), once.encoder(trunk, ("front", "wrist"))
    obs = observation()
    seen = judge(obs)
    assert seen["wrist"].shape == (128, 16) and seen["front"] is obs["front"]
    np.testing.assert_array_equal(policy(obs)["wrist"], seen["wrist"])
    assert once.passes == 1


def test_another_frame_is_never_taken_for_an_old_one():
    """Guards against features of a frame that has gone: a new array is new even if only one camera moved on."""
    once, trunk = EncodedOnce(), load_named("small")
    encode = once.encoder(trunk, ("front", "wrist"))
    obs = observation()
    before = encode(obs)["front"]
    after = encode({**obs, "front": 255 - obs["front"]})["front"]
    assert once.passes == 2 and np.abs(after.astype(float) - before).max() > 0.1


def test_another_trunk_has_features_of_its_own():
    """Guards a classifier on other weights than the policy's: it must not read the policy's features."""
    once, obs = EncodedOnce(), observation()
    first = once.encoder(load_named("small", seed=1), ("front",))(obs)["front"]
    second = once.encoder(load_named("small", seed=2), ("front",))(obs)["front"]
    assert once.passes == 2 and not np.array_equal(first, second)
