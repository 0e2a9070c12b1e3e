"""Checks of the limits: what asks for too much is bent, said so, and never carried out beyond them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from robot_servers.conformance.bench import REACH, TURN, Bench
from robot_servers.conformance.verdict import expect, fail
from robot_servers.geometry import quat_angle
from robot_servers.interface import Applied, Bend, CommandRefused, Limits, NotOwner

NARROW = 0.003  # m, half the size of a box for targets that a server without one may reach without harm
NARROW_TURN = TURN / 2
STEP = 0.002  # m
FAR = 1.0  # m
FAR_TURN = math.radians(90.0)
OVERSHOOT = (0.0015, math.radians(0.7))  # m and rad that a compliant arm may pass its target by
ROUNDING = 1e-6
PERIODS = 0.5  # s to watch what becomes of a single command
HIGHER = ("tilt", "step", "turn", "speed", "turn_speed", "acceleration", "turn_acceleration", "force", "torque")
HIGHER += ("margin", "tilt_margin", "max_age", "watchdog")  # the fields that loosen a limit when they grow


def box(bench: Bench) -> str:
    """First just outside of a narrow box, then far outside."""
    start = bench.start[:3]
    bench.ready(box_low=tuple(start - NARROW), box_high=tuple(start + NARROW))
    for axis, name in enumerate("xyz"):
        answer = bench.send(bench.target(REACH * np.eye(3)[axis]))
        _is_flagged(answer, f"box {name}", start[axis] + REACH)
        _is_inside(bench, answer, f"{REACH * 1e3:g} mm along {name}")
        bench.go(bench.start)
    answer = bench.send(bench.target((FAR, FAR, FAR)))
    _is_flagged(answer, "", FAR)
    _is_inside(bench, answer, f"{FAR:g} m away")
    return f"targets up to {FAR:g} m outside are bent to the box, and the arm stays within it"


def step(bench: Bench) -> str:
    """Too far from the measured pose."""
    bench.ready(step=STEP)
    for distance in (2 * STEP, FAR):
        measured = bench.robot.state().pose
        answer = bench.send(bench.target((0.0, distance, 0.0)))
        bends = [bend for bend in answer.bends if bend.limit == "step"]
        expect(bends, f"{distance:g} m away: {_text(answer.bends)}", 'name the limit "step", the value and the bound')
        away = float(np.linalg.norm(answer.pose[:3] - measured[:3]))
        expect(
            away < STEP + OVERSHOOT[0] and math.isclose(bends[0].bound, STEP, abs_tol=ROUNDING),
            f"the target is {away * 1e3:.1f} mm away, {_text(answer.bends)}; the step is {STEP * 1e3:g} mm",
            "pull the target back along the line from the measured pose",
        )
        _stays(bench, STEP, f"from one target {distance:g} m away")
        bench.go(bench.start)
    return f"targets up to {FAR:g} m away are bent to {STEP * 1e3:g} mm from the arm"


def tilt(bench: Bench) -> str:
    """Too far from the orientation of the limits, and too far from the measured one."""
    axis = np.array([0.0, 0.0, 1.0])
    for limit in ("tilt", "turn"):
        bench.ready(**{limit: NARROW_TURN})
        for angle in (1.9 * NARROW_TURN, FAR_TURN):
            answer = bench.send(bench.target((0, 0, 0), angle * axis))
            _is_flagged(answer, limit if angle < FAR_TURN else "", angle)
            turned = quat_angle(answer.pose[3:], bench.start[3:])
            expect(
                turned < NARROW_TURN + OVERSHOOT[1],
                f"a target {math.degrees(turned):.1f}° off was accepted, {limit} is {math.degrees(NARROW_TURN):g}°",
                "bend orientations by the angle of the rotation, along the shorter way round",
            )
            _stays_turned(bench, f"from a target turned by {math.degrees(angle):.1f}°")
            bench.go(bench.start)
    return f"targets turned by up to {math.degrees(FAR_TURN):g}° are bent to {math.degrees(NARROW_TURN):g}°"


def loosening(bench: Bench) -> str:
    """Each limit in turn, wider than the robot's own."""
    own = bench.limits
    tried = list(_looser(own))
    for name, looser in tried:
        try:
            bench.robot.tighten(looser)
        except NotOwner:
            raise
        except CommandRefused as error:
            expect(name in str(error), f"a wider {name} is refused with: {error}", "name the limit in the refusal")
        else:
            bench.robot.tighten(bench.small())
            fail(f"a client was given {name} = {getattr(looser, name)}, wider than {getattr(own, name)}", "refuse it")
    bench.robot.tighten(own)
    bench.robot.tighten(bench.small())
    return f"{len(tried)} wider limits were refused by name, narrower ones taken"


def _looser(own: Limits) -> Iterator[tuple[str, Limits]]:
    for name in HIGHER:
        yield name, replace(own, **{name: getattr(own, name) * 1.1})
    yield "box_low", replace(own, box_low=(own.box_low[0] - 0.01, *own.box_low[1:]))
    yield "box_high", replace(own, box_high=(*own.box_high[:2], own.box_high[2] + 0.01))


def _is_flagged(answer: Applied, limit: str, asked: float) -> None:
    """``limit`` is named with what was asked and a bound below it; any limit where it is empty."""
    bends = [bend for bend in answer.bends if bend.limit == limit or not limit]
    advice = "answer with every limit that bent the target: its name, the value asked for and the bound"
    expect(bends, f"asked for {asked:.4f}, past the limit {limit}: {_text(answer.bends)}", advice)
    expect(
        all(math.isfinite(bend.bound) and abs(bend.value - bend.bound) > ROUNDING for bend in bends)
        and (not limit or any(math.isclose(bend.value, asked, abs_tol=OVERSHOOT[1]) for bend in bends)),
        f"asked for {asked:.4f}: {_text(answer.bends)}",
        advice,
    )


def _is_inside(bench: Bench, answer: Applied, where: str) -> None:
    beyond = float(np.abs(answer.pose[:3] - bench.start[:3]).max()) - NARROW
    expect(beyond < ROUNDING, f"a target {where} was left {beyond * 1e3:.1f} mm outside", "bend targets to the box")
    _stays(bench, NARROW, f"from a target {where}")


def _stays(bench: Bench, bound: float, what: str) -> None:
    """Along the axis nothing passes the bound, while one command acts."""
    most = max(float(np.abs(state.pose[:3] - bench.start[:3]).max()) for state in bench.watch(PERIODS))
    expect(
        most < bound + OVERSHOOT[0], f"moved {most * 1e3:.1f} mm {what}; {bound * 1e3:g} mm allowed", "execute the bend"
    )


def _stays_turned(bench: Bench, what: str) -> None:
    most = max(quat_angle(state.pose[3:], bench.start[3:]) for state in bench.watch(PERIODS))
    bound = NARROW_TURN + OVERSHOOT[1]
    expect(most < bound, f"turned by {math.degrees(most):.1f}° {what}", "execute the bent target, not the asked one")


def _text(bends: tuple[Bend, ...]) -> str:
    said: list[Any] = [f"{bend.limit} {bend.value:.4f} (bound {bend.bound:.4f})" for bend in bends]
    return "flagged " + ", ".join(said) if said else "not flagged"
