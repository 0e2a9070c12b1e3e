"""The contract between a robot and everyone who talks to it.

Units and frames are said here once and hold everywhere: SI units, the robot's base frame unless a
field says otherwise, quaternions scalar-last ``(x, y, z, w)``, times in seconds of the server's
monotonic clock (of simulated time under the lockstep clock).

Two protocols, one above the other::

    Robot    what users hold: the guarded robot in this process, or a client of a remote one
    Driver   what a vendor writes: one arm without limits; only the guard ever calls it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
ClockMode = Literal["realtime", "lockstep"]

PROTOCOL_VERSION = 2
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
    q, dq     (7,)     rad, …  joint positions and velocities (rad/s)
    jacobian  (6, 7)   –       geometric Jacobian at the TCP, base frame
    gripper   ()       –       opening, 0 closed … 1 open
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


@dataclass(frozen=True)
class Frame:
    """One camera image: ``image`` (H, W, 3) uint8 RGB, captured at ``time`` (s, server clock), ``number`` counts up."""

    image: Image
    time: float
    number: int


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

    ``box_low``/``box_high`` (3,) m bound the target position in the base frame; ``tilt`` rad bounds
    the rotation angle between the target and ``orientation`` (quaternion xyzw); ``step`` m and
    ``turn`` rad bound the distance between a target and the measured pose; ``max_age`` s refuses
    commands that answer an older state; ``watchdog`` s without a command leads to a hold.
    """

    box_low: tuple[float, float, float]
    box_high: tuple[float, float, float]
    orientation: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    tilt: float = 0.6
    step: float = 0.05
    turn: float = 0.3
    max_age: float = 0.5
    watchdog: float = 0.3


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
Mode = Literal["idle", "moving", "holding", "resetting", "fault", "stopped"]


@dataclass(frozen=True)
class Status:
    """What the server is doing. ``waiting_for`` holds the question while a reset waits for a person."""

    mode: Mode
    time: float
    reason: str = ""
    waiting_for: str = ""
    resets: int = 0
    commands: int = 0
    refused: int = 0
    bent: int = 0


class Robot(Protocol):
    """A guarded robot: in this process or behind a client, the calls are the same.

    Behind a server one client at a time owns the robot: `command`, `reset`, `confirm`, `advance` and
    `tighten` raise `NotOwner` while another one does. Reading and `hold` are open to everyone.
    Constructors open nothing; `connect` does, and `metadata` is valid only after it.
    """

    @property
    def metadata(self) -> Metadata: ...
    def connect(self) -> None: ...
    def close(self) -> None: ...
    def state(self) -> RobotState: ...
    def frames(self) -> dict[str, Frame]: ...
    def command(self, command: Command) -> Applied:
        """Set the target. Raises `CommandRefused` with the reason; then nothing moved."""
        ...

    def reset(self, plan: tuple[ResetStep, ...]) -> None:
        """Start a reset plan and return at once; `status().mode` is "resetting" until it is done."""
        ...

    def confirm(self) -> None:
        """Answer the question of an `AskPerson` step."""
        ...

    def hold(self, reason: str) -> None:
        """Stay where the arm is, and end a running reset. Commands are refused until the next reset."""
        ...

    def tighten(self, limits: Limits) -> None:
        """Bind commands to these limits for as long as the caller owns the robot; they replace earlier ones.

        Resets stay bound by the robot's own. Raises `CommandRefused` naming what would be looser than those.
        """
        ...

    def status(self) -> Status: ...
    def advance(self, seconds: float) -> None:
        """Lockstep clock only: let this much simulated time pass. Raises `RobotError` in real time."""
        ...


class Driver(Protocol):
    """One arm without limits, called by the guard alone, and never by two threads at once.

    Except for ``frames`` in real time: the server's thread calls it beside the cycle, so it must be safe
    there. ``ground_truth``, and ``frames`` in lockstep, come from that thread too, but between two cycles.
    """

    name: str
    scene: str
    clock: ClockMode
    cycle_hz: float
    home_q: tuple[float, ...]
    home_pose: tuple[float, ...]
    cameras: Mapping[str, tuple[int, int]]
    limits: Limits  # the widest limits this arm and scene allow

    def connect(self) -> None: ...
    def close(self) -> None: ...
    def state(self) -> RobotState: ...
    def frames(self) -> dict[str, Frame]: ...
    def track(self, pose: Array, gripper: float | None) -> None:
        """Make this the target of the impedance law from the next cycle on. Ends a running `joint_reset`."""
        ...

    def stop(self) -> None:
        """Stay where you are, compliant. The last call before `close`, or after a failure: it must not raise."""
        ...

    def cycle(self) -> None:
        """Let one period of ``1 / cycle_hz`` pass (simulation), or do what the arm needs each period."""
        ...

    def set_compliance(self, compliance: Compliance) -> None: ...
    def joint_reset(self) -> bool:
        """Begin or go on driving the joints home; True when they are there. `track` and `stop` end it."""
        ...

    def place_objects(self, seed: int) -> None: ...
    def ground_truth(self) -> Mapping[str, Any]:
        """Simulation only: object poses (7,) and "success" (bool). Empty on hardware."""
        ...
