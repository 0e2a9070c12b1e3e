import io
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weight_files import safetensors, with_header

from serl_core.nets.containers import read_npz, read_safetensors

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones((2, 1, 2), np.float16),
    "count": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
}


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def npy(header: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body


def assert_same(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape
        np.testing.assert_array_equal(got[name], array)


def test_safetensors_come_back() -> None:
    """Bug: names, shapes or numbers get mixed up."""
    assert_same(read_safetensors(safetensors(ARRAYS)), ARRAYS)


def test_bfloat16_keeps_its_values() -> None:
    """Bug: the two bytes are taken for a float16."""
    values = np.array([1.0, -2.5, 3e38, 0.0], np.float32)
    raw = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    got = read_safetensors(with_header({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, raw))["x"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, values, rtol=2**-7)


def entry(begin: Any = 0, end: Any = 8, shape: Any = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut off"),
        (b"\xff" * 16, "cut off"),
        (safetensors(ARRAYS)[:40], "cut off"),
        (safetensors(ARRAYS)[:-1], "bytes|cut off"),
        (safetensors(ARRAYS) + b"x", "cut off or overlapping"),
        (struct.pack("<Q", 2) + b"[]", "not an object"),
        (struct.pack("<Q", 20_000) + b"[" * 20_000, "header is damaged"),
        (struct.pack("<Q", 17) + b'{"a": {}, "a": 1}', "occurs twice"),
        (with_header({"x": 3}, b""), "x: no dtype"),
        (with_header(entry(dtype="F8_E4M3"), b"\0" * 8), "x: dtype F8_E4M3"),
        (with_header(entry(end=80), b"\0" * 8), "x: bytes 0 to 80 of a body of 8"),
        (with_header(entry(begin=-8, end=0), b"\0" * 8), "x: bytes -8 to 0"),
        (with_header(entry(begin=8, end=0), b"\0" * 8), "x: bytes 8 to 0"),
        (with_header(entry(shape=[3]), b"\0" * 8), "x: 8 bytes for shape"),
        (with_header(entry(shape=[-1, -2]), b"\0" * 8), "x: shape"),
        (with_header(entry(shape=[2.0]), b"\0" * 8), "x: shape"),
        (with_header(entry(shape=[1 << 62, 1 << 62]), b"\0" * 8), "x: 8 bytes for shape"),
    ],
    ids=range(17),
)
def test_damaged_safetensors(data: bytes, message: str) -> None:
    """Bug: a header that lies reads other memory, reserves it, or gives half of the weights."""
    with pytest.raises(ValueError, match=message):
        read_safetensors(data)


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_comes_back(compressed: bool) -> None:
    """Bug: names, shapes, order or numbers get mixed up."""
    arrays = {**ARRAYS, "Conv_0/kernel": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "big": np.ones(3, ">f4")}
    assert_same(read_npz(npz(compressed, **arrays)), arrays)


def test_a_torch_archive_is_told_apart() -> None:
    """Bug: a .pt renamed to .npz fails with words about zip members."""
    with pytest.raises(ValueError, match="save the state_dict"):
        read_npz(zipped("archive/data.pkl", b"\x80\x02."))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an .npz"),
        (npz(x=np.zeros(100))[:-30], "not an .npz"),
        (npz(x=np.array([{}], object)), "x.npy: not an array of plain numbers"),
        (npz(x=np.zeros(2, [("a", "f4")])), "x.npy: not an array of plain numbers"),
        (
            zipped("x.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999, 999999), }")),
            "x.npy: 0 b",
        ),
        (
            zipped("x.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 9000 + "), }")),
            "not an ar",
        ),
        (zipped("x.npy", npy("__import__('os').system('true')")), "not an array"),
        (zipped("x.npy", b""), "not an array"),
    ],
    ids=range(8),
)
def test_damaged_npz(data: bytes, message: str) -> None:
    """Bug: objects are unpickled, a header is evaluated, or reserves memory that the file does not fill."""
    with pytest.raises(ValueError, match=message):
        read_npz(data)


def test_a_zip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: a megabyte of zip becomes all memory."""
    monkeypatch.setattr("serl_core.nets.containers.MAX_UNPACKED", 1 << 20)
    with pytest.raises(ValueError, match="more than 1 MB when unpacked"):
        read_npz(zipped("x.npy", b"\0" * (2 << 20)))


def spoilt(whole: bytes) -> st.SearchStrategy[bytes]:
    edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6)

    def spoil(edits: list[tuple[int, int]], length: int) -> bytes:
        data = bytearray(whole)
        for place, value in edits:
            data[place % len(data)] = value
        return bytes(data[: len(data) - length])

    return st.builds(spoil, edits, st.sampled_from([0, 0, 0, 1, 30]))


# zipfile itself warns of names that occur twice
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.one_of(spoilt(safetensors(ARRAYS)), spoilt(npz(**ARRAYS)), spoilt(npz(True, **ARRAYS)), st.binary()))
@settings(max_examples=300, deadline=None)
def test_anything_is_read_or_refused(data: bytes) -> None:
    """Bug: a file that nobody thought of ends in a crash instead of an error with its name."""
    for read in (read_safetensors, read_npz):
        try:
            read(data)
        except ValueError as error:
            assert str(error)
