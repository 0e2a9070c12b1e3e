"""Weights from files that others wrote: SERL's released pickle, safetensors, .npz.

Nothing in a file is trusted or executed, nothing is skipped in silence: every array of the network must be
there with its shape, finite, and every array of the file must be known or belong to a classifier's head.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serl_core.nets.containers import read_npz, read_safetensors
from serl_core.nets.pickled import read_pickle

MAX_BYTES = 512 << 20  # a trunk that a robot's computer can run has some ten MB
BATCH_NORM_EPSILON = 1e-5  # PyTorch's
HEADS = re.compile(r"(output_head|fc|classifier|head)[./].*|.*\.num_batches_tracked")  # not part of a trunk

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
READERS: dict[str, Callable[[bytes], Any]] = {
    ".pkl": read_pickle,
    ".safetensors": read_safetensors,
    ".npz": read_npz,
}


class WeightsError(ValueError):
    """Weights that do not fit; the text names file, array and shapes."""


@dataclass(frozen=True)
class Naming:
    """How a family of files calls the arrays of a network."""

    key: Callable[[str], str]  # our "ResNetBlock_1/Conv_0/kernel" → the file's name of it
    torch: bool = False  # kernels are (out, in, rows, columns) instead of (rows, columns, in, out)
    batch_norm: bool = False  # four arrays per norm, folded here into "scale" and "bias"


@dataclass(frozen=True)
class _Family:
    """A naming of residual networks by their parts; hashable, unlike a closure over dicts."""

    stem: tuple[str, str]  # convolution, norm
    block: str  # with {block}, {stage} and {place} as fields; both counted from 0, {layer} from 1
    norm: str  # the norms of a block are {norm}1 and {norm}2
    shortcut: str

    def key(self, ours: str) -> str:
        """The family's name of "conv_init/kernel" or "ResNetBlock_1/MyGroupNorm_0/scale"."""
        *block, part, leaf = ours.split("/")
        names = {"conv_init": self.stem[0], "norm_init": self.stem[1]}
        names |= {"Conv_0": "conv1", "Conv_1": "conv2"}
        names |= {"MyGroupNorm_0": f"{self.norm}1", "MyGroupNorm_1": f"{self.norm}2"}
        names |= {"conv_proj": f"{self.shortcut}.0", "norm_proj": f"{self.shortcut}.1"}
        number = int(block[0].removeprefix("ResNetBlock_")) if block else 0
        prefix = self.block.format(block=number, layer=number // 2 + 1, place=number % 2) if block else ""
        return f"{prefix}{names[part]}.{'bias' if leaf == 'bias' else 'weight'}"


def _dotted(ours: str) -> str:
    return ours.replace("/", ".")


FLAX = Naming(str)  # as SERL's release, and as our own files
DOTTED = Naming(_dotted)  # the same tree, flattened with dots
TRANSFORMERS = Naming(  # the release as converted for LeRobot's HIL-SERL: group norms, PyTorch's layout
    _Family(("embedder.0", "embedder.1"), "encoder.stages.{block}.", "norm", "shortcut").key, torch=True
)
TORCHVISION = Naming(  # torchvision and timm, two basic blocks per layer
    _Family(("conv1", "bn1"), "layer{layer}.{place}.", "bn", "downsample").key, torch=True, batch_norm=True
)


def read_arrays(path: Path) -> dict[str, Array]:
    """All arrays of a .pkl, .safetensors or .npz file by name, nested names joined by "/". Raises WeightsError."""
    reader = READERS.get(path.suffix)
    if reader is None:
        raise WeightsError(f"{path}: weights are read from {', '.join(READERS)} files")
    try:
        if not path.is_file():
            raise WeightsError(f"{path}: no such file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise WeightsError(f"{path}: {size >> 20} MB, more than the {MAX_BYTES >> 20} MB that a trunk may have")
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error}") from error
    if data.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: only a pointer of Git LFS: fetch the file itself (git lfs pull)")
    try:
        return _flat(reader(data))
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def load_weights(
    path: Path, network: str, expected: Mapping[str, tuple[int, ...]], namings: Sequence[Naming]
) -> dict[str, Floats]:
    """The arrays that ``expected`` names with their shapes, from a file that follows one of ``namings``.

    Raises WeightsError naming file, array and shapes; ``network`` is its name in the text.
    """
    arrays = read_arrays(path)
    naming = max(namings, key=lambda one: sum(one.key(name) in arrays for name in expected))
    taking = _Taking(f"{path}: for {network}", arrays)
    found = {name: taking.take(name, shape, naming) for name, shape in expected.items()}
    taking.finish()
    return found


class _Taking:
    """Takes arrays out of a file one by one and knows what is left."""

    def __init__(self, where: str, arrays: Mapping[str, Array]) -> None:
        self._where = where
        self._arrays = arrays
        self._used: set[str] = set()

    def take(self, ours: str, shape: tuple[int, ...], naming: Naming) -> Floats:
        """One array of the network, in our layout."""
        key = naming.key(ours)
        if naming.torch and len(shape) == 4:
            rows, columns, inputs, outputs = shape
            return self._array(key, (outputs, inputs, rows, columns)).transpose(2, 3, 1, 0)
        if naming.batch_norm:
            scale, bias = self._folded(key.rpartition(".")[0], shape)
            return scale if ours.endswith("scale") else bias
        return self._array(key, shape)

    def finish(self) -> None:
        """Raise if something is left that is no classifier's head."""
        left = sorted(key for key in self._arrays if key not in self._used and not HEADS.fullmatch(key))
        if left:
            shapes = ", ".join(f"{key} {self._arrays[key].shape}" for key in left[:3])
            raise WeightsError(f"{self._where} the file has {len(left)} arrays too many, such as {shapes}")

    def _array(self, key: str, shape: tuple[int, ...]) -> Floats:
        if key not in self._arrays:
            near = difflib.get_close_matches(key, self._arrays, 1) or sorted(self._arrays)[:1] or ["nothing"]
            raise WeightsError(f"{self._where} {key} {shape} is missing; the file has {near[0]!r}")
        array = self._arrays[key]
        if array.shape != shape or array.dtype.kind != "f":
            has = f"{array.dtype} {array.shape}"
            raise WeightsError(f"{self._where} {key} must be floating-point numbers {shape}, the file has {has}")
        if not np.isfinite(array).all():
            raise WeightsError(f"{self._where} {key} has {np.count_nonzero(~np.isfinite(array))} values not finite")
        self._used.add(key)
        return array.astype(np.float32)

    def _folded(self, norm: str, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
        names = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, variance = (self._array(f"{norm}.{name}", shape) for name in names)
        if (variance < 0).any():
            raise WeightsError(f"{self._where} {norm}.running_var is negative")
        scale = (weight / np.sqrt(variance + BATCH_NORM_EPSILON)).astype(np.float32)
        return scale, (bias - mean * scale).astype(np.float32)


def _flat(tree: Any) -> dict[str, Array]:
    """Nested dicts and lists of arrays as one dict; a wrapping "params" is dropped. Raises ValueError."""
    if isinstance(tree, dict) and tree.keys() == {"params"}:
        tree = tree["params"]
    found: dict[str, Array] = {}
    pending = [("", tree)]
    while pending:
        name, node = pending.pop()
        if isinstance(node, dict | list | tuple):
            children = node.items() if isinstance(node, dict) else enumerate(node)
            pending += [(f"{name}/{key}" if name else str(key), child) for key, child in children]
        elif not isinstance(node, np.ndarray):
            raise ValueError(f"{name or 'the whole'} is a {type(node).__name__}, not an array")
        elif name in found:
            raise ValueError(f"{name} occurs twice")
        else:
            found[name] = node
    return found
