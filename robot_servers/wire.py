"""Trees of plain values and arrays ↔ message frames. Nothing that arrives is ever executed or unpickled.

A message is a list of frames. Frame 0 is a msgpack header: the tree itself, in which every array is
an extension ``[dtype, index, *shape]``. Frames 1 … n are the arrays' bytes (C-contiguous,
little-endian), in the order in which the tree mentions them.

A tree is made of None, bool, int (64 bit), float, str, bytes, lists or tuples (both arrive as
lists), dicts with str keys, and numpy arrays and scalars (scalars arrive as plain values). Decoded
arrays are views of the received bytes, hence **read-only**: copy before writing.

Dataclasses travel as dicts tagged with their class name. Every fault is a `WireError` that names it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import struct
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgpack
import numpy as np
import numpy.typing as npt

Tree: TypeAlias = Any
Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_BYTES = 64 << 20  # of one message, all frames together
MAX_HEADER = 8 << 20  # large blobs belong into uint8 arrays
MAX_ARRAYS = 4096
MAX_ITEMS = 16_384  # per list or dict; longer ones belong into arrays
MAX_DEPTH = 32
MAX_NDIM = 8

_ARRAY = 1  # msgpack extension code
_PLAIN = frozenset((type(None), bool, int, float, str, bytes))  # what msgpack writes and reads as it is
_TEXT = frozenset((str,))
_LEAVES = _PLAIN | {np.ndarray}
_CODES = ("|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")
_DTYPES = {code: np.dtype(code) for code in _CODES}
_MAGIC = b"SWB1"
_ALIGN = 8  # so that arrays inside a blob are aligned
_PADDING = [bytes(-length % _ALIGN) for length in range(_ALIGN)]


class WireError(ValueError):
    """A tree that cannot travel, or bytes that are not a message; the text names the fault."""


# ── trees ↔ frames ───────────────────────────────────────────────────────────────────────────────


def encode(tree: Tree) -> list[Buffer]:
    """Frames of ``tree``. Array frames are views: leave the arrays alone until the frames are sent.

    Raises `WireError` on what cannot travel: other types, integers beyond 64 bit, nesting over the cap.
    """
    buffers: list[Buffer] = []
    lowered = _lower(tree, 0, buffers)
    try:
        header = msgpack.packb(lowered, use_bin_type=True)
    except (ValueError, OverflowError) as error:
        raise WireError(f"value that cannot travel: {error}") from error
    if header is None or len(header) > MAX_HEADER:
        raise WireError(f"header exceeds {MAX_HEADER} bytes: put large blobs into uint8 arrays")
    return [header, *buffers]


def decode(frames: Sequence[Buffer], max_bytes: int = MAX_BYTES, max_frames: int = MAX_ARRAYS + 1) -> Tree:
    """The tree of a message. Raises `WireError` on anything malformed, oversized or truncated."""
    _check_sizes(frames, max_bytes, max_frames)
    buffers = [memoryview(frame).toreadonly() for frame in frames[1:]]
    waiting = iter(enumerate(buffers))

    def array(code: int, data: bytes) -> npt.NDArray[Any]:
        if code != _ARRAY:
            raise WireError(f"unknown extension {code} in the header")
        index, buffer = next(waiting, (len(buffers), None))
        if buffer is None:
            raise WireError(f"the header names more arrays than the {len(buffers)} buffers that came")
        return _array(data, index, buffer)

    tree = _unpack(frames[0], array)
    _check_tree(tree, 0)
    if next(waiting, None) is not None:
        raise WireError(f"{len(buffers)} buffers came, the header names fewer arrays")
    return tree


def pack(tree: Tree) -> bytes:
    """``tree`` as one blob, for files: magic, number of frames, their lengths, the frames (8-byte aligned)."""
    return b"".join(pack_parts(tree))


def pack_parts(tree: Tree) -> list[Buffer]:
    """The pieces of `pack`, to be put together where they are needed. Views of the arrays, as `encode` gives them."""
    frames = encode(tree)
    lengths = list(map(len, frames))
    parts: list[Buffer] = [_MAGIC, struct.pack(f"<I{len(lengths)}Q", len(lengths), *lengths)]
    for frame, length in zip(frames, lengths, strict=True):
        parts += [frame, _PADDING[length % _ALIGN]]
    return parts


def unpack(blob: Buffer, max_bytes: int = MAX_BYTES) -> Tree:
    """The inverse of `pack`; arrays are read-only views of ``blob``. Raises `WireError` like `decode`."""
    view = memoryview(blob).cast("B").toreadonly()
    if len(view) < 8 or view[:4] != _MAGIC:
        raise WireError("not a packed tree: the magic bytes are missing")
    (count,) = struct.unpack_from("<I", view, 4)
    offset = 8 + 8 * count
    if count > MAX_ARRAYS + 1 or offset > len(view):
        raise WireError(f"truncated blob: {count} frames announced in {len(view)} bytes")
    frames: list[Buffer] = []
    for length in struct.unpack_from(f"<{count}Q", view, 8):
        frames.append(view[offset : offset + length])
        offset += length + -length % _ALIGN
    if offset != len(view):
        raise WireError(f"blob of {len(view)} bytes, but its frames end at {offset}")
    return decode(frames, max_bytes)


def _lower(node: Tree, depth: int, buffers: list[Buffer]) -> Tree:
    """``node`` as msgpack can write it; the bytes of its arrays are appended to ``buffers``."""
    kind = type(node)  # the common kinds first: to ask whether something is a Mapping takes a microsecond
    if kind in _PLAIN:
        return node
    if isinstance(node, np.ndarray):
        return _describe(node, buffers)
    if isinstance(node, np.generic):
        node = node.item()
    if isinstance(node, (bool, int, float, str, bytes)):  # also of a subclass
        return node
    if depth >= MAX_DEPTH:
        raise WireError(f"tree nested deeper than {MAX_DEPTH}")
    if kind is dict or isinstance(node, Mapping):
        _check_count(node)
        _check_keys(node)
        return {
            key: value if type(value) in _PLAIN else _lower(value, depth + 1, buffers)  # most are: no call
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        _check_count(node)
        return [_lower(value, depth + 1, buffers) for value in node]
    raise WireError(f"a {type(node).__name__} cannot travel; use plain values, lists, dicts and arrays")


def _describe(array: npt.NDArray[Any], buffers: list[Buffer]) -> msgpack.ExtType:
    code = _code(array.dtype)
    if array.ndim > MAX_NDIM or len(buffers) >= MAX_ARRAYS:
        raise WireError(f"more than {MAX_NDIM} dimensions or {MAX_ARRAYS} arrays")
    descriptor = _descriptor(code, len(buffers), array.shape)
    contiguous = np.ascontiguousarray(array, dtype=_DTYPES[code])
    buffers.append(contiguous.data.cast("B") if array.size else b"")
    return descriptor


# Messages repeat, and half the cost of a small array was its description: hence the caches here and below.


@functools.lru_cache(64)
def _code(dtype: np.dtype[Any]) -> str:
    code = dtype.newbyteorder("<").str
    if code not in _DTYPES:
        raise WireError(f"an array of dtype {dtype} cannot travel; allowed: {', '.join(_CODES)}")
    return code


@functools.lru_cache(1024)
def _descriptor(dtype: str, index: int, shape: tuple[int, ...]) -> msgpack.ExtType:
    return msgpack.ExtType(_ARRAY, msgpack.packb([dtype, index, *shape]) or b"")


def _check_sizes(frames: Sequence[Buffer], max_bytes: int, max_frames: int) -> None:
    if not frames:
        raise WireError("empty message: no header frame")
    _check_size("frames", len(frames), max_frames)
    _check_size("header bytes", len(frames[0]), MAX_HEADER)
    _check_size("bytes", sum(map(len, frames)), max_bytes)


def _check_size(what: str, size: int, cap: int) -> None:
    if size > cap:
        raise WireError(f"message of {size} {what}; at most {cap} are allowed")


def _unpack(data: Buffer, array: Callable[[int, bytes], Any]) -> Tree:
    # msgpack reserves room for a list before it has seen the items: without these caps a short
    # message of nested list headers would claim gigabytes.
    cap = min(MAX_ITEMS, len(data))
    try:
        return msgpack.unpackb(data, raw=False, ext_hook=array, max_array_len=cap, max_map_len=cap)
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"malformed header: {error or type(error).__name__}") from error


def _array(descriptor: bytes, index: int, buffer: Buffer) -> npt.NDArray[Any]:
    dtype, shape, size = _described(descriptor, index)
    if size != len(buffer):
        raise WireError(f"array {index}: {dtype} of shape {shape} does not fill {len(buffer)} bytes")
    try:
        return np.ndarray(shape, dtype, buffer)
    except (ValueError, TypeError) as error:
        raise WireError(f"array {index}: shape {shape} is impossible: {error}") from error


@functools.lru_cache(1024)
def _described(descriptor: bytes, index: int) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """dtype, shape and size in bytes of array number ``index``. Raises `WireError`."""
    fields = _unpack(descriptor, lambda code, data: None)
    if not isinstance(fields, list) or len(fields) < 2 or len(fields) > MAX_NDIM + 2:
        raise WireError("malformed array descriptor")
    name, place, *shape = fields
    dtype = _DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise WireError(f"array of dtype {name!r:.40} is not allowed")
    if place != index or not all(type(size) is int and size >= 0 for size in shape):
        raise WireError(f"array {index}: malformed index or shape")
    return dtype, tuple(shape), math.prod(shape) * dtype.itemsize


def _check_tree(node: Tree, depth: int) -> None:
    """Refuse what msgpack lets through: other types, keys that are not str, too deep nesting."""
    kind = type(node)
    if kind in _LEAVES:
        return
    if depth >= MAX_DEPTH:
        raise WireError(f"tree nested deeper than {MAX_DEPTH}")
    if kind is dict:
        _check_keys(node)
        node = node.values()
    elif kind is not list:
        raise WireError(f"a {kind.__name__} is not allowed in a message")
    for value in node:
        if type(value) not in _LEAVES:  # most are: no call
            _check_tree(value, depth + 1)


def _check_count(node: Mapping[str, Tree] | Sequence[Tree]) -> None:
    if len(node) > MAX_ITEMS:
        raise WireError(f"{len(node)} items in one container; at most {MAX_ITEMS}: use an array")


def _check_keys(node: Mapping[Any, Any]) -> None:
    if set(map(type, node)) - _TEXT:  # all at once
        for key in node:
            _key(key)


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise WireError(f"dict key {key!r:.40} is not a str")
    return key


# ── dataclasses ↔ trees ──────────────────────────────────────────────────────────────────────────


def to_tree(value: Any) -> Tree:
    """Dataclasses, also nested in containers, as dicts with their class name under "kind"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {name: to_tree(getattr(value, name)) for name in value.__dataclass_fields__}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {key: to_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_tree(item) for item in value]
    return value


def from_tree(kind: Any, tree: Tree) -> Any:
    """The inverse of `to_tree` for a value annotated as ``kind``: a dataclass, a union of them, a container.

    Strict: whatever does not fit is a `WireError` that names the field. Only ints become floats, lists tuples, and
    arrays are cast where that is safe.
    """
    return _reader(kind)(tree)


@functools.cache
def _reader(kind: Any) -> Callable[[Tree], Any]:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda tree: tree
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass_reader(kind)
    if origin in (typing.Union, types.UnionType):
        return _union_reader(args)
    if origin is typing.Literal:
        return functools.partial(_one_of, args)
    if origin is tuple:
        return _tuple_reader(args)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return functools.partial(_mapping, _reader(args[1]))
    if origin is np.ndarray:
        return functools.partial(_cast, np.dtype(typing.get_args(args[1])[0]))
    return functools.partial(_plain, typing.cast(type[Any], kind))


def _dataclass_reader(kind: type[Any]) -> Callable[[Tree], Any]:
    hints = typing.get_type_hints(kind)
    readers = {item.name: _reader(hints[item.name]) for item in dataclasses.fields(kind)}

    def read(tree: Tree) -> Any:
        if _tag(tree) != kind.__name__:
            raise WireError(f"expected a {kind.__name__}, got {_brief(tree)}")
        wrong = (tree.keys() ^ readers.keys()) - {"kind"}
        if wrong:
            raise WireError(f"{kind.__name__}: missing or unknown fields {sorted(wrong)}")
        values = {}
        for name, reader in readers.items():
            try:
                values[name] = reader(tree[name])
            except WireError as error:
                raise WireError(f"{kind.__name__}.{name}: {error}") from error
        return kind(**values)

    return read


def _union_reader(members: tuple[type[Any], ...]) -> Callable[[Tree], Any]:
    tagged = {member.__name__: _reader(member) for member in members if dataclasses.is_dataclass(member)}
    plain = {member.__name__: _reader(member) for member in members if member.__name__ not in tagged}

    def read(tree: Tree) -> Any:
        if _tag(tree) in tagged:
            return tagged[_tag(tree)](tree)
        for reader in plain.values():
            try:
                return reader(tree)
            except WireError:
                continue
        raise WireError(f"expected one of {', '.join([*tagged, *plain])}, got {_brief(tree)}")

    return read


def _tuple_reader(args: tuple[Any, ...]) -> Callable[[Tree], tuple[Any, ...]]:
    readers = [_reader(arg) for arg in args if arg is not Ellipsis]
    size = None if Ellipsis in args else len(args)

    def read(tree: Tree) -> tuple[Any, ...]:
        if not isinstance(tree, (list, tuple)):
            raise WireError(f"expected a list, got {_brief(tree)}")
        if size is not None and len(tree) != size:
            raise WireError(f"expected {size} items, got {len(tree)}")
        each = readers * len(tree) if size is None else readers
        return tuple(reader(item) for reader, item in zip(each, tree, strict=True))

    return read


def _one_of(values: tuple[Any, ...], tree: Tree) -> Any:
    if not isinstance(tree, (str, int)) or tree not in values:
        raise WireError(f"expected one of {', '.join(map(str, values))}, got {_brief(tree)}")
    return tree


def _mapping(reader: Callable[[Tree], Any], tree: Tree) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise WireError(f"expected a dict, got {_brief(tree)}")
    return {_key(key): reader(value) for key, value in tree.items()}


def _cast(dtype: np.dtype[Any], tree: Tree) -> npt.NDArray[Any]:
    if not isinstance(tree, np.ndarray):
        raise WireError(f"expected an array of {dtype}, got {_brief(tree)}")
    if not np.can_cast(tree.dtype, dtype, "safe"):
        raise WireError(f"expected an array of {dtype}, got one of {tree.dtype}")
    return tree.astype(dtype, copy=False)


def _plain(kind: type[Any], tree: Tree) -> Any:
    if kind is float and type(tree) is int:
        return float(tree)
    if type(tree) is not kind:
        raise WireError(f"expected {kind.__name__}, got {_brief(tree)}")
    return tree


def _tag(tree: Tree) -> str:
    tag = tree.get("kind") if isinstance(tree, dict) else None
    return tag if isinstance(tag, str) else ""


def _brief(tree: Tree) -> str:
    if _tag(tree):
        return f"a {_tag(tree):.40}"
    return f"{type(tree).__name__} {tree!r:.40}" if isinstance(tree, (bool, int, float, str)) else type(tree).__name__
