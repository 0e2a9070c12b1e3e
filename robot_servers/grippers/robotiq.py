"""A Robotiq 2F gripper. A thread of its own talks to it; nobody who calls waits for the device.

A gripper that is not active yet is activated by `connect` and then closed and opened once, to learn
where its fingertips really end. One that is active already may be holding something: it is left as it
is, and its ends are learnt when it first reaches them.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from robot_servers.grippers.robotiq_wire import Request, Status, Wire
from robot_servers.interface import Grip, RobotError

log = logging.getLogger(__name__)

OPEN, CLOSED = 0, 255  # the gripper's own numbers
RESET, ACTIVE = 0, 3  # gSTA
MOVING, ARRIVED = 0, 3  # gOBJ; between them: stopped by a contact
ACTIVATION_TIME = 10.0  # s for activation, and for either end of the travel
STUCK_TIME = 1.0  # s in motion without progress
PAUSES = (0.2, 5.0)  # s between two attempts to connect again: the first and the longest
FAULTS = {  # gFLT; the manual's numbers
    5: "it has to finish its activation first",
    7: "it has to be activated first",
    8: "it is too hot: let it cool down",
    10: "its voltage is too low: check its power supply",
    11: "its automatic release is under way",
    12: "internal fault: switch its power off and on",
    13: "its activation failed: take away what is between the fingers, then connect again",
    14: "overcurrent: switch its power off and on",
    15: "its automatic release is done: connect again to activate it",
}


class RobotiqGripper:
    """Satisfies `Gripper`. ``speed`` and ``force`` in [0, 1]; ``opened`` and ``closed``: its own numbers at the ends.

    Raises `RobotError`: `connect` where no gripper answers or its activation fails, `move` for what is no number.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        speed: float = 1.0,
        force: float = 0.5,
        opened: int = OPEN,
        closed: int = CLOSED,
        poll_hz: float = 50.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trouble = ""
        self._wire = wire
        self._request = Request(OPEN, round(255 * speed), round(255 * force))  # the last one that was sent
        self._ends = (opened, closed)
        self._poll = 1.0 / poll_hz
        self._now = now
        self._lock = threading.Lock()  # everything below
        self._pending: Request | None = None
        self._status = Status(RESET, MOVING, 0, OPEN, opened)
        self._grip: Grip = "idle"
        self._progress = (opened, 0.0)  # the last position that differed, and when
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    # ── life ──

    def connect(self) -> None:
        """Blocks while the gripper activates and finds its ends, at most half a minute."""
        self._wire.open()
        self._closing.clear()
        if self._wire.read().state != ACTIVE:
            for width in (0.0, 1.0):  # a pending move activates it
                self._reach(width)
        self._step()
        self._thread = threading.Thread(target=self._follow, name="robotiq", daemon=True)
        self._thread.start()

    def _reach(self, width: float) -> None:
        """Move and wait. Raises `RobotError` if it does not come to rest."""
        self.move(width)
        begun = self._now()
        while self._now() - begun < 2.0 * ACTIVATION_TIME:
            self._step()
            if self._grip != "moving":
                return
            self._closing.wait(self._poll)
        raise RobotError(
            f"the gripper did not finish its activation: {self._trouble or 'free its fingers, connect again'}"
        )

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._wire.close()

    # ── what others call: never waits for the device ──

    def move(self, width: float) -> None:
        if not math.isfinite(width):
            raise RobotError(f"a gripper's width must be a number between 0 and 1, not {width}")
        with self._lock:
            self._pending = replace(self._request, position=self._position(width), go=True)
            self._grip, self._progress = "moving", (self._status.position, self._now())
        self._wake.set()

    def stop(self) -> None:
        """Only what moves is stopped: a grip stays as firm as it is."""
        with self._lock:
            if self._grip != "moving":
                return
            self._pending = replace(self._request, go=False)
        self._wake.set()

    def width(self) -> float:
        with self._lock:
            opened, closed = self._ends
            return min(1.0, max(0.0, (closed - self._status.position) / (closed - opened)))

    def grip(self) -> Grip:
        with self._lock:
            return self._grip

    def trouble(self) -> str:
        return self._trouble

    def _position(self, width: float) -> int:
        """The ends are asked for by the ends of its numbers, so that it closes with its full force."""
        opened, closed = self._ends
        if width <= 0.0:
            return CLOSED
        return OPEN if width >= 1.0 else round(closed - width * (closed - opened))

    # ── the thread ──

    def _follow(self) -> None:
        pause = PAUSES[0]
        while not self._closing.is_set():
            try:
                self._step()
            except RobotError as error:
                self._say(f"{error}; trying again")
                self._closing.wait(pause)
                pause = min(2.0 * pause, PAUSES[1])
                self._reopen()
            else:
                pause = PAUSES[0]
                self._wake.wait(self._poll)
                self._wake.clear()

    def _reopen(self) -> None:
        self._wire.close()
        try:
            self._wire.open()
        except RobotError as error:
            self._say(f"{error}; trying again")

    def _step(self) -> None:
        """One exchange with the device. Raises `RobotError` when it is unplugged."""
        status = self._wire.read()
        with self._lock:
            pending = self._pending
        if pending is not None and status.state == ACTIVE:
            self._wire.write(pending)
            status = self._wire.read()
        elif pending is not None and status.state == RESET:
            # also after its power was cut: only a move may make the fingers move by themselves
            self._wire.write(replace(pending, active=False, go=False))
            self._wire.write(replace(pending, go=False))
        with self._lock:
            if pending is not None and status.state == ACTIVE:
                self._request = pending
                self._pending = None if self._pending is pending else self._pending
            self._judge(status)

    def _judge(self, status: Status) -> None:
        """Called with the lock held."""
        if status.position != self._progress[0]:
            self._progress = (status.position, self._now())
        self._status = status
        self._learn_ends(status)
        stuck = self._pending is None and self._stuck(status)
        self._grip = "idle" if stuck else self._gripping(status)
        if status.fault:
            self._say(f"the gripper reports fault {status.fault}: {FAULTS.get(status.fault, 'see its manual')}")
        elif stuck:
            self._say(f"the gripper is stuck at {status.position} of 255 on its way to {status.echo}: free its fingers")
        elif status.state != ACTIVE and self._pending is None:
            self._say("the gripper is not active any more; the next move activates it, which closes and opens it")
        else:
            self._say("")

    def _gripping(self, status: Status) -> Grip:
        sent = self._request
        if self._pending is not None:
            return "moving"
        if status.state != ACTIVE or not sent.go:
            return "idle"
        if status.object == MOVING or status.echo != sent.position:
            return "moving"
        if status.object != ARRIVED:
            return "holding"
        gone = self._grip in ("holding", "lost") or sent.position == CLOSED
        return "lost" if gone else "idle"

    def _stuck(self, status: Status) -> bool:
        moving = status.state == ACTIVE and self._request.go and status.object == MOVING
        return moving and self._now() - self._progress[1] > STUCK_TIME

    def _learn_ends(self, status: Status) -> None:
        """Where it arrives when asked for an end, is the end."""
        opened, closed = self._ends
        if status.state != ACTIVE or status.object != ARRIVED or status.echo != self._request.position:
            return
        if status.echo == OPEN and status.position < closed:
            self._ends = (status.position, closed)
        elif status.echo == CLOSED and status.position > opened:
            self._ends = (opened, status.position)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("%s", trouble)
        self._trouble = trouble
