"""The contract between a robot and everyone who talks to it; import everything of it from here.

The values that are exchanged, with every unit and frame, are those of `robot_servers.values`. Two protocols,
one above the other::

    Robot    what users hold: the guarded robot in this process, or a client of a remote one
    Driver   what a vendor writes: one arm without limits; only the guard ever calls it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from robot_servers.values import (
    PROTOCOL_VERSION,
    Applied,
    Array,
    AskPerson,
    Bend,
    CameraHealth,
    Check,
    ClockMode,
    Command,
    CommandRefused,
    Compliance,
    Enforcer,
    FaultKind,
    Frame,
    Grip,
    Health,
    Image,
    JointLimits,
    JointReset,
    Limits,
    Metadata,
    Mode,
    MoveTo,
    NotOwner,
    PlaceObjects,
    ResetStep,
    RobotError,
    RobotState,
    SetCompliance,
    SetGripper,
    Status,
    Tool,
    nearest,
)

__all__ = [
    "PROTOCOL_VERSION",
    "Applied",
    "Array",
    "AskPerson",
    "Bend",
    "CameraHealth",
    "Cameras",
    "Check",
    "ClockMode",
    "Command",
    "CommandRefused",
    "Compliance",
    "Driver",
    "Enforcer",
    "FaultKind",
    "Frame",
    "Grip",
    "Gripper",
    "Health",
    "Image",
    "JointLimits",
    "JointReset",
    "Limits",
    "Metadata",
    "Mode",
    "MoveTo",
    "NotOwner",
    "PlaceObjects",
    "ResetStep",
    "Robot",
    "RobotError",
    "RobotState",
    "SetCompliance",
    "SetGripper",
    "Status",
    "Tool",
    "nearest",
]


class Robot(Protocol):
    """A guarded robot: in this process or behind a client, the calls are the same.

    Behind a server one client at a time owns the robot: `command`, `reset`, `confirm`, `guide`, `advance` and
    `tighten` raise `NotOwner` while another one does. Reading, `hold`, `stop` and `recover` are open to everyone.
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
        """Answer the question of an `AskPerson` step; without one, end a hold that somebody asked for."""
        ...

    def hold(self, reason: str) -> None:
        """Stay where the arm is, and end a running reset. Commands are refused until the next one, or `confirm`."""
        ...

    def stop(self, reason: str) -> None:
        """Damped stop, then controller off; only `recover` ends it. Not safety-rated: keep the real one in reach."""
        ...

    def recover(self) -> None:
        """A person says that it is safe to go on: ends a stop, a user stop and a fault, in a hold and a soft start.

        It also ends a hold that somebody asked for, and lets an arm outside of its limits move back in.
        Raises `RobotError` if the arm cannot be brought back, saying what the person has to do.
        """
        ...

    def guide(self, on: bool) -> None:
        """Let a person lead the arm by hand (zero stiffness), or end that in a hold."""
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

    Except for ``stop``, which comes from any thread at any time, and ``frames`` in real time: the server's
    thread calls it beside the cycle, so both must be safe there. ``ground_truth``, and ``frames`` in lockstep,
    come from that thread too, but between two cycles.
    """

    name: str
    scene: str  # "" on hardware
    clock: ClockMode
    cycle_hz: float
    home_q: tuple[float, ...]
    home_pose: tuple[float, ...]
    cameras: Mapping[str, tuple[int, int]]  # those that the driver itself has, e.g. simulated ones
    limits: Limits  # the widest limits this arm and scene allow
    joint_limits: JointLimits
    tool: Tool
    limits_enforced: Enforcer

    def connect(self) -> None: ...
    def close(self) -> None: ...
    def state(self) -> RobotState: ...
    def health(self) -> Health:
        """What the arm says of itself; asked once per cycle. In a fault it must hold by itself until `recover`."""
        ...

    def frames(self) -> dict[str, Frame]: ...
    def track(self, pose: Array, gripper: float | None) -> None:
        """Make this the target of the impedance law from the next cycle on. Ends a running `joint_reset`."""
        ...

    def stop(self) -> None:
        """Damped stop, then controller off; `track` and `joint_reset` do nothing until `recover`.

        Also the last call before `close`: it must not raise.
        """
        ...

    def recover(self) -> None:
        """Clear what stopped the arm and start the controller at the measured pose, integral zero.

        Raises `RobotError` if a person must do something at the arm first, saying what.
        """
        ...

    def cycle(self) -> None:
        """Let one period of ``1 / cycle_hz`` pass (simulation), or do what the arm needs each period."""
        ...

    def set_compliance(self, compliance: Compliance) -> None: ...
    def guide(self, on: bool) -> None:
        """Zero stiffness, so that a person can lead the arm; off: the compliance of before, at the measured pose."""
        ...

    def joint_reset(self) -> bool:
        """Begin or go on driving the joints home; True when they are there. `track` and `stop` end it."""
        ...

    def preflight(self) -> tuple[Check, ...]:
        """What this arm needs to be ready: mode, firmware, tool, rates. May be called before `connect`."""
        ...

    def place_objects(self, seed: int) -> None: ...
    def ground_truth(self) -> Mapping[str, Any]:
        """Simulation only: object poses (7,) and facts (bool), "success" among them. Empty on hardware."""
        ...


class Gripper(Protocol):
    """One gripper. Nothing blocks: its own thread or the device's follows the last `move`.

    Widths are normalised by the gripper's own numbers: 0 fully closed, 1 fully open.
    """

    def connect(self) -> None: ...
    def close(self) -> None: ...
    def move(self, width: float) -> None: ...
    def width(self) -> float:
        """The newest measured opening."""
        ...

    def grip(self) -> Grip: ...
    def trouble(self) -> str:
        """What is wrong with the device, e.g. unplugged, stuck or too hot, and what to do; or empty."""
        ...

    def stop(self) -> None:
        """Stay as it is, without letting go. From any thread; it must not raise."""
        ...


class Cameras(Protocol):
    """Real cameras of one server. `frames` never waits: a frozen or missing camera is seen in `health`."""

    sizes: Mapping[str, tuple[int, int]]  # name → (height, width)

    def open(self) -> None: ...
    def close(self) -> None: ...
    def frames(self) -> dict[str, Frame]:
        """The newest frame of every camera that has delivered one."""
        ...

    def health(self) -> dict[str, CameraHealth]: ...
