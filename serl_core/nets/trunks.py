"""Frozen trunks by name, and the hash under which their features may be kept.

    trunk = load_named("resnet10", Path("resnet10_params.pkl"))
    features = trunk(frames)                        # (N, 128, 128, 3) uint8 → (N, 512, 16) float16

"small" is our own (`encoders.Trunk`), "resnet10" SERL's and HIL-SERL's, "resnet18" torchvision's and timm's.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import traverse_util

from serl_core.nets.encoders import FEATURES, FRAME, Params, Trunk, channels_first, random_trunk
from serl_core.nets.projection import Projection
from serl_core.nets.resnet import ResNet
from serl_core.nets.weights import DOTTED, FLAX, TORCHVISION, TRANSFORMERS, Naming, WeightsError, load_weights

SMALL = Path(__file__).with_name("trunk.npz")  # weights of "small", made by examples/pretrain_trunk.py

AT_ONCE = 9  # frames of a pass: a CPU's cache holds no more; in passes of 27 each took 20 % more time, of 64 40 %

Images = npt.NDArray[np.uint8] | jax.Array


@dataclass(frozen=True)
class TrunkSpec:
    """A kind of trunk: frames (N, 128, 128, 3) uint8 → features (N, rows, columns, channels) float16."""

    name: str
    module: nn.Module
    features: tuple[int, int, int]  # rows, columns, channels of one frame's features
    namings: tuple[Naming, ...]  # files that it can be loaded from
    init: Callable[[int], Params]  # untrained parameters; the same seed gives the same ones on every machine

    def apply(self, params: Params, images: Images) -> jax.Array:
        """The features of some frames. Compiles once for each N. Raises ValueError for other frames."""
        if images.ndim != 4 or images.shape[1:] != FRAME or images.dtype != np.uint8:
            raise ValueError(
                f"trunk {self.name}: frames must be (N, {', '.join(map(str, FRAME))}) uint8, "
                f"not {images.shape} {images.dtype}"
            )
        return _features(self.module, params, images)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter by its name ("conv_init/kernel")."""
        return _shapes(self.module)


@dataclass(frozen=True)
class FrozenTrunk:
    """A trunk with its weights, and a fixed projection of its channels to fewer if it has one."""

    spec: TrunkSpec
    params: Params
    weights: str  # digest of kind and weights
    projection: Projection | None = None

    def __call__(self, images: Images) -> npt.NDArray[np.float16]:
        """Features (N, channels, positions). Raises ValueError for other frames."""
        if len(images) <= AT_ONCE:
            return self.finish(self.spec.apply(self.params, images))
        parts = np.array_split(np.asarray(images), -(-len(images) // AT_ONCE))
        return np.concatenate([self(part) for part in parts])

    def finish(self, seen: jax.Array) -> npt.NDArray[np.float16]:
        """The features (N, channels, positions) of what the trunk's module gives; FloatingPointError if one is bad."""
        features = np.asarray(_finished(self.projection, seen))
        if not np.isfinite(features).all():
            raise FloatingPointError(
                f"trunk {self.spec.name}: features that float16 cannot hold, or NaN: these are not weights of this "
                "trunk, or they expect frames on another scale"
            )
        return features

    @property
    def features(self) -> tuple[int, int]:
        """Channels and positions of one frame's features."""
        rows, columns, channels = self.spec.features
        return channels if self.projection is None else self.projection.matrix.shape[1], rows * columns

    def projected(self, projection: Projection) -> FrozenTrunk:
        """The same trunk, its channels projected."""
        return replace(self, projection=projection)

    @property
    def digest(self) -> str:
        """Of kind, weights and projection: features of equal digest are equal."""
        if self.projection is None:
            return self.weights
        return digest(self.weights, {"mean": self.projection.mean, "matrix": self.projection.matrix})


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    frame = jax.ShapeDtypeStruct((1, *FRAME), np.uint8)
    tree: Any = jax.eval_shape(module.init, jax.random.PRNGKey(0), frame)
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(tree["params"], sep="/"))
    return {name: leaf.shape for name, leaf in flat.items()}


def _untrained(module: nn.Module, seed: int) -> Params:
    """He initialisation; drawn by numpy, because jax would compile for seconds to do it once."""
    rng = np.random.default_rng(seed)
    flat: dict[str, Any] = {}
    for name, shape in sorted(_shapes(module).items()):
        if name.endswith("kernel"):
            spread = np.sqrt(2 / np.prod(shape[:-1]))
            flat[name] = jnp.array(spread * rng.standard_normal(shape), jnp.float32)
        else:
            flat[name] = jnp.full(shape, 1.0 if name.endswith("scale") else 0.0)
    return traverse_util.unflatten_dict(flat, sep="/")


_RESNET10, _RESNET18 = ResNet(), ResNet((2, 2, 2, 2), "affine")
TRUNKS = {
    spec.name: spec
    for spec in (
        TrunkSpec("small", Trunk(), FEATURES, (FLAX, DOTTED), random_trunk),
        TrunkSpec(
            "resnet10", _RESNET10, (4, 4, 512), (FLAX, DOTTED, TRANSFORMERS), functools.partial(_untrained, _RESNET10)
        ),
        TrunkSpec("resnet18", _RESNET18, (4, 4, 512), (TORCHVISION,), functools.partial(_untrained, _RESNET18)),
    )
}


def load_named(name: str, path: Path | None = None, seed: int = 0) -> FrozenTrunk:
    """The trunk of that name with the weights of a file, untrained from ``seed`` without one.

    Raises WeightsError if there is no such trunk or the file does not fit it.
    """
    spec = TRUNKS.get(name)
    if spec is None:
        near = difflib.get_close_matches(name, TRUNKS, 1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise WeightsError(f"no trunk {name!r}, only {', '.join(TRUNKS)}{hint}")
    params = spec.init(seed) if path is None else load_params(spec, path)
    return FrozenTrunk(spec, params, digest(spec.name, params))


def load_params(spec: TrunkSpec, path: Path) -> Params:
    """The parameters of a trunk from a .pkl, .safetensors or .npz file. Raises WeightsError."""
    arrays = load_weights(path, f"trunk {spec.name}", spec.shapes(), spec.namings)
    return traverse_util.unflatten_dict({name: jnp.array(array) for name, array in arrays.items()}, sep="/")


def digest(name: str, arrays: Mapping[str, Any]) -> str:
    """SHA-256 over a name and a tree of arrays: names, dtypes, shapes, bytes."""
    total = hashlib.sha256(name.encode())
    for key, leaf in sorted(traverse_util.flatten_dict(dict(arrays), sep="/").items()):
        array = np.asarray(leaf)
        total.update(f"|{key} {array.dtype.str} {array.shape}|".encode())
        total.update(array.tobytes())
    return total.hexdigest()


@jax.jit
def _finished(projection: Projection | None, seen: jax.Array) -> jax.Array:
    """Compiled as one: operation by operation it would cost an actor half a millisecond of its step."""
    return channels_first(seen if projection is None else projection(seen))


@functools.partial(jax.jit, static_argnums=0)
def _features(module: nn.Module, params: Params, images: Images) -> jax.Array:
    return jnp.asarray(module.apply({"params": params}, images)).astype(jnp.float16)
