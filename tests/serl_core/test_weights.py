import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weight_files import pickled_as_released, safetensors

from serl_core.nets.weights import FLAX, TORCHVISION, TRANSFORMERS, WeightsError, load_weights, read_arrays

SHAPES: dict[str, tuple[int, ...]] = {"conv_init/kernel": (7, 7, 3, 4), "norm_init/scale": (4,), "norm_init/bias": (4,)}
RNG = np.random.default_rng(0)
TREE: dict[str, Any] = {
    "conv_init": {"kernel": RNG.normal(size=(7, 7, 3, 4)).astype(np.float32)},
    "norm_init": {name: RNG.uniform(0.5, 1, 4).astype(np.float32) for name in ("scale", "bias")},
}
TORCH = {
    "conv1.weight": np.ascontiguousarray(TREE["conv_init"]["kernel"].transpose(3, 2, 0, 1)),
    **{f"bn1.{leaf}": RNG.uniform(0.5, 1, 4).astype(np.float32) for leaf in ("weight", "bias")},
    **{f"bn1.running_{leaf}": RNG.uniform(0.5, 1, 4).astype(np.float32) for leaf in ("mean", "var")},
    "bn1.num_batches_tracked": np.array(3),
    "fc.weight": np.zeros((10, 4), np.float32),
}


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def load(path: Path, *namings: Any) -> dict[str, Any]:
    return load_weights(path, "a test", SHAPES, namings or (FLAX, TRANSFORMERS, TORCHVISION))


@pytest.mark.parametrize("kind", ["pkl", "wrapped pkl", "npz", "safetensors"])
def test_the_same_weights_from_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    """Bug: a kind of file is not recognised, or its arrays land under other names."""
    flat = {f"{part}/{leaf}": array for part, leaves in TREE.items() for leaf, array in leaves.items()}
    path = tmp_path / f"weights.{kind.rpartition(' ')[2]}"
    if kind == "npz":
        np.savez(path, **flat)
    else:
        path.write_bytes(
            {
                "pkl": pickled_as_released({**TREE, "output_head": {"bias": np.zeros(3, np.float32)}}),
                "wrapped pkl": pickle.dumps({"params": TREE}),
                "safetensors": safetensors(flat),
            }[kind]
        )
    got = load(path)
    assert got.keys() == SHAPES.keys()
    for name, array in got.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, flat[name])


def test_kernels_of_torch_are_turned_and_batch_norms_folded(tmp_path: Path) -> None:
    """Bug: OIHW is read as HWIO, or the running statistics are left out."""
    got = load(written(tmp_path, "w.safetensors", safetensors(TORCH)))
    np.testing.assert_array_equal(got["conv_init/kernel"], TREE["conv_init"]["kernel"])
    x = RNG.normal(size=(5, 4))
    normed = (x - TORCH["bn1.running_mean"]) / np.sqrt(TORCH["bn1.running_var"] + 1e-5)
    wanted = normed * TORCH["bn1.weight"] + TORCH["bn1.bias"]
    np.testing.assert_allclose(x * got["norm_init/scale"] + got["norm_init/bias"], wanted, rtol=1e-5, atol=1e-6)


def without(key: str) -> dict[str, Any]:
    return {name: array for name, array in TORCH.items() if name != key}


WRONG = TORCH["conv1.weight"].transpose(0, 1, 3, 2)[:, :2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without("bn1.running_var"), r"w.safetensors: for a test bn1.running_var \(4,\) is missing; the file has 'bn1"),
        ({**TORCH, "conv1.weight": WRONG}, r"conv1.weight must be .* \(4, 3, 7, 7\), the file has float32 \(4, 2, 7, "),
        ({**TORCH, "bn1.bias": np.zeros(4, np.int64)}, r"bn1.bias must be floating-point .* int64 \(4,\)"),
        ({**TORCH, "bn1.bias": np.full(4, np.nan, np.float32)}, "bn1.bias has 4 values not finite"),
        ({**TORCH, "bn1.running_var": -np.ones(4, np.float32)}, "bn1.running_var is negative"),
        ({**TORCH, "conv1.bias": np.zeros(4, np.float32)}, r"1 arrays too many, such as conv1.bias \(4,\)"),
        ({}, "is missing; the file has 'nothing'"),
    ],
    ids=range(7),
)
def test_what_does_not_fit_is_named(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Bug: weights of the wrong shape, missing, surplus or spoilt ones are used in part."""
    with pytest.raises(WeightsError, match=message):
        load(written(tmp_path, "w.safetensors", safetensors(arrays)))


def test_group_norms_are_not_taken_for_batch_norms(tmp_path: Path) -> None:
    """Bug: a network with group norms under the same names runs as one without any."""
    arrays = {name: array for name, array in TORCH.items() if "running" not in name}
    with pytest.raises(WeightsError, match=r"bn1\.running_mean .* is missing"):
        load(written(tmp_path, "w.safetensors", safetensors(arrays)))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("w.pth", b"", "read from .pkl, .safetensors, .npz files"),
        ("w.pkl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("w.pkl", b"garbage", "w.pkl: "),
        ("w.npz", b"garbage", "w.npz: not an .npz"),
        ("w.safetensors", b"garbage", "w.safetensors: not safetensors"),
        ("w.pkl", pickle.dumps({"a": {"b": "text"}}), "w.pkl: a/b is a str, not an array"),
        ("w.pkl", pickle.dumps([np.ones(1), None]), "w.pkl: 1 is a NoneType"),
        ("w.pkl", pickle.dumps(3), "w.pkl: the whole is a int"),
        ("w.pkl", pickle.dumps({"a/b": np.ones(1), "a": {"b": np.ones(1)}}), "w.pkl: a/b occurs twice"),
    ],
    ids=range(9),
)
def test_files_that_are_no_weights(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    """Bug: the error does not say which file, or what to do."""
    with pytest.raises(WeightsError, match=message):
        read_arrays(written(tmp_path, name, data))


def test_files_that_are_not_there_or_too_big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: a wrong path ends in a traceback, a huge file in all memory taken."""
    with pytest.raises(WeightsError, match="no such file"):
        read_arrays(tmp_path / "w.pkl")
    with pytest.raises(WeightsError, match="no such file"):
        read_arrays(Path("/dev/zero.pkl"))
    monkeypatch.setattr("serl_core.nets.weights.MAX_BYTES", 1 << 20)
    with pytest.raises(WeightsError, match="3 MB, more than the 1 MB"):
        read_arrays(written(tmp_path, "w.pkl", bytes(3 << 20)))
