"""What travels between a robot and everyone who talks to it: states, commands, limits, reset plans, errors.

Units and frames are said here once and hold everywhere: SI units, the robot's base frame unless a
field says otherwise, quaternions scalar-last ``(x, y, z, w)``, times in seconds of the server's
monotonic clock (of simulated time under the lockstep clock).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
ClockMode = Literal["realtime", "lockstep"]
Grip = Literal["none", "idle", "moving", "holding", "lost"]  # "lost": it closed on nothing, or what it held is gone
Enforcer = Literal["server", "client"]  # who keeps the limits: "client" where another server drives the arm, unguarded
FaultKind = Literal["", "communication", "reflex", "protective", "user-stop", "other"]

PROTOCOL_VERSION = 4
NAME = 40  # characters of a name that are compared: the cost of that grows with the square of the length


class RobotError(Exception):
    """The robot or its server cannot do what was asked; the text says why and what to do next."""


class CommandRefused(RobotError):
    """The guard refused a command; nothing moved because of it."""


class NotOwner(CommandRefused):
    """Whoever asked does not hold the lease: another client does, or nobody. Nothing moved because of it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean "…"?`` with the nearest known name, or the list of all of them: the end of an error's text."""
    known = sorted(known)
    close = difflib.get_close_matches(name[:NAME], known, n=1, cutoff=0.5)
    return f'; did you mean "{close[0]}"?' if close else f"; known: {', '.join(known)}"


@dataclass(frozen=True)
class RobotState:
    """One measurement of the arm.

    ========= ======== ======= =======================================================
    field     shape    unit    frame and meaning
    ========= ======== ======= =======================================================
    time      ()       s       server clock at the measurement
    pose      (7,)     m, –    TCP position and quaternion (x, y, z, w), base frame
    vel       (6,)     m/s, …  TCP linear and angular (rad/s) velocity, base frame
    force     (3,)     N       external force on the TCP, TCP frame
    torque    (3,)     Nm      external torque on the TCP, TCP frame
    q, dq     (n,)     rad, …  joint positions and velocities (rad/s); n joints as in the metadata's ``home_q``
    jacobian  (6, n)   –       geometric Jacobian at the TCP, base frame
    gripper   ()       –       opening, 0 closed … 1 open
    grip      –        –       what the gripper does
    ========= ======== ======= =======================================================
    """

    time: float
    pose: Array
    vel: Array
    force: Array
    torque: Array
    q: Array
    dq: Array
    jacobian: Array
    gripper: float
    grip: Grip = "idle"


@dataclass(frozen=True)
class Frame:
    """One camera image: ``image`` (H, W, 3) uint8 RGB, captured at ``time`` (s, server clock), ``number`` counts up.

    ``pose`` (7,) is the TCP pose interpolated to the moment of capture; None where no state is that old.
    ``depth`` (H, W) uint16 mm, where the camera measures it and was asked to.
    """

    image: Image
    time: float
    number: int
    pose: Array | None = None
    depth: npt.NDArray[np.uint16] | None = None


@dataclass(frozen=True)
class CameraHealth:
    """``age`` s of the newest frame, ``rate`` frames/s measured; ``fault`` says what is wrong, or is empty."""

    age: float
    rate: float
    fault: str = ""


@dataclass(frozen=True)
class Command:
    """Ask for a TCP target. ``state_time`` is the time of the state this command answers.

    ``pose`` (7,) float64, metres and quaternion xyzw in the base frame; ``gripper`` in [0, 1]
    (0 closed), or None to leave the gripper alone.
    """

    pose: Array
    gripper: float | None
    state_time: float


@dataclass(frozen=True)
class Bend:
    """One limit that bent a command: its name, the value asked for and the bound it met (SI units)."""

    limit: str
    value: float
    bound: float


@dataclass(frozen=True)
class Applied:
    """What the guard made of a command: the target really sent, and every limit that bent it."""

    pose: Array
    gripper: float | None
    bends: tuple[Bend, ...] = ()


@dataclass(frozen=True)
class Limits:
    """What the guard enforces; tightened by the owner of the lease for its task, never loosened by a client.

    The box has no default: nobody else knows the table. Everything else has a careful one.
    """

    box_low: tuple[float, float, float]  # m, lowest corner for targets, base frame
    box_high: tuple[float, float, float]  # m
    orientation: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)  # quaternion xyzw from which tilt counts
    tilt: float = 0.6  # rad, angle of the rotation between a target and ``orientation``
    step: float = 0.05  # m, distance of a target from the measured pose
    turn: float = 0.3  # rad, the same for its orientation
    speed: float = 0.5  # m/s of the target that the driver is given: farther targets are approached at this speed
    turn_speed: float = 2.0  # rad/s
    acceleration: float = 8.0  # m/s² of that target
    turn_acceleration: float = 16.0  # rad/s²
    force: float = 60.0  # N at the TCP; more leads to a hold until it has sunk below 70 % of this
    torque: float = 20.0  # Nm at the TCP
    margin: float = 0.03  # m that the measured pose may be outside of the box before the arm holds
    tilt_margin: float = 0.15  # rad, the same for ``tilt``
    max_age: float = 0.5  # s; commands that answer an older state are refused
    watchdog: float = 0.3  # s without a command that lead to a hold


@dataclass(frozen=True)
class JointLimits:
    """Of the arm itself, (n,) each: ``low`` and ``high`` rad, ``speed`` rad/s, ``acceleration`` rad/s²."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    speed: tuple[float, ...]
    acceleration: tuple[float, ...]


@dataclass(frozen=True)
class Tool:
    """What is mounted on the flange, as configured at the robot: stored with every episode.

    ``tcp`` (7,) pose of the TCP in the flange's frame; ``mass`` kg; ``centre`` (3,) m of mass in the flange's
    frame; ``inertia`` (9,) kg·m² about it, row-major.
    """

    tcp: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    mass: float = 0.0
    centre: tuple[float, ...] = (0.0, 0.0, 0.0)
    inertia: tuple[float, ...] = (0.0,) * 9


@dataclass(frozen=True)
class Health:
    """What the arm says of itself: no ``fault`` (empty), or which and in its own words.

    "communication": a message came too late; "reflex": it stopped by itself, e.g. at a collision;
    "protective": a protective stop that a person must clear; "user-stop": its own stop button is pressed.
    ``gripper``: what is wrong with the gripper, or empty; the arm goes on without it.
    """

    fault: FaultKind = ""
    text: str = ""
    gripper: str = ""


@dataclass(frozen=True)
class Check:
    """One line of a preflight: what was looked at, whether it is as it must be, and what to do if not."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True)
class Compliance:
    """Cartesian impedance parameters, named as in SERL's controller (arXiv 2401.16013, section IV-C).

    ``translational_clip``/``_neg`` m and ``rotational_clip``/``_neg`` (half-angle units, vector part
    of the error quaternion) bound the error ``measured − target`` per axis to ``[−neg, +clip]``, so
    that high stiffness never means high force.
    """

    translational_stiffness: float = 2000.0  # N/m
    translational_damping: float = 89.0  # Ns/m
    rotational_stiffness: float = 150.0  # Nm per unit of the error quaternion's vector part
    rotational_damping: float = 7.0  # Nms/rad
    translational_ki: float = 0.0  # N/m per control tick
    rotational_ki: float = 0.0
    translational_clip: tuple[float, float, float] = (0.01, 0.01, 0.01)
    translational_clip_neg: tuple[float, float, float] = (0.01, 0.01, 0.01)
    rotational_clip: tuple[float, float, float] = (0.05, 0.05, 0.05)
    rotational_clip_neg: tuple[float, float, float] = (0.05, 0.05, 0.05)
    nullspace_stiffness: float = 0.2
    joint1_nullspace_stiffness: float = 100.0


@dataclass(frozen=True)
class Metadata:
    """The first thing a server says: who it is, how fast it runs and what it enforces.

    ``limits`` are the robot's own, the widest that a client can have; they do not change with `Robot.tighten`.
    """

    robot: str  # the driver's name, e.g. "mujoco"
    scene: str  # the simulated task, or "" on hardware
    clock: ClockMode
    cycle_hz: float  # rate of the guard and of state measurements
    limits: Limits
    home_q: tuple[float, ...]  # rad
    home_pose: tuple[float, ...]  # (7,)
    compliance: Compliance
    joint_limits: JointLimits
    tool: Tool = Tool()
    limits_enforced: Enforcer = "server"
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # name → (height, width)
    protocol: int = PROTOCOL_VERSION


# ── reset plans: a list of steps which the server runs, one after the other ──────────────────────


@dataclass(frozen=True)
class PlaceObjects:
    """Simulation only: put the objects of the scene where ``seed`` says. Real robots skip it."""

    seed: int


@dataclass(frozen=True)
class JointReset:
    """Drive the joints to the home configuration, every ``every``-th reset only."""

    every: int = 1


@dataclass(frozen=True)
class MoveTo:
    """Drive the TCP on a straight line to ``pose`` (7,) at ``speed`` m/s under the reset limits."""

    pose: tuple[float, ...]
    speed: float = 0.25
    tolerance: float = 0.005  # m


@dataclass(frozen=True)
class SetGripper:
    """Move the gripper to ``width`` (0 closed … 1 open) and wait until it stops."""

    width: float


@dataclass(frozen=True)
class SetCompliance:
    """Switch the impedance parameters, e.g. to a precise set for a reset and back. They end with the lease."""

    compliance: Compliance


@dataclass(frozen=True)
class AskPerson:
    """Wait until a person confirms, e.g. "put the peg back in the holder"."""

    text: str


ResetStep = PlaceObjects | JointReset | MoveTo | SetGripper | SetCompliance | AskPerson
Mode = Literal["idle", "moving", "holding", "resetting", "guiding", "user-stopped", "fault", "stopped"]


@dataclass(frozen=True)
class Status:
    """What the server is doing. ``waiting_for`` holds the question while it waits for a person.

    ``held``: why somebody asked it to hold. No command goes on before a reset, `Robot.confirm` or `Robot.recover`.
    """

    mode: Mode
    time: float
    reason: str = ""
    waiting_for: str = ""
    held: str = ""
    resets: int = 0
    commands: int = 0
    refused: int = 0
    bent: int = 0
    health: Health = Health()
    soft: bool = False  # whether the soft start after connect or a fault is still under way
    cycles: int = 0
    late: int = 0  # cycles that began more than one period late (real time)
    owner: str = ""  # who holds the lease; filled in by the server
    cameras: Mapping[str, CameraHealth] = field(default_factory=dict)
