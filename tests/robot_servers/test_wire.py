"""The wire format: what goes in comes out, and nothing that arrives can do harm."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robot_servers import wire
from robot_servers.arms import PANDA
from robot_servers.interface import (
    AskPerson,
    Bend,
    Command,
    Compliance,
    Frame,
    JointReset,
    Limits,
    Metadata,
    MoveTo,
    PlaceObjects,
    ResetStep,
    RobotState,
    SetCompliance,
    SetGripper,
)
from robot_servers.wire import WireError

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "float32", "float64", ">f8", ">i4"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=8), st.binary(max_size=8)
)
TREES = st.recursive(
    LEAVES | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        # the bytes are compared, so that NaN equals itself
        return a.shape == b.shape and a.astype(b.dtype).tobytes() == b.tobytes() and a.dtype.kind == b.dtype.kind
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


@settings(max_examples=500, deadline=None)
@given(TREES)
def test_round_trip(tree: Any) -> None:
    """Guards against any value being changed, dropped or reordered on its way."""
    assert same(tree, wire.decode(wire.encode(tree)))
    assert same(tree, wire.unpack(wire.pack(tree)))


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4), st.binary(max_size=60))
def test_random_bytes_raise_only_wire_errors(frames: list[bytes], blob: bytes) -> None:
    """Guards against a crash or a hang on garbage from the network."""
    for attempt in (lambda: wire.decode(frames), lambda: wire.unpack(blob), lambda: wire.unpack(b"SWB1" + blob)):
        try:
            attempt()
        except WireError as error:
            assert str(error)


@settings(max_examples=500, deadline=None)
@given(TREES, st.data())
def test_damaged_messages_raise_only_wire_errors(tree: Any, data: st.DataObject) -> None:
    """Guards against a crash on messages that are nearly right: one byte changed, or cut short."""
    blob = bytearray(wire.pack(tree))
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(blob)))
    for damaged in (bytes(blob), bytes(blob[:cut])):
        try:
            wire.unpack(damaged)
        except WireError as error:
            assert str(error)


def test_numpy_scalars_become_plain_values() -> None:
    """Guards against numpy scalars that a peer without numpy types would see as arrays."""
    out = wire.decode(wire.encode([np.float32(0.5), np.int8(3), np.bool_(True), np.float64(2.0)]))
    assert out == [0.5, 3, True, 2.0] and [type(x) for x in out] == [float, int, bool, float]


def test_decoded_arrays_are_read_only() -> None:
    """Guards against writing into the bytes of a message that others may still read."""
    array = wire.decode(wire.encode(np.zeros(3)))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        ({1: 2}, "not a str"),
        (object(), "cannot travel"),
        (2**64, "cannot travel"),
        (np.array(["a"]), "dtype"),
        (np.array([object()]), "dtype"),
        (np.zeros(2, complex), "dtype"),
        ([0] * (wire.MAX_ITEMS + 1), "items"),
        (bytes(wire.MAX_HEADER + 1), "header exceeds"),
        ("\ud800", "cannot travel"),
    ],
)
def test_what_cannot_travel_is_refused_by_name(tree: Any, fault: str) -> None:
    """Guards against silently sending something the peer cannot read, or a pickled object."""
    with pytest.raises(WireError, match=fault):
        wire.encode(tree)


def packed(value: Any) -> bytes:
    data = msgpack.packb(value)
    assert data
    return data


def test_too_deep_trees_are_refused_on_both_sides() -> None:
    """Guards against a recursion error, here or in the peer."""
    tree: Any = 0
    for _ in range(wire.MAX_DEPTH + 1):
        tree = [tree]
    with pytest.raises(WireError, match="deeper"):
        wire.encode(tree)
    with pytest.raises(WireError, match="deeper"):
        wire.decode([packed(tree)])


def header(dtype: Any = "<f8", index: Any = 0, shape: tuple[Any, ...] = (2,)) -> bytes:
    return packed(msgpack.ExtType(1, packed([dtype, index, *shape])))


@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        ([], "empty message"),
        ([b""], "malformed header"),
        ([b"\xc1"], "malformed header"),
        ([header(), bytes(15)], "does not fill"),
        ([header()], "more arrays"),
        ([header(), bytes(16), bytes(1)], "buffers came"),
        ([header(dtype="|O8"), bytes(16)], "not allowed"),
        ([header(dtype=[1]), bytes(16)], "not allowed"),
        ([header(index=1), bytes(16)], "malformed index"),
        ([header(shape=(-1, -2)), bytes(16)], "malformed index or shape"),
        ([header(shape=(True, 2)), bytes(16)], "malformed index or shape"),
        ([header(shape=(2**62, 2**62, 0)), b""], "impossible"),
        ([header(shape=(1,) * 9), bytes(8)], "descriptor"),
        ([packed({b"key": 1})], "not a str"),
        ([packed(msgpack.Timestamp(1))], "not allowed"),
        ([packed(msgpack.ExtType(7, b""))], "unknown extension"),
        ([b"\xdd\xff\xff\xff\xff"], "malformed header"),
        ([bytes(wire.MAX_HEADER + 1)], "at most"),
        ([b"\xc0"] * (wire.MAX_ARRAYS + 2), "at most"),
    ],
)
def test_malformed_messages_name_their_fault(frames: list[bytes], fault: str) -> None:
    """Guards against malformed messages being taken for data, and against errors that explain nothing."""
    with pytest.raises(WireError, match=fault):
        wire.decode(frames)


def test_oversized_messages_are_refused() -> None:
    """Guards against a peer that fills the memory."""
    with pytest.raises(WireError, match="at most 100 are allowed"):
        wire.decode(wire.encode(np.zeros(100)), max_bytes=100)


def test_blob_that_announces_too_much_is_refused() -> None:
    """Guards against allocating what a damaged length field announces."""
    with pytest.raises(WireError, match="truncated"):
        wire.unpack(b"SWB1" + struct.pack("<I", 2**31))
    with pytest.raises(WireError, match="frames end"):
        wire.unpack(b"SWB1" + struct.pack("<IQ", 1, 2**62))


LIMITS = Limits((0.2, -0.3, 0.0), (0.7, 0.3, 0.5))
STATE = RobotState(1.0, np.ones(7), np.ones(6), np.ones(3), np.ones(3), np.ones(7), np.ones(7), np.ones((6, 7)), 1.0)
PLAN: tuple[ResetStep, ...] = (
    PlaceObjects(3),
    JointReset(),
    MoveTo((0.4, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0)),
    SetGripper(1.0),
    SetCompliance(Compliance()),
    AskPerson("ready?"),
)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (tuple[ResetStep, ...], PLAN),
        (
            Metadata,
            Metadata(
                "fake",
                "",
                "lockstep",
                100.0,
                LIMITS,
                (0.0,) * 7,
                (0.0,) * 7,
                Compliance(),
                PANDA,
                cameras={"front": (4, 4)},
            ),
        ),
        (tuple[Bend, ...], (Bend("step", 1.0, 0.5),)),
        (float | None, None),
        (float | None, 1.5),
    ],
)
def test_dataclasses_round_trip(kind: Any, value: Any) -> None:
    """Guards against tuples that come back as lists and unions that come back as the wrong member."""
    assert wire.from_tree(kind, wire.decode(wire.encode(wire.to_tree(value)))) == value


def test_dataclasses_with_arrays_round_trip() -> None:
    """Guards against fields that change places: every field of a state and of a frame arrives as it left."""
    for value in (STATE, Frame(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), 0.5, 7)):
        back = wire.from_tree(type(value), wire.decode(wire.encode(wire.to_tree(value))))
        assert same(dataclasses.asdict(value), dataclasses.asdict(back))


GOOD = {"kind": "Command", "pose": np.zeros(7), "gripper": None, "state_time": 0.0}


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        ({**GOOD, "extra": 1}, "extra"),
        ({name: value for name, value in GOOD.items() if name != "pose"}, "pose"),
        ({**GOOD, "kind": "Bend"}, "expected a Command"),
        ({**GOOD, "kind": np.zeros(2)}, "expected a Command"),
        ({**GOOD, "pose": [0.0] * 7}, "Command.pose: expected an array"),
        ({**GOOD, "pose": np.zeros(7, complex)}, "Command.pose"),
        ({**GOOD, "state_time": "now"}, "Command.state_time: expected float, got str"),
        ({**GOOD, "gripper": True}, "Command.gripper"),
        (None, "expected a Command"),
    ],
)
def test_wrong_fields_are_named(tree: Any, fault: str) -> None:
    """Guards against a field of another version or type slipping through to the robot."""
    with pytest.raises(WireError, match=fault):
        wire.from_tree(Command, tree)


def test_float32_poses_are_widened() -> None:
    """Guards against refusing the float32 arrays that policies produce."""
    command = wire.from_tree(Command, {**GOOD, "pose": np.zeros(7, np.float32)})
    assert command.pose.dtype == np.float64
