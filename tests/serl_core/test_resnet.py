from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from weight_files import lerobot_arrays, pickled_as_released, released_tree, safetensors, torchvision_arrays

from serl_core.nets.trunks import TRUNKS, FrozenTrunk, load_named

Arrays = Mapping[str, Any]
TREE = released_tree(0)
IMAGES = np.random.default_rng(1).integers(0, 255, (2, 128, 128, 3), dtype=np.uint8)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> FrozenTrunk:
    """ResNet-10 with random numbers from a file in the layout of the release."""
    data = pickled_as_released(TREE)
    assert abs(len(data) - 21_677_915) < 200  # the size of the released file
    return load_named("resnet10", written(tmp_path_factory.mktemp("weights"), "resnet10_params.pkl", data))


def group_norm(arrays: Arrays, name: str, x: jax.Array) -> jax.Array:
    groups = x.reshape(len(x), 4, -1)
    mean, var = groups.mean(axis=2, keepdims=True), groups.var(axis=2, keepdims=True)
    normed = ((groups - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)
    return normed * arrays[f"{name}.weight"][:, None, None] + arrays[f"{name}.bias"][:, None, None]


def batch_norm(arrays: Arrays, name: str, x: jax.Array) -> jax.Array:
    weight, bias, mean, var = (
        arrays[f"{name}.{leaf}"][:, None, None] for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / jnp.sqrt(var + 1e-5) * weight + bias


def conv(x: jax.Array, kernel: Any, stride: int, pad: tuple[int, int]) -> jax.Array:
    numbers = ("NCHW", "OIHW", "NCHW")
    return lax.conv_general_dilated(x, jnp.asarray(kernel), (stride, stride), (pad, pad), dimension_numbers=numbers)


def reference(
    arrays: Arrays,
    names: tuple[str, str, str, str],
    blocks: list[tuple[str, int]],
    norm: Callable[[Arrays, str, jax.Array], jax.Array],
    pad: tuple[int, int],
) -> Any:
    """A residual network written as PyTorch lays it out, from the file's own arrays: (N, 512, 4, 4).

    ``pad`` is what a 3×3 step of two pads before and after.
    """
    stem, stem_norm, inner, shortcut = names
    x = jnp.asarray(((IMAGES / 255 - MEAN) / STD).transpose(0, 3, 1, 2), jnp.float32)
    x = jax.nn.relu(norm(arrays, stem_norm, conv(x, arrays[f"{stem}.weight"], 2, (3, 3))))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), pad, pad))
    for name, stride in blocks:
        y = conv(x, arrays[f"{name}.conv1.weight"], stride, pad if stride == 2 else (1, 1))
        y = jax.nn.relu(norm(arrays, f"{name}.{inner}1", y))
        y = norm(arrays, f"{name}.{inner}2", conv(y, arrays[f"{name}.conv2.weight"], 1, (1, 1)))
        if f"{name}.{shortcut}.0.weight" in arrays:
            x = norm(arrays, f"{name}.{shortcut}.1", conv(x, arrays[f"{name}.{shortcut}.0.weight"], stride, (0, 0)))
        x = jax.nn.relu(x + y)
    return x.transpose(0, 2, 3, 1)


def assert_features(trunk: FrozenTrunk, wanted: Any) -> None:
    got = np.asarray(trunk.spec.apply(trunk.params, IMAGES))
    assert got.shape == (2, 4, 4, 512) and got.dtype == np.float16
    np.testing.assert_allclose(got.astype(np.float32), wanted, atol=0.01 * float(np.abs(wanted).max()))
    assert np.asarray(wanted).std() > 0.1


def test_resnet10_computes_what_the_release_does(released: FrozenTrunk) -> None:
    """Bug: a norm, a stride, a padding or the images' scaling differs, and the features are those of no ImageNet."""
    blocks = [(f"encoder.stages.{number}", 2 if number else 1) for number in range(4)]
    names = ("embedder.0", "embedder.1", "norm", "shortcut")
    assert_features(released, jax.jit(lambda a: reference(a, names, blocks, group_norm, (0, 1)))(lerobot_arrays(TREE)))


def test_resnet18_computes_what_torchvision_does(tmp_path: Path) -> None:
    """Bug: batch norms are folded wrongly, blocks mixed up, or padding is on the wrong side."""
    arrays = torchvision_arrays(2)
    trunk = load_named("resnet18", written(tmp_path, "resnet18.safetensors", safetensors(arrays)))
    blocks = [
        (f"layer{layer}.{place}", 2 if layer > 1 and not place else 1) for layer in range(1, 5) for place in (0, 1)
    ]
    names = ("conv1", "bn1", "bn", "downsample")
    wanted = jax.jit(lambda a: reference(a, names, blocks, batch_norm, (1, 1)))(
        {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    )
    assert_features(trunk, wanted)


def test_size_and_names_are_the_released_ones() -> None:
    """Bug: a layer is missing or too wide: the release has 36 arrays of 4,905,792 numbers beside its head."""
    shapes = TRUNKS["resnet10"].shapes()
    assert len(shapes) == 36 and sum(int(np.prod(shape)) for shape in shapes.values()) == 4_905_792
    assert shapes["ResNetBlock_3/conv_proj/kernel"] == (1, 1, 256, 512)
    assert shapes["ResNetBlock_0/MyGroupNorm_1/scale"] == (64,)
    assert sum(int(np.prod(shape)) for shape in TRUNKS["resnet18"].shapes().values()) == 11_176_512


def test_conversions_of_the_release_are_the_release(released: FrozenTrunk, tmp_path: Path) -> None:
    """Bug: the same weights from LeRobot's file or a flattened tree are other weights, or have another hash."""
    flat = {f"{part}.{leaf}": array for part in ("conv_init", "norm_init") for leaf, array in TREE[part].items()}
    for number in range(4):
        for part, leaves in TREE[f"ResNetBlock_{number}"].items():
            flat |= {f"ResNetBlock_{number}.{part}.{leaf}": array for leaf, array in leaves.items()}
    for name, arrays in (("lerobot", lerobot_arrays(TREE)), ("dotted", flat)):
        other = load_named("resnet10", written(tmp_path, f"{name}.safetensors", safetensors(arrays)))
        assert other.digest == released.digest
        jax.tree.map(np.testing.assert_array_equal, dict(other.params), dict(released.params))


def test_half_precision_computes_the_same(released: FrozenTrunk) -> None:
    """Bug: a part that needs float32, such as a norm's statistics, is computed in bfloat16 as well."""
    half = released.spec.module.clone(dtype=jnp.bfloat16)
    got = jax.jit(half.apply)({"params": released.params}, IMAGES)
    wanted = np.asarray(released.spec.apply(released.params, IMAGES), np.float32)
    assert got.dtype == jnp.bfloat16
    assert np.abs(np.asarray(got, np.float32) - wanted).mean() < 0.02 * np.abs(wanted).mean()
