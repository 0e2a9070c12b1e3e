"""Arrays from a pickle, without unpickling it.

A pickle is a program; Python's own reader imports and calls whatever it names. This one interprets the
few instructions that arrays in dicts, lists and tuples need and knows a dozen names, for each of which it
does what that function would do to plain data: nothing is imported, nothing is called, nothing is
executed. Any other instruction or name ends the reading with an error that says which.

Instructions are decoded by the standard library's `pickletools`, which only describes.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_STEPS = 100_000  # a network of 1 000 arrays takes about 40 000 instructions
MAX_NODES = 20_000  # containers and leaves of the result, each counted as often as it is referred to
MAX_DEPTH = 16
PROTOCOLS = range(2, 6)

Array = npt.NDArray[Any]
DTYPES = {code: np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")}
NAMES = {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "numpy.core.multiarray._reconstruct": "reconstruct",
    "numpy._core.multiarray._reconstruct": "reconstruct",
    "numpy.core.multiarray.scalar": "scalar",
    "numpy._core.multiarray.scalar": "scalar",
    "numpy.core.numeric._frombuffer": "frombuffer",
    "numpy._core.numeric._frombuffer": "frombuffer",
    "_codecs.encode": "encode",  # how protocol 2 spells bytes
    "jax._src.array._reconstruct_array": "jax",  # since 0.4
    "jax._src.device_array.reconstruct_device_array": "jax",  # until 0.3
    "flax.core.frozen_dict.FrozenDict": "dict",
    "collections.OrderedDict": "dict",
}


@dataclass(frozen=True)
class _Name:
    kind: str


@dataclass
class _Dtype:
    value: np.dtype[Any]


@dataclass
class _Array:
    value: Array | None = None


def read_pickle(data: bytes) -> Any:
    """What the pickle describes: dicts with text keys, lists, tuples, arrays, numbers, text, bytes, None.

    Arrays are read-only. Raises ValueError naming what is refused, damaged or too much.
    """
    machine = _Machine()
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        if count >= MAX_STEPS:
            raise ValueError(f"more than {MAX_STEPS} instructions: not a file of a network's weights")
        machine.step(opcode.name, argument, position or 0)
    return _Result().resolve(machine.pop(), 0)


class _Machine:
    """The stack, the marks and the memo of one reading."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each open mark
        self._memo: dict[int, Any] = {}
        self._steps: dict[str, Callable[[Any], None]] = {
            "PROTO": self._protocol,
            "FRAME": lambda size: None,
            "STOP": lambda nothing: None,
            "NONE": lambda nothing: self._push(None),
            "NEWTRUE": lambda nothing: self._push(True),
            "NEWFALSE": lambda nothing: self._push(False),
            "EMPTY_DICT": lambda nothing: self._push({}),
            "EMPTY_LIST": lambda nothing: self._push([]),
            "EMPTY_TUPLE": lambda nothing: self._push(()),
            "MARK": self._mark,
            "TUPLE": lambda nothing: self._push(tuple(self._pop_mark())),
            "TUPLE1": lambda nothing: self._tuple(1),
            "TUPLE2": lambda nothing: self._tuple(2),
            "TUPLE3": lambda nothing: self._tuple(3),
            "APPEND": lambda nothing: self._extend([self.pop()]),
            "APPENDS": lambda nothing: self._extend(self._pop_mark()),
            "SETITEM": lambda nothing: self._update([self.pop(), self.pop()][::-1]),
            "SETITEMS": lambda nothing: self._update(self._pop_mark()),
            "MEMOIZE": lambda nothing: self._memoize(len(self._memo)),
            "GLOBAL": lambda words: self._name(*words.split(" ", 1)),
            "STACK_GLOBAL": lambda nothing: self._name(*[self.pop(), self.pop()][::-1]),
            "REDUCE": self._reduce,
            "BUILD": self._build,
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._memoize),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), self._recall),
            **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), self._push),
            **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), self._push),
            **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), self._push),
        }

    def step(self, opcode: str, argument: Any, position: int) -> None:
        """Follow one instruction."""
        if opcode not in self._steps:
            names = f" of {argument}" if isinstance(argument, str) else ""
            raise ValueError(f"byte {position}: {opcode}{names} refused: only plain containers of arrays are read")
        self._steps[opcode](argument)

    def pop(self) -> Any:
        """Take what is on top."""
        if not self._stack:
            raise ValueError("damaged: an instruction lacks its operand")
        return self._stack.pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _protocol(self, number: int) -> None:
        if number not in PROTOCOLS:
            raise ValueError(f"pickle protocol {number}: only {PROTOCOLS[0]} to {PROTOCOLS[-1]} are read")

    def _mark(self, _: None) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        if not self._below:
            raise ValueError("damaged: an instruction lacks its mark")
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self, length: int) -> None:
        self._stack.append(tuple([self.pop() for _ in range(length)][::-1]))

    def _extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _update(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values) or not all(isinstance(key, str) for key in keys):
            raise ValueError("a dict with keys that are not text is refused")
        self._top(dict).update(zip(keys, values, strict=True))

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise ValueError(f"damaged: an instruction needs a {kind.__name__} to fill")
        return self._stack[-1]

    def _memoize(self, number: int) -> None:
        self._memo[number] = self._top(object)

    def _recall(self, number: int) -> None:
        if number not in self._memo:
            raise ValueError(f"damaged: refers to object {number}, which is not there")
        self._stack.append(self._memo[number])

    def _name(self, module: Any, name: Any = "") -> None:
        known = NAMES.get(f"{module}.{name}")
        if known is None:
            raise ValueError(f"names {f'{module}.{name}'[:100]!r}, refused: only arrays and plain containers are read")
        self._stack.append(_Name(known))

    def _reduce(self, _: None) -> None:
        arguments, name = self.pop(), self.pop()
        self._stack.append(_made(name, arguments))

    def _build(self, _: None) -> None:
        state = self.pop()
        match self._top(object), state:
            case _Array() as array, tuple():
                array.value = _from_state(state)
            case _Dtype() as dtype, (3, "<" | ">" | "|" | "=" as order, None, None, None, *_):
                dtype.value = dtype.value.newbyteorder(order)
            case target, _:
                raise ValueError(f"the state of a {type(target).__name__.strip('_').lower()} is refused")


def _made(name: Any, arguments: Any) -> Any:
    """What the function of that name would return for plain data."""
    match name, arguments:
        case _Name("reconstruct"), (_Name("ndarray"), (0,), b"b"):
            return _Array()
        case _Name("jax"), (_Name("reconstruct"), (_Name("ndarray"), (0,), b"b"), tuple() as state, dict()):
            return _Array(_from_state(state))
        case _Name("dtype"), (str() as code, *_) if code in DTYPES:
            return _Dtype(DTYPES[code])
        case _Name("scalar"), (_Dtype(dtype), bytes() as raw):
            return _Array(_array(raw, dtype, (), "C"))
        case _Name("frombuffer"), (bytes() | bytearray() as raw, _Dtype(dtype), tuple() as shape, "C" | "F" as order):
            return _Array(_array(raw, dtype, shape, order))
        case _Name("encode"), (str() as text, "latin1"):
            return text.encode("latin1")
        case _Name("dict"), ():
            return {}
        case _Name("dict"), (dict() as plain,):
            return plain
        case _Name(kind), _:
            raise ValueError(f"{kind} with other arguments than an array of plain numbers has: refused")
        case _:
            raise ValueError("calls something that is no known name: refused")


def _from_state(state: tuple[Any, ...]) -> Array:
    match state:
        case (1, tuple() as shape, _Dtype(dtype), bool() as fortran, bytes() as raw):
            return _array(raw, dtype, shape, "F" if fortran else "C")
        case _:
            raise ValueError("an array that is not made of plain numbers is refused")


def _array(raw: bytes | bytearray, dtype: np.dtype[Any], shape: tuple[Any, ...], order: Any) -> Array:
    if len(shape) > MAX_DEPTH or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"damaged: an array of shape {str(shape)[:100]}")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"damaged: {len(raw)} bytes for an array of shape {shape} and dtype {dtype}")
    return np.frombuffer(bytes(raw), dtype).reshape(shape, order=order)


class _Result:
    """Turns what the machine left into plain data; counts, so that shared parts cannot grow without end."""

    def __init__(self) -> None:
        self._nodes = 0

    def resolve(self, node: Any, depth: int) -> Any:
        """The node with every array in its place."""
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise ValueError(f"nested deeper than {MAX_DEPTH} or more than {MAX_NODES} entries: refused")
        match node:
            case _Array(value) if value is not None:
                return value
            case dict():
                return {key: self.resolve(child, depth + 1) for key, child in node.items()}
            case list() | tuple():
                return type(node)(self.resolve(child, depth + 1) for child in node)
            case None | bool() | int() | float() | str() | bytes() | bytearray():
                return node
            case _:
                raise ValueError(f"an unfinished {type(node).__name__.strip('_').lower()} is refused")
