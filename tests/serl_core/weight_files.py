"""Files of weights as others write them, written independently of what reads them."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from jax._src.array import _reconstruct_array

Array = npt.NDArray[Any]
WIDTHS = (64, 128, 256, 512)


class JaxLeaf:
    """Pickles as an array of jax 0.4.20 does, which SERL's release was saved with."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __reduce__(self) -> tuple[Any, ...]:
        function, arguments, state = self._array.__reduce__()
        return _reconstruct_array, (function, arguments, state, {"weak_type": False, "named_shape": {}})


class OldNumpy(pickle._Pickler):
    """Names numpy's functions as before 2.0."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if getattr(obj, "__module__", "") != "numpy._core.multiarray":
            return super().save_global(obj, name)
        self.save("numpy.core.multiarray")
        self.save(obj.__name__)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, type(_reconstruct_array): save_global}


def pickled_as_released(tree: Any) -> bytes:
    """Protocol 4, arrays of jax, numpy 1's names."""
    leaves = map_leaves(tree, JaxLeaf)
    file = io.BytesIO()
    OldNumpy(file, 4).dump(leaves)
    return file.getvalue()


def map_leaves(tree: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(tree, dict):
        return {name: map_leaves(child, function) for name, child in tree.items()}
    return function(tree)


def released_tree(seed: int) -> dict[str, Any]:
    """Random numbers in the shape of SERL's resnet10_params.pkl, the classifier's head included."""
    rng = np.random.default_rng(seed)

    def kernel(*shape: int) -> dict[str, Array]:
        return {"kernel": rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)}

    def norm(width: int) -> dict[str, Array]:
        return {name: rng.uniform(low, 1.2, width).astype(np.float32) for name, low in (("scale", 0.5), ("bias", -1.0))}

    tree: dict[str, Any] = {"conv_init": kernel(7, 7, 3, 64), "norm_init": norm(64)}
    before = 64
    for number, width in enumerate(WIDTHS):
        block = {"Conv_0": kernel(3, 3, before, width), "MyGroupNorm_0": norm(width)}
        block |= {"Conv_1": kernel(3, 3, width, width), "MyGroupNorm_1": norm(width)}
        if number:
            block |= {"conv_proj": kernel(1, 1, before, width), "norm_proj": norm(width)}
        tree[f"ResNetBlock_{number}"] = block
        before = width
    tree["output_head"] = {**kernel(512, 1000), "bias": np.zeros(1000, np.float32)}
    return tree


def lerobot_arrays(tree: Mapping[str, Any]) -> dict[str, Array]:
    """The same weights as LeRobot's conversion to PyTorch names and lays them out."""
    arrays = {
        "embedder.0.weight": oihw(tree["conv_init"]["kernel"]),
        "embedder.1.weight": tree["norm_init"]["scale"],
        "embedder.1.bias": tree["norm_init"]["bias"],
    }
    for number in range(4):
        block, stage = tree[f"ResNetBlock_{number}"], f"encoder.stages.{number}."
        for place in (0, 1):
            arrays[f"{stage}conv{place + 1}.weight"] = oihw(block[f"Conv_{place}"]["kernel"])
            arrays[f"{stage}norm{place + 1}.weight"] = block[f"MyGroupNorm_{place}"]["scale"]
            arrays[f"{stage}norm{place + 1}.bias"] = block[f"MyGroupNorm_{place}"]["bias"]
        if number:
            arrays[f"{stage}shortcut.0.weight"] = oihw(block["conv_proj"]["kernel"])
            arrays[f"{stage}shortcut.1.weight"] = block["norm_proj"]["scale"]
            arrays[f"{stage}shortcut.1.bias"] = block["norm_proj"]["bias"]
    return arrays


def torchvision_arrays(seed: int) -> dict[str, Array]:
    """Random numbers in the shape of torchvision's resnet18, head and counters included."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}

    def conv(name: str, outputs: int, inputs: int, size: int) -> None:
        spread = np.sqrt(2 / (inputs * size * size))
        arrays[f"{name}.weight"] = rng.normal(0, spread, (outputs, inputs, size, size)).astype(np.float32)

    def batch_norm(name: str, width: int) -> None:
        lows = {"weight": 0.5, "bias": -0.5, "running_mean": -0.5, "running_var": 0.5}
        arrays.update({f"{name}.{leaf}": rng.uniform(low, 1, width).astype(np.float32) for leaf, low in lows.items()})
        arrays[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", 64, 3, 7)
    batch_norm("bn1", 64)
    before = 64
    for layer, width in enumerate(WIDTHS, 1):
        for place in (0, 1):
            for number, inputs in ((1, before), (2, width)):
                conv(f"layer{layer}.{place}.conv{number}", width, inputs, 3)
                batch_norm(f"layer{layer}.{place}.bn{number}", width)
            if layer > 1 and not place:
                conv(f"layer{layer}.0.downsample.0", width, before, 1)
                batch_norm(f"layer{layer}.0.downsample.1", width)
            before = width
    arrays["fc.weight"], arrays["fc.bias"] = np.zeros((1000, 512), np.float32), np.zeros(1000, np.float32)
    return arrays


def oihw(kernel: Array) -> Array:
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def safetensors(arrays: Mapping[str, Array]) -> bytes:
    """Laid out as the format's page says."""
    names = {"float32": "F32", "float16": "F16", "int64": "I64", "uint8": "U8"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    return with_header(header, b"".join(array.tobytes() for array in arrays.values()))


def with_header(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
