"""Checks of commands that cannot be meant: refused with the reason, and nothing moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from robot_servers import wire
from robot_servers.conformance.bench import Bench
from robot_servers.conformance.verdict import expect, fail
from robot_servers.interface import Array, Command, CommandRefused, RobotState
from robot_servers.wire import Tree

MOVED = 1e-3  # m from the start; more is a motion
LATER = 0.2  # s in which a motion would be seen
REASON = 8  # characters of a reason worth the name
LONG = 60_000  # numbers in a pose that should have 7
STALE = 0.1  # s past the greatest age
FUTURE = 1.0  # s


def not_finite(bench: Bench) -> str:
    """NaN and infinity in each place of a command where a number may be."""
    bench.ready()
    count, seen = 0, ""
    for value in (math.nan, math.inf, -math.inf):
        for place in (0, 3, 6, "gripper", "state_time"):
            seen = _refused(bench, partial(_spoilt, bench.start, place, value), f"{value} in {place}")
            count += 1
    _nothing_moved(bench)
    return f"{count} commands were refused, the last with: {seen}"


def _spoilt(pose: Array, place: int | str, value: float, state: RobotState) -> Command:
    command = Command(pose.copy(), None, state.time)
    if isinstance(place, str):
        return replace(command, **{place: value})
    command.pose[place] = value
    return command


def malformed(bench: Bench) -> str:
    """Short, long, mistyped, incomplete and no quaternion: none of them is a command."""
    bench.ready()
    count = 0
    with bench.owner_channel() as channel:
        for what, spoil in _MALFORMED:
            state = bench.robot.state()
            tree = wire.to_tree(Command(bench.start.copy(), None, state.time))
            _not_taken(lambda tree=tree, spoil=spoil: channel.call("command", *spoil(tree)), what)
            count += 1
        _nothing_moved(bench)
    return f"{count} malformed commands were refused"


def _with(name: str, value: Any) -> Callable[[Tree], tuple[Tree, ...]]:
    return lambda tree: (tree | {name: value},)


_MALFORMED: tuple[tuple[str, Callable[[Tree], tuple[Tree, ...]]], ...] = (
    ("no argument", lambda tree: ()),
    ("two arguments", lambda tree: (tree, tree)),
    ("None", lambda tree: (None,)),
    ("a text", lambda tree: ("forward",)),
    ("no kind", lambda tree: ({name: value for name, value in tree.items() if name != "kind"},)),
    ("no state_time", lambda tree: ({name: value for name, value in tree.items() if name != "state_time"},)),
    ("an unknown field", _with("speed", 1.0)),
    ("an empty pose", _with("pose", np.zeros(0))),
    ("a pose of 6 numbers", _with("pose", np.zeros(6))),
    ("a pose of 8 numbers", _with("pose", np.zeros(8))),
    (f"a pose of {LONG} numbers", _with("pose", np.zeros(LONG))),
    ("a pose of shape (7, 1)", _with("pose", np.zeros((7, 1)))),
    ("a pose of texts", _with("pose", ["0"] * 7)),
    ("no quaternion", _with("pose", np.array([0.5, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0]))),
    ("a quaternion of norm 2", _with("pose", np.array([0.5, 0.0, 0.3, 2.0, 0.0, 0.0, 0.0]))),
    ("a gripper of 1.5", _with("gripper", 1.5)),
    ("a gripper of −0.5", _with("gripper", -0.5)),
    ("a gripper in words", _with("gripper", "open")),
    ("a time in words", _with("state_time", "now")),
)


def stale(bench: Bench) -> str:
    """Answers to states too old, or not measured yet."""
    bench.ready()
    old = bench.limits.max_age + STALE
    seen = [
        _refused(bench, lambda state: Command(bench.start, None, state.time - old), f"{old:.1f} s late"),
        _refused(bench, lambda state: Command(bench.start, None, state.time + FUTURE), f"{FUTURE:g} s early"),
    ]
    _nothing_moved(bench)
    return "; ".join(seen)


def order(bench: Bench) -> str:
    """A command that was overtaken on its way."""
    bench.ready()
    earlier = bench.robot.state()
    bench.wait(2 * bench.cycle)
    bench.send(bench.start)
    reason = _refused(bench, lambda _: Command(bench.start, None, earlier.time), "overtaken by a newer one")
    _nothing_moved(bench)
    return reason


def _refused(bench: Bench, make: Callable[[RobotState], Command], what: str) -> str:
    return _not_taken(lambda: bench.robot.command(make(bench.robot.state())), what)


def _not_taken(call: Callable[[], Any], what: str) -> str:
    """The reason of the refusal."""
    try:
        call()
    except CommandRefused as refusal:
        reason = str(refusal)
    else:
        fail(f"{what}: accepted", "refuse it before anything is done with it, and say why")
    expect(len(reason) >= REASON, f'{what}: refused with "{reason}"', "say what is wrong and what to do")
    return reason


def _nothing_moved(bench: Bench) -> None:
    bench.wait(LATER)
    moved = float(np.linalg.norm(bench.robot.state().pose[:3] - bench.start[:3]))
    expect(moved < MOVED, f"refused, but the arm moved {moved * 1e3:.1f} mm", "refuse before anything moves")
