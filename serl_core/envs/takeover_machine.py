"""When a takeover begins and ends, as pure logic: readings of a device and the time go in, who leads comes out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias, final

import numpy as np

from robot_servers.interface import Array
from serl_core.config import ConfigError
from serl_core.teleop.device import TWIST, Reading
from serl_core.types import Who

Gains: TypeAlias = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class TakeoverConfig:
    """When a takeover begins and ends, and what the hand then does. Raises `ConfigError` on values that cannot work.

    The gap between the two thresholds keeps it from flickering. The push is the norm of the twist before the device's
    gain, of all axes that are not masked, also of those that the task does not move: whoever touches the device wants
    to be heard.
    """

    engage: float = 0.15  # |push| from which a person has taken over; a pressed button does it too
    release: float = 0.08  # |push| below which a person may have let go
    release_delay: float = 0.25  # s of rest before the policy acts again
    max_age: float = 0.3  # s; an older reading is as good as none
    clutch: int | None = None  # number of the button, on each hand, that is held to lead; without, by pushing
    ease: int = 1  # steps in which whoever comes eases in; whoever goes is out at once
    when_lost: Literal["hold", "policy"] = "hold"  # what follows if the device is lost: the arm stands still, or not
    # all arms are taken over at once, or each by its own hand; a step in which one hand leads is then recorded as the
    # operator's on every arm
    hands: Literal["together", "each"] = "together"
    gains: Gains = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # of x, y, z, roll, pitch, yaw in the tool's frame; 0 masks one

    def __post_init__(self) -> None:
        if not 0 < self.release <= self.engage:
            raise ConfigError(f"takeover: release {self.release} must be positive and at most engage {self.engage}")
        if self.ease < 0 or self.release_delay < 0 or self.max_age <= 0:
            raise ConfigError("takeover: ease and release_delay must not be negative, and max_age be positive")
        if self.clutch is not None and self.clutch < 0:
            raise ConfigError(f"takeover: clutch {self.clutch} must be the number of a button, from 0 up")
        if len(self.gains) != TWIST or not np.isfinite(self.gains).all() or not any(self.gains):
            raise ConfigError(f"takeover: gains {self.gains} must be {TWIST} numbers, one of them not 0")


class State(StrEnum):
    """How one hand stands to its arm."""

    POLICY = "policy"  # the policy acts
    OPERATOR = "operator"  # the hand leads
    RELEASING = "releasing"  # the hand rests; it leads until the delay is over
    LOST = "lost"  # it led when its device was lost: the arm stands still
    AWAITED = "awaited"  # the policy led then: the arm stands still, too, until the hand can step in


STANDING = (State.LOST, State.AWAITED)  # until the device is back


@dataclass(frozen=True)
class Grip:
    """What one hand does: enough to begin a takeover, enough to keep one (the weaker condition)."""

    begins: bool
    keeps: bool


@final
class HandMachine:
    """The takeover of one hand as pure logic.

    ========= ======================================= =========
    from      when                                    to
    ========= ======================================= =========
    POLICY    the hand begins                         OPERATOR
    OPERATOR  it does not keep                        RELEASING
    RELEASING it keeps                                OPERATOR
    RELEASING for ``delay`` s it has not              POLICY
    both      the device is lost                      LOST, or POLICY with ``hold`` false
    LOST      it is back, has rested once, and begins OPERATOR
    POLICY    the device is lost, with ``hold``       AWAITED
    AWAITED   it is back                              as POLICY
    others    an episode begins                       POLICY
    ========= ======================================= =========
    """

    def __init__(self, delay: float, hold: bool) -> None:
        self.state = State.POLICY
        self._delay = delay
        self._hold = hold
        self._resting_since = 0.0
        self._rested = False  # since the device was lost: a push from before is none

    def reset(self) -> None:
        """An episode begins: a takeover does not reach over the reset, but only the hand ends a loss."""
        self.state = self.state if self.state in STANDING else State.POLICY

    def update(self, grip: Grip | None, now: float) -> State:
        """The state after the newest ``grip``, None without a usable reading; ``now`` s on any clock that counts up."""
        if grip is None:
            self._lose()
        elif self.state is State.LOST:
            self._rested |= not grip.keeps
            self.state = State.OPERATOR if self._rested and grip.begins else State.LOST
        elif self.state in (State.POLICY, State.AWAITED):
            self.state = State.OPERATOR if grip.begins else State.POLICY
        else:
            self._go_on(grip, now)
        return self.state

    def _lose(self) -> None:
        led = self.state not in (State.POLICY, State.AWAITED)
        self.state = (State.LOST if led else State.AWAITED) if self._hold else State.POLICY
        self._rested = False

    def _go_on(self, grip: Grip, now: float) -> None:
        if grip.keeps:
            self.state = State.OPERATOR
            return
        if self.state is State.OPERATOR:
            self.state, self._resting_since = State.RELEASING, now
        if now - self._resting_since >= self._delay:
            self.state = State.POLICY


@final
class TakeoverMachine:
    """The takeovers of ``arms`` arms as pure logic: readings in, number of the takeover out.

    ``takeover`` is the number of the running takeover or −1; it runs while a hand leads, or did when its device was
    lost. Numbers count up and are never reused. ``device`` says what was wrong with the last reading: "ok",
    "disconnected" or "stale".
    """

    def __init__(self, config: TakeoverConfig | None = None, arms: int = 1) -> None:
        self.takeover = -1
        self.device = "ok"
        self._config = config or TakeoverConfig()
        self._arms = arms
        self._begun = 0  # takeovers so far
        self._mask = np.array(self._config.gains) != 0.0
        hands = arms if self._config.hands == "each" else 1
        hold = self._config.when_lost == "hold"
        self._hands = [HandMachine(self._config.release_delay, hold) for _ in range(hands)]

    @property
    def states(self) -> tuple[State, ...]:
        """Of the hand that leads each arm."""
        states = tuple(hand.state for hand in self._hands)
        return states if len(states) == self._arms else states * self._arms

    @property
    def lost(self) -> bool:
        """Whether any arm stands still because its hand's device was lost."""
        return any(state in STANDING for state in self.states)

    @property
    def awaits_push(self) -> bool:
        """Whether a hand whose device was lost while it led has to take over again."""
        return State.LOST in self.states

    @property
    def leads(self) -> tuple[Who, ...]:
        """Who leads each arm. A hand that lets go of its clutch leads nowhere: the arm stands still until the delay."""
        releasing: Who = "operator" if self._config.clutch is None else "nobody"
        who: dict[State, Who] = {State.POLICY: "policy", State.OPERATOR: "operator", State.RELEASING: releasing}
        return tuple(who.get(state, "nobody") for state in self.states)

    def reset(self) -> None:
        """An episode begins."""
        self.takeover = -1
        for hand in self._hands:
            hand.reset()

    def update(self, reading: Reading, now: float) -> int:
        """The number of the takeover in which this step happens, −1 outside of one; ``now`` s."""
        self.device = self._condition(reading)
        for number, hand in enumerate(self._hands):
            hand.update(self._grip(reading, number) if self.device == "ok" else None, now)
        if all(hand.state in (State.POLICY, State.AWAITED) for hand in self._hands):
            self.takeover = -1
        elif self.takeover < 0:
            self.takeover = self._begun
            self._begun += 1
        return self.takeover

    def _condition(self, reading: Reading) -> str:
        if not reading.connected:
            return "disconnected"
        if not reading.age <= self._config.max_age or not np.isfinite(reading.twist).all():
            return "stale"
        return "ok"

    def _grip(self, reading: Reading, number: int) -> Grip:
        arms = [number] if len(self._hands) == self._arms else range(self._arms)
        hands = [hand_of(reading, arm, self._arms) for arm in arms]
        if self._config.clutch is not None:
            held = all(any(buttons[self._config.clutch : self._config.clutch + 1]) for _, buttons in hands)
            return Grip(held, held)
        push = float(np.linalg.norm(np.concatenate([twist[self._mask] for twist, _ in hands]))) / reading.gain
        pressed = any(any(buttons) for _, buttons in hands)
        return Grip(pressed or push >= self._config.engage, pressed or push >= self._config.release)


def hand_of(reading: Reading, arm: int, arms: int) -> tuple[Array, tuple[bool, ...]]:
    """Twist (6,) and buttons of the hand that leads this arm, of so many."""
    buttons = len(reading.buttons) // arms
    return reading.twist[TWIST * arm : TWIST * (arm + 1)], reading.buttons[buttons * arm : buttons * (arm + 1)]
