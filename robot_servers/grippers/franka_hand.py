"""The Franka hand through franky, beside the arm: it has its own connection and answers at about 60 Hz.

To close is a grasp with a force and a wide tolerance, so that whatever is between the fingers is held. A grasp closes
until something stops it, whatever the width, so every other width is a move, which holds nothing. A thread of its own
follows the last `move`: the hand takes one command at a time and blocks meanwhile.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from robot_servers.interface import Grip, RobotError

if TYPE_CHECKING:
    import franky

log = logging.getLogger(__name__)

SPEED = 0.1  # m/s of each finger
FORCE = 40.0  # N of continuous grasping force; the hand's maximum is 70
NOT_HOMED = 0.02  # m; a hand that has not been homed reports a maximum width below this
CLOSE = 0.05  # of the opening; a narrower width means: close
NOTHING = 0.002  # m; fingers closer than this hold nothing
RETRY = 1.0  # s between attempts when the hand does not answer
PERIOD = 0.02  # s between looks at a hand that is at rest
STOPS = 2.0  # s to wait for the thread when closing


class FrankaHand:
    """Satisfies `Gripper`. ``host`` is the arm's address; ``force`` N; ``home``: let the fingers find their stops."""

    def __init__(self, host: str, force: float = FORCE, speed: float = SPEED, home: bool = False) -> None:
        self._host = host
        self._force = force
        self._speed = speed
        self._home = home
        self._hand: franky.Gripper | None = None
        self._lock = threading.Lock()  # of what follows
        self._travel = 0.0  # m, widest opening
        self._width = 1.0  # newest measured opening
        self._goal: float | None = None  # a width that the hand has not been told yet
        self._grip: Grip = "idle"
        self._trouble = ""
        self._waiting = threading.Event()  # something to do
        self._halt = False  # the present command is to be given up
        self._closing = False
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        """Raises `RobotError` if there is no hand, or if it has never been homed."""
        try:
            import franky
        except ImportError as error:
            raise RobotError(f"the Franka hand needs franky ({error}): install the extra franka") from error
        try:
            self._hand = franky.Gripper(self._host)
            if self._home:
                self._hand.homing()
            state = self._hand.state
        except (franky.Exception, RuntimeError) as error:
            raise RobotError(f"no Franka hand at {self._host}: {error} Without one choose --gripper none") from error
        if state.max_width < NOT_HOMED:
            raise RobotError(f"the hand at {self._host} must be homed once after power-up: Desk, or --home-gripper")
        self._travel, self._width = state.max_width, state.width / state.max_width
        self._closing = False
        self._thread = threading.Thread(target=self._follow, name="franka-hand", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self._waiting.set()
        if self._thread is not None:
            self._thread.join(STOPS)
        self._hand = self._thread = None

    def move(self, width: float) -> None:
        with self._lock:
            self._goal = min(1.0, max(0.0, width))
            self._grip = "moving"
        self._waiting.set()

    def width(self) -> float:
        return self._width

    def grip(self) -> Grip:
        return self._grip

    def trouble(self) -> str:
        return self._trouble

    def stop(self) -> None:
        """Only a moving hand is stopped: a grasp that has ended keeps its force."""
        with self._lock:
            self._goal, self._halt = None, True
        self._waiting.set()

    # ── the thread that follows ──

    def _follow(self) -> None:
        import franky

        held = False  # whether the last command closed the fingers, all the way
        while not self._closing:
            try:
                with self._lock:
                    goal, self._goal, self._halt = self._goal, None, False
                held = held if goal is None else self._carry_out(goal)
                self._look(held)
                self._trouble = ""
            except (franky.Exception, franky.GripperException, RuntimeError) as error:
                self._complain(f"the Franka hand at {self._host}: {error}".strip())
                self._grip = "lost"
                self._waiting.wait(RETRY)
            self._waiting.wait(PERIOD)
            self._waiting.clear()

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("%s", trouble)
        self._trouble = trouble

    def _carry_out(self, goal: float) -> bool:
        """One command until it is done, or given up; whether it closed the fingers."""
        assert self._hand is not None  # while the thread lives
        closing = goal < CLOSE
        if closing:
            done = self._hand.grasp_async(0.0, self._speed, self._force, self._travel, self._travel)
        else:
            done = self._hand.move_async(goal * self._travel, self._speed)
        while not done.wait(0.0):
            self._measure()
            if self._goal is not None or self._halt or self._closing:
                self._hand.stop()
                done.wait(STOPS)
                return False
        done.get()
        return closing

    def _measure(self) -> franky.GripperState:
        assert self._hand is not None  # while the thread lives
        state = self._hand.state
        self._width = min(1.0, max(0.0, state.width / self._travel))
        return state

    def _look(self, held: bool) -> None:
        """What the hand does now that it moves no more."""
        state = self._measure()
        with self._lock:
            if self._goal is not None:
                return
            holds = state.is_grasped and state.width > NOTHING
            self._grip = "holding" if held and holds else "lost" if held else "idle"
