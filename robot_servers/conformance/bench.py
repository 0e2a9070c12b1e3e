"""The robot on the bench: every check talks to it through these few means, on either clock.

All motions stay within ``REACH`` of where the suite found the arm, and within ``TURN`` of how it was
turned: before anything moves the suite binds itself to these limits at the server.
"""

from __future__ import annotations

import contextlib
import math
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import zmq

from robot_servers import wire
from robot_servers.channel import Channel
from robot_servers.client import RobotClient
from robot_servers.conformance.verdict import fail
from robot_servers.geometry import quat_mul, quat_normalise, rotvec_to_quat
from robot_servers.hello import Hello, say_hello
from robot_servers.interface import (
    Applied,
    Array,
    Command,
    CommandRefused,
    Limits,
    Metadata,
    RobotError,
    RobotState,
    Status,
)
from robot_servers.keys import ClientKeys, secure_client
from robot_servers.lease import Client

REACH = 0.005  # m along each axis, from where the arm was found
TURN = math.radians(2.0)  # from how it was turned
SPEED = 0.05  # m/s
TURN_SPEED = 0.5  # rad/s
TIMEOUT = 5.0  # s that a call may take
PERIOD = 0.1  # s between two commands, as most policies send them
SETTLED = 0.2  # s without motion after which the arm has arrived
STILL = (1e-4, 1.5e-3)  # m and rad; less is noise
MOTION_TIME = 3.0  # s after which a motion counts as over, arrived or not
SOFT_TIME = 10.0  # s that a soft start may take
RESET_TIME = 5.0  # s that a reset of no steps may take
TRIES = 3
FROZEN = 2.0  # s of the wall without a new measurement in real time
BUSY = ("resetting", "guiding", "user-stopped", "fault", "stopped")


class Bench:
    """One server under test. `open` connects and takes the lease, `close` leaves the arm held and free."""

    def __init__(self, address: str, keys: ClientKeys | None = None) -> None:
        self.address = address
        self.keys = keys
        self.robot = self.client()
        self.looker = Channel(address, TIMEOUT, keys=keys)  # says not who it is: it may only look
        self._hello: Hello | None = None
        self._start: Array | None = None
        self.farthest = 0.0  # m along one axis that the arm was seen from where it was found
        self._newest = -math.inf  # time of the newest measurement that was seen
        self._owner: Channel | None = None  # who has the lease in place of `robot`

    def __enter__(self) -> Bench:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Raises `RobotError` if nobody answers, another client owns the robot, or it is not ready."""
        self.robot.connect()
        self._hello = say_hello(self.looker, TIMEOUT)
        status = self.status()
        if status.mode in BUSY:
            why = status.reason or status.waiting_for
            raise RobotError(f"the robot is in mode {status.mode} ({why}): make it ready first; nothing was checked")
        with self.channel() as mine:
            mine.call("acquire", None)
            mine.call("release")

    def close(self) -> None:
        with contextlib.suppress(RobotError):
            self.robot.hold("conformance: done")
        self.robot.close()
        self.looker.close()

    # ── what it is ──

    @property
    def metadata(self) -> Metadata:
        return self.robot.metadata

    def socket(self, name: str) -> str:
        """The address of a further socket that the server named in its hello, or nothing."""
        return "" if self._hello is None else self._hello.sockets.get(name, "")

    @property
    def limits(self) -> Limits:
        """The robot's own, the widest."""
        return self.metadata.limits

    @property
    def lockstep(self) -> bool:
        return self.metadata.clock == "lockstep"

    @property
    def simulated(self) -> bool:
        """Whether nothing real can move: a scene, or time that only passes when it is told to."""
        return bool(self.metadata.scene) or self.lockstep

    @property
    def cycle(self) -> float:
        """s between two measurements."""
        return 1.0 / self.metadata.cycle_hz

    @property
    def period(self) -> float:
        """s between two commands: so short that no watchdog bites."""
        return min(PERIOD, self.limits.watchdog / 3)

    @property
    def start(self) -> Array:
        """Pose (7,) in which the suite found the arm."""
        if self._start is None:
            self._start = self.robot.state().pose.copy()
            self._start[3:] = quat_normalise(self._start[3:])
        return self._start

    def small(self, **changes: Any) -> Limits:
        """The robot's limits around the start, so narrow that nothing moves farther than was said."""
        own, start = self.limits, self.start
        low, high = start[:3] - REACH, start[:3] + REACH
        near = replace(
            own,
            box_low=tuple(np.maximum(low, own.box_low).tolist()),
            box_high=tuple(np.minimum(high, own.box_high).tolist()),
            orientation=tuple(start[3:].tolist()),
            tilt=TURN,
            step=min(own.step, 4 * REACH),
            turn=min(own.turn, 2 * TURN),
            speed=min(own.speed, SPEED),
            turn_speed=min(own.turn_speed, TURN_SPEED),
        )
        return replace(near, **changes)

    def target(self, move: Array | tuple[float, float, float], turn: Array | None = None) -> Array:
        """The start pose moved by ``move`` m (base frame) and turned by the rotation vector ``turn`` (base frame)."""
        pose = self.start.copy()
        pose[:3] += np.asarray(move)
        if turn is not None:
            pose[3:] = quat_normalise(quat_mul(rotvec_to_quat(np.asarray(turn)), pose[3:]))
        return pose

    # ── time ──

    def wait(self, seconds: float) -> None:
        """Let this much of the robot's time pass, without a command."""
        if self.lockstep:
            self._advance(math.ceil(seconds / self.cycle - 1e-6) * self.cycle)
        else:
            time.sleep(seconds)

    def tick(self, step: float = 0.0) -> RobotState:
        """A new measurement, ``step`` s later or in the next cycle. Raises `Violation` if time stands still."""
        wall = time.monotonic()
        while True:
            self.wait(max(step, self.cycle if self.lockstep else min(self.cycle / 4, 0.01)))
            state = self.robot.state()
            if state.time > self._newest:
                self._note(state)
                return state
            if self.lockstep or time.monotonic() - wall > FROZEN:
                fail(f"the time of its states stands still at {state.time:.3f} s", "measure once in every cycle")

    def until(self, condition: Callable[[], bool], seconds: float, step: float = 0.02) -> bool:
        """Wait for the condition, looking every ``step`` s, at most ``seconds`` of the robot's time."""
        end = self.robot.state().time + seconds
        while not condition():
            if self.tick(step).time > end:
                return False
        return True

    def watch(self, seconds: float) -> list[RobotState]:
        """Measurements of the next ``seconds`` of the robot's time, without a command."""
        trace = [self.robot.state()]
        while trace[-1].time - trace[0].time < seconds:
            trace.append(self.tick(self.period))
        return trace

    def _note(self, state: RobotState) -> None:
        self._newest = state.time
        if self._start is not None:
            self.farthest = max(self.farthest, float(np.abs(state.pose[:3] - self._start[:3]).max()))

    # ── what the checks do ──

    def status(self) -> Status:
        return wire.from_tree(Status, self.looker.call("status"))

    def ready(self, **changes: Any) -> None:
        """Own the robot within the small limits (and ``changes``), not held, and back where it was found."""
        self.robot.tighten(self.small())
        self.until(lambda: not self.status().soft, SOFT_TIME, step=0.1)
        self.robot.reset(())
        if not self.until(lambda: self.status().mode != "resetting", RESET_TIME):
            fail("an empty reset does not end", "an empty plan is done at once: it is how a hold is ended")
        if not self._at_start():
            self.follow(self.start)
        if changes:
            self.robot.tighten(self.small(**changes))

    def _at_start(self) -> bool:
        away = np.abs(self.robot.state().pose - self.start)
        return bool(away[:3].max() < STILL[0] and away[3:].max() < STILL[1])

    def send(self, pose: Array, gripper: float | None = None) -> Applied:
        """Command this target as the answer to the newest state; again where this program was too slow for it."""
        for _ in range(TRIES):
            begun = time.monotonic()
            state = self.robot.state()
            try:
                return self.robot.command(Command(pose, gripper, state.time))
            except CommandRefused:
                if self.lockstep or time.monotonic() - begun < self.limits.max_age / 2:
                    raise
        return self.robot.command(Command(pose, gripper, self.robot.state().time))

    def follow(self, pose: Array, fine: bool = False) -> list[RobotState]:
        """Command this target until the arm rests; measurements on the way, at best one for each cycle if ``fine``."""
        trace = [self.robot.state()]
        due = trace[0].time
        while trace[-1].time - trace[0].time < MOTION_TIME and not _rests(trace):
            if trace[-1].time >= due - 1e-9:
                self.send(pose)
                due = trace[-1].time + self.period
            trace.append(self.tick(0.0 if fine else self.period))
        return trace

    def go(self, pose: Array) -> Array:
        """The measured pose (7,) after following this target."""
        return self.follow(pose)[-1].pose

    # ── others at the same server ──

    def client(self) -> RobotClient:
        """A client of this server, not connected yet."""
        return RobotClient(self.address, TIMEOUT, self.keys)

    @contextlib.contextmanager
    def channel(self, named: bool = True) -> Iterator[Channel]:
        """Calls by name as another client, or as one that does not say who it is."""
        client = Client(uuid.uuid4().hex, "conformance") if named else None
        channel = Channel(self.address, TIMEOUT, client, self.keys)
        try:
            yield channel
        finally:
            channel.close()

    @contextlib.contextmanager
    def owner_channel(self) -> Iterator[Channel]:
        """Calls by name as the owner, for what `RobotClient` would never send."""
        self.yield_lease()
        with self.channel() as channel:
            channel.call("acquire", self.small())
            self._owner = channel
            try:
                yield channel
            finally:
                self._owner = None
                channel.call("release")

    def _advance(self, seconds: float) -> None:
        if self._owner is None:
            self.robot.advance(seconds)
        else:
            self._owner.call("advance", seconds)

    def yield_lease(self) -> None:
        """Let go of the lease. Before the next motion call `ready`, which takes it again with the small limits."""
        self.robot.close()
        self.robot = self.client()
        self.robot.connect()

    @contextlib.contextmanager
    def raw(self) -> Iterator[zmq.Socket[bytes]]:
        """A bare socket, for bytes that no client of ours would send."""
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            secure_client(socket, self.keys)
            socket.connect(self.address)
            yield socket

    def rest(self) -> None:
        """Hold the arm: how every check ends. Raises `RobotError` if nobody answers."""
        self.robot.hold("conformance: between two checks")


def _rests(trace: list[RobotState]) -> bool:
    """Whether nothing has moved for `SETTLED` s, seen at both ends of that time; a motion needs as long to begin."""
    last = trace[-1]
    if last.time - trace[0].time < 2 * SETTLED:
        return False
    since = max(place for place, state in enumerate(trace) if last.time - state.time >= SETTLED)
    recent = np.array([state.pose for state in trace[since:]]) - last.pose
    return bool(np.abs(recent[:, :3]).max() < STILL[0] and np.abs(recent[:, 3:]).max() < STILL[1])
