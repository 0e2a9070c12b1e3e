"""Checks of the gripper and the cameras."""

from __future__ import annotations

import time

import numpy as np

from robot_servers.conformance.bench import Bench
from robot_servers.conformance.verdict import NotApplicable, expect
from robot_servers.interface import Frame

WIDTHS = (1.0, 0.0, 0.5, 1.0)  # open, closed, half, open
NEAR = 0.1  # of the opening
GRIPPER_TIME = 4.0  # s for one motion
PAUSE = 0.5  # s that state may stand still while the gripper moves
FRESH = 0.5  # s, greatest age of a frame
FRAME_TIME = 1.0  # s in which a camera must deliver a new frame


def gripper(bench: Bench) -> str:
    """Open, closed and half in normalised numbers, without stopping the cycle."""
    if bench.robot.state().grip == "none":
        raise NotApplicable("it reports no gripper")
    bench.ready()
    before, reached, longest = bench.robot.state().gripper, [], 0.0
    for width in WIDTHS:
        longest = max(longest, _move(bench, width))
        got = bench.robot.state().gripper
        reached.append(got)
        expect(
            abs(got - width) < NEAR,
            f"asked for {width:g}, measured {got:.2f} after {GRIPPER_TIME:g} s",
            "0 is closed and 1 is open, by the gripper's own numbers; empty it and see that nothing blocks it",
        )
    expect(longest < PAUSE, f"state stood still for {longest:.1f} s meanwhile", "never wait for a gripper in the cycle")
    _move(bench, min(1.0, max(0.0, before)))
    trouble = bench.status().health.gripper
    expect(not trouble, f"trouble: {trouble}", "see to the gripper, then run this again")
    return f"asked for {_list(WIDTHS)}, measured {_list(reached)}"


def _move(bench: Bench, width: float) -> float:
    """Follow the gripper to ``width``; the longest time (s) between two answers with a new state."""
    begun, longest = bench.robot.state().time, 0.0
    seen, wall = begun, time.monotonic()
    while seen - begun < GRIPPER_TIME and abs(bench.robot.state().gripper - width) >= NEAR / 2:
        bench.send(bench.start, width)
        seen, now = bench.tick(bench.period).time, time.monotonic()
        longest, wall = max(longest, now - wall), now
    return longest


def cameras(bench: Bench) -> str:
    """Sizes as stated, fresh, and new pictures all the time."""
    names = bench.metadata.cameras
    if not names:
        raise NotApplicable("it serves no cameras")
    first = bench.robot.frames()
    missing = names.keys() - first.keys()
    expect(not missing, f"no frame of {', '.join(sorted(missing))}", "plug it in, or serve without it")
    for name, size in names.items():
        _shape(name, size, first[name])
    last = _newer(bench, first)
    for name in names:
        _fresh(bench, name, first[name], last[name])
    broken = {name: health.fault for name, health in bench.status().cameras.items() if health.fault}
    expect(not broken, f"faults: {broken}", "see to these cameras, then run this again")
    return ", ".join(f"{name} {size[1]}×{size[0]}, frame {last[name].number}" for name, size in names.items())


def _newer(bench: Bench, first: dict[str, Frame]) -> dict[str, Frame]:
    newest = first

    def all_newer() -> bool:
        nonlocal newest
        newest = bench.robot.frames()
        return all(newest[name].number > frame.number for name, frame in first.items() if name in newest)

    bench.wait(bench.cycle)
    bench.until(all_newer, FRAME_TIME)
    return newest


def _shape(name: str, size: tuple[int, int], frame: Frame) -> None:
    image = frame.image
    expect(
        image.shape == (*size, 3) and image.dtype == np.uint8,
        f"{name} is {image.dtype} of shape {image.shape}, stated {(*size, 3)}",
        "send (height, width, 3) uint8 RGB, as large as the metadata say",
    )


def _fresh(bench: Bench, name: str, first: Frame, last: Frame) -> None:
    advice = "count frames up, stamp them at capture by the server's clock, and say when a camera is frozen"
    expect(
        last.number > first.number and last.time > first.time,
        f"{name} is frozen: frame {first.number} → {last.number} and time {first.time:.2f} → {last.time:.2f} s "
        f"in {FRAME_TIME:g} s",
        advice,
    )
    age = bench.robot.state().time - last.time
    expect(-bench.cycle - FRESH / 10 <= age <= FRESH, f"the newest frame of {name} is {age:.2f} s old", advice)
    same = not bench.metadata.scene and np.array_equal(first.image, last.image)
    expect(not same, f"{name} gives one picture for ever, though its number counts up", "no real camera is so quiet")


def _list(values: tuple[float, ...] | list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
