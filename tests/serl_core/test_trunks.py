from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weight_files import safetensors, torchvision_arrays

from serl_core.nets.encoders import Trunk, channels_first, random_trunk, save_trunk
from serl_core.nets.trunks import AT_ONCE, TRUNKS, FrozenTrunk, digest, load_named
from serl_core.nets.weights import WeightsError

FRAMES = np.random.default_rng(0).integers(0, 255, (2, 128, 128, 3), dtype=np.uint8)


def test_small_is_the_encoders_trunk() -> None:
    """Bug: runs that name their trunk see other features than runs that do not."""
    trunk = load_named("small", seed=3)
    ours = Trunk().apply({"params": random_trunk(3)}, FRAMES)
    np.testing.assert_allclose(trunk(FRAMES), channels_first(np.asarray(ours, np.float16)), atol=0.01)
    assert trunk.features == (128, 16)


@pytest.mark.parametrize("name", ["resnet10", "resnet18"])
def test_an_untrained_network_passes_something_on(name: str) -> None:
    """Bug: training from scratch begins with features that vanish, saturate, or differ between machines."""
    trunk = load_named(name, seed=3)
    assert trunk.digest == load_named(name, seed=3).digest != load_named(name, seed=4).digest
    features = np.asarray(trunk(FRAMES), np.float32)
    assert features.shape == (2, 512, 16) and 0.1 < features.std() < 100
    assert np.abs(features[0] - features[1]).max() > 0.1


def test_small_from_its_file(tmp_path: Path) -> None:
    """Bug: the packaged weights are not those that were trained, or features of two trainings share a cache."""
    params = random_trunk(5)
    save_trunk(tmp_path / "trunk.npz", params)
    trunk = load_named("small", tmp_path / "trunk.npz")
    np.testing.assert_allclose(trunk.params["Conv_0"]["kernel"], params["Conv_0"]["kernel"], rtol=1e-3)
    assert load_named("small", tmp_path / "trunk.npz").digest == trunk.digest
    assert load_named("small", seed=5).digest != trunk.digest  # float16 in the file


def test_a_digest_changes_with_everything() -> None:
    """Bug: cached features are used with weights that did not make them."""
    tree = {"a": {"b": jnp.zeros((2, 3))}, "c": jnp.ones(2)}
    others = [
        digest("y", tree),
        digest("x", {**tree, "c": jnp.ones(2).at[1].set(2)}),
        digest("x", {**tree, "c": jnp.ones((2, 1))}),
        digest("x", {"a": {"c": jnp.zeros((2, 3))}, "c": jnp.ones(2)}),
        digest("x", {**tree, "c": jnp.ones(2, jnp.float16)}),
    ]
    assert len({digest("x", tree), *others}) == 6
    assert digest("x", dict(reversed(tree.items()))) == digest("x", tree)


@pytest.mark.parametrize("name", TRUNKS)
def test_wrong_frames_are_named(name: str) -> None:
    """Bug: frames of another size or dtype give features of another shape or meaning."""
    spec = TRUNKS[name]
    for frames in (FRAMES[:, ::2], FRAMES.astype(np.float32), FRAMES[0]):
        with pytest.raises(ValueError, match=rf"trunk {name}: frames must be \(N, 128, 128, 3\) uint8, not"):
            spec.apply({}, frames)


def test_unknown_names_and_files_of_other_networks(tmp_path: Path) -> None:
    """Bug: a file is loaded into a network that it does not belong to, or the error does not say what is wrong."""
    with pytest.raises(WeightsError, match="no trunk 'resnet-10', only small, resnet10, resnet18: did you mean resnet"):
        load_named("resnet-10")
    path = tmp_path / "resnet18.safetensors"
    arrays = torchvision_arrays(0)
    path.write_bytes(safetensors({name: array for name, array in arrays.items() if name.startswith(("conv1", "bn1"))}))
    with pytest.raises(WeightsError, match=r"for trunk resnet10 .* is missing; the file has"):
        load_named("resnet10", path)
    stem = {"conv1.0.weight": np.zeros((24, 3, 3, 3), np.float32), "bn1.weight": np.zeros(64, np.float32)}  # resnet10t
    path.write_bytes(safetensors(stem))
    with pytest.raises(WeightsError, match=r"resnet18 .*\.weight .* is missing; the file has '(conv1.0|bn1).weight'"):
        load_named("resnet18", path)


def test_many_frames_come_back_in_their_order() -> None:
    """Guards the views of frames that go through the trunk in several passes: one dropped would shift all others."""
    frames = np.random.default_rng(0).integers(0, 255, (AT_ONCE + 3, 128, 128, 3), np.uint8)
    trunk = load_named("small", None)
    one_by_one = np.concatenate([trunk(frame[None]) for frame in frames])
    assert trunk(frames).shape == one_by_one.shape
    assert np.allclose(trunk(frames), one_by_one, atol=1e-2)
    assert np.abs(one_by_one[1:] - one_by_one[:-1]).max(axis=(1, 2)).min() > 0.1, "frames that cannot be told apart"


def test_features_that_cannot_be_kept_are_not() -> None:
    """Guards replay and policy against infinities that would only be seen as a broken gradient, much later."""
    trunk = load_named("small")
    huge = jax.tree.map(lambda x: x * 1e30, trunk.params)
    with pytest.raises(FloatingPointError, match="trunk small: features that float16 cannot hold"):
        FrozenTrunk(trunk.spec, huge, "huge")(FRAMES)
