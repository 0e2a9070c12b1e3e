"""The reset of one or several arms: together, waited for with patience, and begun again after a person's stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from robot_servers.interface import CommandRefused, Mode, NotOwner, RobotError, Status
from serl_core.clock import Clock
from serl_core.envs.actions import labelled
from serl_core.envs.arm import Arm

log = logging.getLogger(__name__)

RESET_TIMEOUT = 60.0  # s of control periods; a person who is asked something has as long as they need
TRIES = 3  # resets in a row that an alarm may end, before a person has to look
PAUSE = 2.0  # s of control periods between two of them
STOPPED: tuple[Mode, ...] = ("stopped", "user-stopped")
ARRIVED: tuple[Mode, ...] = ("idle", "moving")
DOWN: tuple[Mode, ...] = (*STOPPED, "fault")


class Resetter:
    """Resets ``arms`` under one ``clock``. ``ask`` is told once of every question to a person; ``stop`` ends a wait."""

    def __init__(
        self,
        arms: Sequence[Arm],
        clock: Clock,
        ask: Callable[[str], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._arms = tuple(arms)
        self._clock = clock
        self._ask = ask or _log_question
        self._stop = stop
        self._grippers = ""  # what was wrong with them, as told last

    def reset(self, rng: np.random.Generator) -> None:
        """Until every arm is where its episode begins. Raises `RobotError` if one does not get there, or is lost.

        After STOP, a user stop, a fault or a hold that somebody else asked for, also one on the way, it waits, as long
        as it takes, for the person who ends that, or for the arm where it recovers by itself; then it begins again,
        with all arms. An alarm on the way, e.g. too much force, is waited out three times; then a person has to look.
        Asked to stop it returns with the arms held where they are.
        """
        for arm in self._arms:
            arm.lost = False
        held = 0
        while self._await_person():
            statuses = self._try(rng)
            self._mind_grippers(statuses)
            if all(status.mode in ARRIVED for status in statuses):
                self._clock.tick()  # the arms come to rest
                return
            if alarm := self._alarm(statuses):
                held += 1
                log.warning("a reset was held (%d of %d): %s", held, TRIES, alarm)
                held %= TRIES
                self._leave_to_a_person(alarm) if held == 0 else self._pause()

    def _mind_grippers(self, statuses: Sequence[Status]) -> None:
        """A gripper in trouble stops no arm, but somebody has to know."""
        pairs = zip(self._arms, statuses, strict=True)
        found = [labelled(arm.name, status.health.gripper, " arm: ") for arm, status in pairs if status.health.gripper]
        told, self._grippers = self._grippers, "; ".join(found)
        if self._grippers and self._grippers != told:
            log.warning("the gripper needs a person: %s", self._grippers)

    def _alarm(self, statuses: Sequence[Status]) -> str:
        """What ended the reset though nobody asked for it, or empty."""
        pairs = list(zip(self._arms, statuses, strict=True))
        if any(self._why_a_person(*pair) for pair in pairs):
            return ""
        ended = [(arm, status) for arm, status in pairs if status.mode not in ARRIVED]
        return "; ".join(labelled(arm.name, f"{status.mode}: {status.reason}", " arm: ") for arm, status in ended)

    def _leave_to_a_person(self, alarm: str) -> None:
        for arm in self._arms:  # as a hold that is not ours: `_await_person` asks for its end
            arm.robot.hold(f"{TRIES} resets in a row were held ({alarm}): look what the arm touches")

    def _pause(self) -> None:
        """Before another try, which moves nothing as long as the arm presses: the guard lets it let go first."""
        for _ in range(round(PAUSE / self._clock.period)):
            if not self._stop():
                self._clock.tick()

    def _try(self, rng: np.random.Generator) -> list[Status]:
        """One try: how it ended for each arm."""
        for arm in self._arms:
            arm.robot.tighten(arm.task.limits)  # whoever made the robot: no episode without its task's limits
        scene, begun = int(rng.integers(2**31)), list[Arm]()
        try:
            for arm in self._arms:
                arm.robot.reset(arm.plan(rng, scene))
                begun.append(arm)
        except CommandRefused:
            for arm in begun:
                arm.hold("another arm refused its reset")
            statuses = self._statuses()
            self._end_together(statuses)
            if not any(map(why_a_person, statuses)):
                raise
            return statuses
        self._clock.start()
        return self._await_end()

    def _statuses(self) -> list[Status]:
        return [arm.robot.status() for arm in self._arms]

    def _await_person(self) -> bool:
        """Wait while only a person may let an arm go on; say so once. False: asked to stop instead."""
        told = ""
        while (reason := "; ".join(self._reasons())) != "":
            if self._stop():
                return False
            if reason != told:
                self._ask(f"{reason}; when it is safe: serl recover")
            told = reason
            self._clock.tick()
        return not self._stop()

    def _why_a_person(self, arm: Arm, status: Status) -> str:
        held = arm.held_by_others(status)
        return why_a_person(status) or (held and f"the robot is held: {held}")

    def _reasons(self) -> list[str]:
        reasons = [self._why_a_person(*each) for each in zip(self._arms, self._statuses(), strict=True)]
        return [labelled(arm.name, why, " arm: ") for arm, why in zip(self._arms, reasons, strict=True) if why]

    def _await_end(self) -> list[Status]:
        """The statuses when the reset has ended. If the wait itself ends, Ctrl-C included, the arms hold."""
        try:
            return self._wait_while_resetting()
        except NotOwner:  # whoever owns the first arm, which lets time pass, must not be disturbed
            for arm in self._arms[1:]:
                arm.hold("the first arm is somebody else's")
            raise
        except BaseException as error:
            for arm in self._arms:
                arm.hold(f"nobody waits for the reset any more: {error or type(error).__name__}")
            raise

    def _wait_while_resetting(self) -> list[Status]:
        asked, waited = "", 0.0
        while _any_resetting(statuses := self._statuses()):
            if self._stop():
                for arm in self._arms:
                    arm.hold("asked to stop")
                return self._statuses()
            self._end_together(statuses)
            question = "; ".join(status.waiting_for for status in statuses if status.waiting_for)
            if question and question != asked:
                self._ask(question)
            asked = question
            waited += 0.0 if asked else self._clock.period
            if waited > RESET_TIMEOUT:
                raise RobotError(f"the reset is not done after {RESET_TIMEOUT:.0f} s: look what blocks the arm")
            self._clock.tick()
        return statuses

    def _end_together(self, statuses: Sequence[Status]) -> None:
        """What brought one arm down ends the reset of the others."""
        if any(status.mode in DOWN for status in statuses):
            end_together(self._arms, "the reset of another arm ended")


def end_together(arms: Sequence[Arm], reason: str) -> None:
    """All arms hold; where one of them was stopped, STOP is everybody's."""
    modes = {arm.name: mode_of(arm) for arm in arms}
    stopped = [name for name, mode in modes.items() if mode in STOPPED]
    for arm in arms:
        if stopped and modes[arm.name] not in STOPPED:
            stop(arm, f"the {stopped[0]} arm was stopped")
        elif modes[arm.name] not in DOWN:
            arm.hold(reason)


def _any_resetting(statuses: Sequence[Status]) -> bool:
    return any(status.mode == "resetting" for status in statuses)


def mode_of(arm: Arm) -> Mode | None:
    """None where it does not answer."""
    try:
        return arm.robot.status().mode
    except RobotError:
        return None


def stop(arm: Arm, reason: str) -> None:
    """STOP, open to everyone. Says so where it is not certain that the arm stops."""
    try:
        arm.robot.stop(reason)
    except RobotError as error:
        log.error("%s arm: %s", arm.name, error)


def why_a_person(status: Status) -> str:
    """What only a person may end before the next episode, or an empty text."""
    if status.mode in DOWN:
        return f"the robot is in mode {status.mode}: {status.reason}"
    return "" if status.mode == "resetting" else status.waiting_for


def _log_question(question: str) -> None:
    log.warning("the reset waits for a person: %s", question)
