import collections
import os
import pickle
import pickletools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.core
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from weight_files import pickled_as_released

from serl_core.nets.pickled import read_pickle

PLAIN = {
    "kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "nested": {"half": np.ones((2, 2, 1), np.float16), "scalar": np.float64(2.5), "count": np.array(7)},
    "list": [1, 2.5, "text", None, True, (b"bytes", -(1 << 40))],
}
SMALL = {"a": {"kernel": np.ones((2, 3), np.float32)}, "b": np.zeros(4, np.float16)}
VALID = [pickled_as_released(SMALL), *(pickle.dumps(SMALL, protocol) for protocol in (2, 4, 5))]


def assert_equal(got: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert type(got) is dict and got.keys() == wanted.keys()
        for name in wanted:
            assert_equal(got[name], wanted[name])
    elif isinstance(wanted, list | tuple):
        assert type(got) is type(wanted) and len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_equal(one, other)
    else:
        np.testing.assert_array_equal(got, wanted)
        assert not isinstance(wanted, np.ndarray) or got.dtype == wanted.dtype


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_data_comes_back(protocol: int) -> None:
    """Bug: an array, number or container comes back as something else under one of the protocols."""
    assert_equal(read_pickle(pickle.dumps(PLAIN, protocol)), PLAIN)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_layouts_of_arrays(protocol: int) -> None:
    """Bug: Fortran order or foreign byte order scrambles the numbers; jax's arrays and FrozenDicts are refused."""
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    tree = {"fortran": np.asfortranarray(square), "big": square.astype(">f4"), "small": square.astype("<f8")}
    assert_equal(read_pickle(pickle.dumps(tree, protocol)), tree)
    wrapped = flax.core.FrozenDict({"x": collections.OrderedDict(y=jnp.asarray(square))})
    assert_equal(read_pickle(pickle.dumps(wrapped, protocol)), {"x": {"y": square}})


def test_the_released_layout() -> None:
    """Bug: what jax 0.4 with numpy 1 wrote is refused."""
    data = pickled_as_released(SMALL)
    assert b"numpy.core.multiarray" in data and b"named_shape" in data and b"_core" not in data
    assert_equal(read_pickle(data), SMALL)


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call

    def __call__(self) -> None:
        """Looks callable to the writer, so that its result can be called in turn."""


class Stateful:
    """Pickles as a call, then a state, which Python's reader would hand to __setstate__."""

    def __reduce__(self) -> Any:
        return np.dtype, ("f4",), {"itemsize": 1 << 40}


ATTACKS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "os.system": (lambda command: pickle.dumps(Calls(os.system, command), 4), "posix.system"),
    "deep inside": (lambda command: pickle.dumps({"a": [Calls(os.system, command)]}, 2), "posix.system"),
    "eval": (lambda command: pickle.dumps(Calls(eval, f"__import__('os').system({command!r})"), 4), "builtins.eval"),
    "exec": (lambda command: pickle.dumps(Calls(exec, f"import os; os.system({command!r})"), 4), "builtins.exec"),
    "getattr": (
        lambda command: pickle.dumps(Calls(Calls(getattr, Calls(__import__, "os"), "system"), command), 4),
        "builtins.getattr",
    ),
    "import": (lambda command: pickle.dumps(Calls(__import__, "os"), 4), "builtins.__import__"),
    "a dotted name": (lambda _: b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93.", "numpy.dtype.__class__"),
    "a file read": (lambda command: pickle.dumps(Calls(np.fromfile, "/etc/hostname"), 4), "fromfile"),
    "protocol 0": (lambda command: f"cos\nsystem\n(S'{command}'\ntR.".encode(), "os.system"),
    "INST": (lambda command: b"\x80\x02(X\x01\x00\x00\x00aios\nsystem\n.", "INST of os system"),
    "OBJ": (lambda command: b"\x80\x02(cnumpy\ndtype\nX\x02\x00\x00\x00f4o.", "OBJ refused"),
    "NEWOBJ": (lambda command: b"\x80\x02cnumpy\ndtype\n)\x81.", "NEWOBJ refused"),
    "EXT1": (lambda command: b"\x80\x02\x82\x01.", "EXT1 refused"),
    "PERSID": (lambda command: b"Pevil\n.", "PERSID of evil"),
    "BINPERSID": (lambda command: b"\x80\x02NQ.", "BINPERSID refused"),
    "a state for a dtype": (lambda command: pickle.dumps(Stateful(), 4), "state of a dtype"),
    "a state for a dict": (lambda command: b"\x80\x02}}b.", "state of a dict"),
    "calling a dict": (lambda command: b"\x80\x02})R.", "no known name"),
    "objects": (
        lambda command: pickle.dumps(np.array([Calls(os.system, command)], object), 4),
        "dtype with other arguments",
    ),
    "object dtype": (lambda command: pickle.dumps(np.array([None], object), 4), "dtype with other arguments"),
    "structured dtype": (lambda command: pickle.dumps(np.zeros(1, [("a", "f4")]), 4), "dtype with other arguments"),
    "subclass": (lambda command: pickle.dumps(np.ma.masked_array([1.0]), 4), "numpy.ma"),
    "keys": (lambda command: pickle.dumps({1: 2}, 4), "keys that are not text"),
    "sets": (lambda command: pickle.dumps({1, 2}, 4), "EMPTY_SET"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_programs_are_refused_by_name(name: str, tmp_path: Path) -> None:
    """Bug: a file from the internet runs a command on the learner's computer."""
    build, message = ATTACKS[name]
    canary = tmp_path / "canary"
    with pytest.raises(ValueError, match=message):
        read_pickle(build(f"touch {canary}"))
    assert not canary.exists()


@pytest.mark.parametrize("name", ["os.system", "deep inside", "eval", "exec", "getattr", "protocol 0", "objects"])
def test_the_attacks_are_armed(name: str, tmp_path: Path) -> None:
    """Bug: the test above proves nothing, because its files would do no harm anywhere."""
    canary = tmp_path / "canary"
    script = "import pickle, sys; pickle.load(sys.stdin.buffer)"
    data = ATTACKS[name][0](f"touch {canary}")
    subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, timeout=60)
    assert canary.exists()


def doubling(levels: int) -> bytes:
    """A dict that refers twice to one that refers twice to one …"""
    tree: Any = {}
    for _ in range(levels):
        tree = {"a": tree, "b": tree}
    return pickle.dumps(tree, 4)


def endless() -> bytes:
    tree: dict[str, Any] = {}
    tree["self"] = tree
    return pickle.dumps(tree, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (doubling(15), "more than"),
        (doubling(200), "nested deeper"),
        (endless(), "nested deeper"),
        (b"\x80\x04" + b"N" * 200_000 + b".", "instructions"),
        (b"\x80\x04" + b"(" * 200_000 + b".", "instructions"),
        (b"\x80\x02U\xff.", "exhausted|expected|truncated"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "expected"),
        (b"\x80\x04.", "lacks its operand"),
        (b"\x80\x04t.", "lacks its mark"),
        (b"\x80\x04h\x07.", "object 7"),
        (b"\x80\x09N.", "protocol 9"),
        (b"\x80\x04cnumpy\ndtype\n.", "unfinished name"),
        (b"", "exhausted"),
        (pickletools.optimize(VALID[1])[:-20], "exhausted|expected|lacks|not enough"),
    ],
    ids=range(14),
)
def test_damaged_and_excessive_files(data: bytes, message: str) -> None:
    """Bug: a cut-off file gives half of the weights, or a small one takes all memory or time."""
    with pytest.raises(ValueError, match=message):
        read_pickle(data)


def test_an_array_has_as_many_bytes_as_its_shape_says() -> None:
    """Bug: a shape in the file makes numpy read beyond, or reserve, memory."""
    data = pickle.dumps(np.zeros((2, 3), np.float32), 2)
    with pytest.raises(ValueError, match=r"24 bytes for an array of shape \(2, 4\)"):
        read_pickle(data.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"))


def spoilt(whole: bytes) -> st.SearchStrategy[bytes]:
    """``whole`` with some bytes replaced, or a piece of it twice."""

    def spoil(edits: list[tuple[int, int]], cut: int) -> bytes:
        data = bytearray(whole)
        for place, value in edits:
            data[place % len(data)] = value
        return bytes(data[cut % len(data) :] if cut < 0 else data)

    edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6)
    return st.builds(spoil, edits, st.integers(-20, 20))


# pickletools itself warns of odd escapes in the texts of protocol 0, before they are refused
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@given(st.one_of(st.binary(max_size=60), *map(spoilt, VALID)))
@example(VALID[0])
@settings(max_examples=300, deadline=None)
def test_anything_is_read_or_refused(data: bytes) -> None:
    """Bug: a file that nobody thought of ends in a crash instead of an error with its name."""
    try:
        read_pickle(data)
    except ValueError as error:
        assert str(error)
