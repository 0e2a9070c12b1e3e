"""Checks of small motions: they go where they were sent, and are measured as what they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from robot_servers.conformance.bench import MOTION_TIME, REACH, Bench
from robot_servers.conformance.verdict import NotApplicable, expect
from robot_servers.geometry import quat_conj, quat_mul, quat_normalise, quat_rotate, quat_to_rotvec
from robot_servers.interface import Array, RobotState

MOVE = 0.004  # m to either side of the start
ANGLE = math.radians(1.5)  # to either side
AXIS = np.array([1.0, 2.0, 2.0]) / 3.0  # no axis of a frame: exchanged ones are seen
TOOL_AXES = np.array([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
DIAGONAL = np.array([1.0, 1.0, 1.0]) / math.sqrt(3.0)
SIZES = (0.5, 1.5)  # of the commanded size that a compliant arm with friction may make of it
ASIDE = 0.35  # of the commanded size, across it
UNTURNED = math.radians(0.7)  # that a pure translation may turn
RATIO = 0.3  # of a motion that its integrated velocity may differ
NOISE = (5e-4, math.radians(0.3))  # m and rad, beside it
HARDLY = 0.2  # of the commanded size; less is no motion in another direction
TRIES = 3  # real time: a busy machine sees too little of a motion
MISSING = 0.25  # of the speed that jacobian @ dq may differ


def translation(bench: Bench) -> str:
    """Along each axis of the base frame, from one side of the start to the other."""
    bench.ready()
    sizes = []
    for axis in np.eye(3):
        before, after = bench.go(bench.target(-MOVE * axis)), bench.go(bench.target(MOVE * axis))
        _compare(after[:3] - before[:3], 2 * MOVE * axis, 1e3, "mm", "the base frame, metres and the order x, y, z")
        sizes.append(float(axis @ (after[:3] - before[:3])))
    return f"8 mm commanded along x, y, z; measured {', '.join(f'{size * 1e3:.1f}' for size in sizes)} mm"


def rotation(bench: Bench) -> str:
    """About an axis that no exchange of components leaves in place."""
    bench.ready()
    bench.go(bench.target((0, 0, 0), -ANGLE * AXIS))
    trace = bench.follow(bench.target((0, 0, 0), ANGLE * AXIS), fine=True)
    turned = _turned(trace[0].pose[3:], trace[-1].pose[3:])
    advice = "the order (x, y, z, w) of quaternions, in states and commands, and the base frame"
    _compare(turned, 2 * ANGLE * AXIS, math.degrees(1.0), "°", advice)
    swapped = _turned(np.roll(trace[0].pose[3:], -1), np.roll(trace[-1].pose[3:], -1))
    seen = _integral(trace)[3:]
    expect(
        _cosine(seen, swapped) < 0.9 or _cosine(seen, turned) > _cosine(seen, swapped),
        "the angular velocity fits the quaternions only if they are read as (w, x, y, z)",
        "send and read quaternions scalar-last, (x, y, z, w)",
    )
    return f"3° commanded, measured {math.degrees(float(turned @ AXIS)):.2f}° about the same axis"


def tool_frame(bench: Bench) -> str:
    """Along the tool's own axes the tool moves straight and does not turn."""
    bench.ready()
    most = 0.0
    for axis in TOOL_AXES:
        along = quat_rotate(bench.start[3:], axis)
        before, after = bench.go(bench.target(-MOVE / 2 * along)), bench.go(bench.target(MOVE / 2 * along))
        turned = float(np.linalg.norm(_turned(before[3:], after[3:])))
        most = max(most, turned)
        expect(
            turned < UNTURNED,
            f"a translation of {MOVE * 1e3:g} mm turned the tool by {math.degrees(turned):.2f}°",
            "track position and orientation separately: the target's orientation did not change",
        )
    return f"at most {math.degrees(most):.2f}° over {MOVE * 1e3:g} mm along its axes"


def velocity(bench: Bench) -> str:
    """The velocity, integrated over a motion, is that motion: same frame, same units."""
    seen = ""
    for _ in range(1 if bench.lockstep else TRIES):
        trace = _diagonal(bench)
        moved, turned = trace[-1].pose[:3] - trace[0].pose[:3], _turned(trace[0].pose[3:], trace[-1].pose[3:])
        passed = _integral(trace)
        seen = f"moved {_numbers(moved, 1e3)} mm, velocities add up to {_numbers(passed[:3], 1e3)} mm; turned "
        seen += f"{_numbers(turned, math.degrees(1))}°, they say {_numbers(passed[3:], math.degrees(1))}°"
        if _agree(passed[:3], moved, NOISE[0]) and _agree(passed[3:], turned, NOISE[1]):
            return f"{np.linalg.norm(moved) * 1e3:.1f} mm and {math.degrees(np.linalg.norm(turned)):.1f}° as integrated"
    expect(False, seen, _velocity_hint(passed, moved, turned, trace[0].pose[3:]))
    return ""


def jacobian(bench: Bench) -> str:
    """The Jacobian turns the joints' speeds into the measured velocity."""
    trace = _diagonal(bench)
    fastest = max(float(np.linalg.norm(one.vel)) for one in trace)
    if not any(one.dq.any() for one in trace):
        raise NotApplicable("it reports no joint speeds")
    moving = [one for one in trace if np.linalg.norm(one.vel) > 0.3 * fastest]
    errors = [float(np.linalg.norm(one.jacobian @ one.dq - one.vel) / np.linalg.norm(one.vel)) for one in moving]
    middle = float(np.median(errors))
    expect(
        middle < MISSING,
        f"jacobian @ dq differs from vel by {middle * 100:.0f} % of it",
        "a geometric Jacobian at the TCP in the base frame, dq in rad/s, vel of the TCP in the base frame",
    )
    return f"within {middle * 100:.1f} % of vel (median of {len(moving)} states)"


def applied(bench: Bench) -> str:
    """Admissible targets are taken as they are, bent ones go where the answer says."""
    bench.ready()
    asked = bench.target((0.0, MOVE, 0.0))
    answer = bench.send(asked)
    expect(
        not answer.bends and np.allclose(answer.pose, asked, atol=1e-6),
        f"an admissible target came back {np.abs(answer.pose - asked).max():.4f} off, bends: {answer.bends}",
        "leave admissible targets alone",
    )
    ends, targets = [], []
    for side in (-1.0, 1.0):
        far = bench.target((0.0, side * 2 * REACH, 0.0))
        ends.append(bench.go(far)[:3])
        targets.append(bench.send(far).pose[:3])
    moved, meant = ends[1] - ends[0], targets[1] - targets[0]
    _compare(moved, meant, 1e3, "mm", "track exactly the pose that the answer to the command holds")
    return f"targets {np.linalg.norm(meant) * 1e3:.1f} mm apart, reached {np.linalg.norm(moved) * 1e3:.1f} mm apart"


def _diagonal(bench: Bench) -> list[RobotState]:
    """A motion along and about no axis of any frame."""
    bench.ready()
    bench.go(bench.target(-MOVE * DIAGONAL, -ANGLE * AXIS))
    return bench.follow(bench.target(MOVE * DIAGONAL, ANGLE * AXIS), fine=True)


def _compare(got: Array, meant: Array, scale: float, unit: str, advice: str) -> None:
    """Same direction and about the same size."""
    size = float(np.linalg.norm(meant))
    along = float(got @ meant) / size
    aside = float(np.linalg.norm(got - along * meant / size))
    if np.linalg.norm(got) < HARDLY * size:
        advice = f"what kept it for {MOTION_TIME:g} s: too low a speed, stiffness or clip, or friction"
    expect(
        SIZES[0] * size <= along <= SIZES[1] * size and aside <= ASIDE * size,
        f"{_numbers(meant, scale)} {unit} commanded, measured {_numbers(got, scale)} {unit}",
        f"look at {advice}",
    )


def _turned(before: Array, after: Array) -> Array:
    """The rotation vector (3,) from one orientation to another, base frame."""
    return quat_to_rotvec(quat_normalise(quat_mul(after, quat_conj(before))))


def _integral(trace: Sequence[RobotState]) -> Array:
    """Translation and rotation vector (6,) that the velocities of a trace add up to."""
    steps = itertools.pairwise(trace)
    return np.sum([(one.vel + two.vel) / 2 * (two.time - one.time) for one, two in steps], axis=0)


def _agree(got: Array, meant: Array, noise: float) -> bool:
    return float(np.linalg.norm(got - meant)) <= RATIO * float(np.linalg.norm(meant)) + noise


def _cosine(a: Array, b: Array) -> float:
    return float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12)


def _velocity_hint(passed: Array, moved: Array, turned: Array, orientation: Array) -> str:
    linear, angular = passed[:3], passed[3:]
    if np.linalg.norm(linear) > 100 * np.linalg.norm(moved):
        return "the linear velocity looks like mm/s: send m/s"
    if np.linalg.norm(angular) > 20 * np.linalg.norm(turned):
        return "the angular velocity looks like °/s: send rad/s"
    if _agree(quat_rotate(orientation, linear), moved, NOISE[0]):
        return "the velocity is given in the TCP frame: send it in the base frame"
    return "send the TCP's velocity in the base frame, m/s and rad/s, measured when the pose was"


def _numbers(values: Array, scale: float) -> str:
    return "(" + ", ".join(f"{value * scale:.2f}" for value in values) + ")"
