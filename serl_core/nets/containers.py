"""Flat files of arrays: safetensors and numpy's .npz, read without trust in what their headers claim.

https://huggingface.co/docs/safetensors: 8 bytes length (little-endian), a JSON object of names, then the
numbers. An .npz is a zip of .npy files; numpy's own reader allocates what a header asks for before it looks.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_HEADER = 10 << 20  # bytes; a thousand arrays take 100 kB
MAX_UNPACKED = 1 << 30  # bytes of all members of an .npz
Array = npt.NDArray[Any]

SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
SAFETENSORS |= {"I8": "i1", "U8": "u1", "BOOL": "b1"}
NPY = re.compile(
    rb"\{'descr': '([<>|][fiub]\d)', 'fortran_order': (False|True), 'shape': \((\d{1,9}(?:, \d{1,9})*,?|)\), \}\s*"
)
MAX_NPY_HEADER = 10_000  # bytes, numpy's own limit


def read_safetensors(data: bytes) -> dict[str, Array]:
    """The arrays of a safetensors file by name; BF16 becomes float32. Raises ValueError saying what is wrong."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MAX_HEADER, len(data) - 8):
        raise ValueError(f"not safetensors, or cut off: a header of {size} bytes in a file of {len(data)}")
    try:
        header = json.loads(data[8 : 8 + size], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the safetensors header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise ValueError("the safetensors header is not an object of names")
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + size :]
    arrays = {name: _tensor(name, entry, body) for name, entry in header.items()}
    claimed = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values())
    if claimed != len(body):
        raise ValueError(f"the arrays claim {claimed} bytes, the file has {len(body)}: cut off or overlapping")
    return arrays


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name occurs twice")
    return entries


def _tensor(name: str, entry: Any, body: memoryview) -> Array:
    match entry:
        case {"dtype": str() as code, "shape": list() as shape, "data_offsets": [int() as begin, int() as end]}:
            pass
        case _:
            raise ValueError(f"{name}: no dtype, shape and data_offsets")
    if code not in SAFETENSORS:
        raise ValueError(f"{name}: dtype {code} is not read, only {', '.join(SAFETENSORS)}")
    if not 0 <= begin <= end <= len(body):
        raise ValueError(f"{name}: bytes {begin} to {end} of a body of {len(body)}")
    array = _view(name, bytes(body[begin:end]), np.dtype(SAFETENSORS[code]), shape)
    return (array.astype(np.uint32) << 16).view(np.float32) if code == "BF16" else array


def _view(name: str, raw: bytes, dtype: np.dtype[Any], shape: list[Any], order: Any = "C") -> Array:
    if len(shape) > 8 or not all(isinstance(length, int) and length >= 0 for length in shape):
        raise ValueError(f"{name}: shape {str(shape)[:100]}")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"{name}: {len(raw)} bytes for shape {tuple(shape)} and dtype {dtype}")
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def read_npz(data: bytes) -> dict[str, Array]:
    """The arrays of an .npz by name; arrays of objects are refused. Raises ValueError saying what is wrong."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_UNPACKED:
                raise ValueError(f"more than {MAX_UNPACKED >> 20} MB when unpacked")
            return {member.filename.removesuffix(".npy"): _member(archive, member) for member in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(f"not an .npz, or damaged: {error}") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    if not member.filename.endswith(".npy"):
        raise ValueError(f"{member.filename} is no .npy: not an .npz (of a .pt, save the state_dict as .safetensors)")
    with archive.open(member) as file:
        raw = file.read(member.file_size + 1)  # never more than announced: a zip can grow a thousandfold
    wide = 4 if raw[6:7] > b"\x01" else 2
    begin = 8 + wide
    end = begin + int.from_bytes(raw[8:begin], "little")
    header = NPY.fullmatch(raw[begin:end]) if end - begin <= MAX_NPY_HEADER else None
    if raw[:6] != b"\x93NUMPY" or header is None:
        raise ValueError(f"{member.filename}: not an array of plain numbers")
    descr, fortran, shape = (group.decode() for group in header.groups())
    lengths = [int(length) for length in shape.split(",") if length.strip()]
    return _view(member.filename, raw[end:], np.dtype(descr), lengths, "F" if fortran == "True" else "C")
