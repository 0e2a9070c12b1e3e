import jax
import jax.numpy as jnp
import numpy as np
import pytest

from serl_core.nets.encoders import (
    CLIP,
    Encoder,
    SpatialEmbedding,
    cameras_of,
    fit_normaliser,
)
from serl_core.nets.heads import ActorHead, critic_ensemble, tanh_log_prob, tanh_sample
from serl_core.nets.once import EncodedOnce
from serl_core.nets.trunks import load_named

KEY = jax.random.PRNGKey(0)


def test_log_prob_is_a_density() -> None:
    """Bug: a wrong tanh correction; then the entropy and so the temperature are wrong."""
    u = jnp.linspace(-9, 9, 200_001)[:, None]
    for mean, log_std in [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.3)]:
        log_prob = tanh_log_prob(jnp.full_like(u, mean), jnp.full_like(u, log_std), u)
        area = np.trapezoid(np.exp(np.asarray(log_prob, np.float64)), np.asarray(jnp.tanh(u))[:, 0].astype(np.float64))
        assert area == pytest.approx(1, abs=2e-3)


def test_log_prob_of_saturated_actions_is_finite() -> None:
    """Bug: log(1 − tanh²) of a saturated action is −inf and its gradient NaN."""

    def total(mean: jax.Array) -> jax.Array:
        return tanh_sample(KEY, mean, jnp.full((4, 3), 1.5))[1].sum()

    for size in (20.0, 200.0):
        value, slope = jax.value_and_grad(total)(jnp.full((4, 3), size))
        assert np.isfinite(value) and np.isfinite(slope).all()


def test_ensemble_members_differ_and_ignore_each_other() -> None:
    """Bug: members share parameters or an initialisation, so that their minimum is no bound."""
    ensemble = critic_ensemble(3, (16, 16), "tanh", True)
    z, action = jnp.ones((5, 4)), jnp.ones((5, 2))
    params = ensemble.init(KEY, z, action)
    values = ensemble.apply(params, z, action)
    assert values.shape == (3, 5) and np.unique(np.asarray(values)[:, 0]).size == 3
    changed = jax.tree.map(lambda x: x.at[1].add(1.0), params)
    moved = np.asarray(ensemble.apply(changed, z, action) != values)
    assert not moved[[0, 2]].any() and moved[1].any()


def test_the_actor_begins_centred() -> None:
    """Bug: an untrained policy drives the arm steadily in a random direction."""
    z = jax.random.normal(KEY, (64, 10))
    mean, log_std = ActorHead(6).init_with_output(KEY, z)[0]
    assert np.abs(mean).max() < 0.1 and np.abs(log_std).max() < 0.1


def test_state_alone_passes_through() -> None:
    """Bug: a bottleneck for images is put in front of state-based learning."""
    state = jnp.ones((2, 5))
    z, variables = Encoder(()).init_with_output(KEY, {"state": state})
    assert (z == state).all() and not jax.tree.leaves(variables)


def test_both_forms_of_the_embedding_agree() -> None:
    """Bug: the policy's form for few observations computes something else than the critic's for batches."""
    features = jax.random.normal(KEY, (256, 16, 9)).astype(jnp.float16)
    module = SpatialEmbedding(width=32)
    params = module.init(KEY, features)
    many = module.apply(params, features)
    few = jnp.stack([module.apply(params, features[i : i + 1])[0] for i in range(3)])
    assert many.shape == (256, 32) and many.dtype == jnp.float32
    np.testing.assert_allclose(many[:3], few, atol=0.02)  # its factors are rounded to bfloat16


def test_each_camera_has_its_own_embedding() -> None:
    """Bug: cameras share weights, or one of them is dropped."""
    obs = {name: jnp.ones((1, 8, 16), jnp.float16) for name in ("front", "wrist")}
    obs = {"state": jnp.ones((1, 3)), **obs}
    z, variables = Encoder(("front", "wrist")).init_with_output(KEY, obs)
    assert z.shape == (1, 64 + 2 * 256)
    assert set(variables["params"]) == {"state", "camera_front", "camera_wrist"}


def test_the_trunk_is_deterministic_and_sees_the_image() -> None:
    """Bug: actor and learner hold different trunks, or features saturate or vanish in float16."""
    images = np.random.default_rng(0).integers(0, 255, (2, 128, 128, 3), dtype=np.uint8)
    features = np.asarray(load_named("small", seed=3)(images))
    assert features.shape == (2, 128, 16) and features.dtype == np.float16
    np.testing.assert_array_equal(features, load_named("small", seed=3)(images))
    assert 0.1 < features.std() < 10 and np.abs(features[0] - features[1]).max() > 0.1
    assert not np.array_equal(features, load_named("small", seed=4)(images))


def test_frames_are_replaced_by_their_features() -> None:
    """Bug: features land under the wrong camera's name."""
    rng = np.random.default_rng(0)
    obs = {name: rng.integers(0, 255, (128, 128, 3), dtype=np.uint8) for name in ("wrist", "front")}
    trunk = load_named("small")
    got = EncodedOnce().encoder(trunk, ("front", "wrist"))({"state": np.zeros(3, np.float32), **obs})
    expected = np.asarray(trunk(obs["wrist"][None]))[0]
    np.testing.assert_allclose(got["wrist"].astype(np.float32), expected.astype(np.float32), atol=0.05)
    assert np.abs(got["wrist"].astype(np.float32) - got["front"].astype(np.float32)).max() > 0.2
    assert cameras_of(got) == ("front", "wrist")


def test_the_normaliser_does_not_blow_up_constant_entries() -> None:
    """Bug: an entry that demonstrations never move is divided by zero when the policy moves it."""
    normaliser = fit_normaliser([0.0, 1.0], [0.0, 2.0])
    np.testing.assert_allclose(normaliser(jnp.array([1e-3, 3.0])), [0.1, 1.0], rtol=1e-5)
    assert np.abs(normaliser(jnp.array([1e6, -1e6]))).max() == CLIP
    with pytest.raises(ValueError, match="finite vectors"):
        fit_normaliser([np.nan], [1.0])
    with pytest.raises(ValueError, match='no "state"'):
        cameras_of({"front": np.zeros(1)})
