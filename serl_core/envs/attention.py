"""Where a person is heard: once per control period, in steps and in resets; what they say acts on arm and episode.

STOP and HOLD act where they are heard. Verdicts end the running episode through `serl_core.envs.rewards.PersonJudge`,
which is given `Ears.verdicts`; END, DISCARD, HOLD and STOP truncate it. Nobody else polls the console.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, final

import gymnasium as gym
import numpy as np

from robot_servers.interface import Robot, RobotError
from serl_core.clock import Clock
from serl_core.teleop.console import Console, Event, Said

log = logging.getLogger(__name__)

Listener = Callable[[Said, bool], None]  # told of everything that is said, and whether an episode was running then
Begins = Callable[[Mapping[str, Any]], bool]
VERDICTS = (Event.SUCCESS, Event.MISSED_SUCCESS, Event.FAILURE)
JUDGEMENTS = (*VERDICTS, Event.DISCARD, Event.UNDO)  # what an episode that was ended may wait for
FAR = "page"  # the source of what is said by somebody who perhaps does not see the arm
ENDINGS = (Event.END, Event.DISCARD, Event.HOLD, Event.STOP)
WAIT = 0.1  # s between two looks while the arm waits for a person; shorter than the lease in real time
BEGIN, JUDGE = "begin", "success, failure or discard"  # what it may wait for
RESET, HAND = "the robot's reset", "your hand at the device"


@final
class Ears:
    """Hears ``console`` for ``robots``: acts on STOP and HOLD, keeps the rest for whom it concerns, shows figures.

    ``held``: the arm waits for BEGIN. ``leaving``: QUIT was said. ``running``: an episode is; set by `Attended`.
    ``status``: the figures that the console shows, by name; anyone may change them. ``stop`` ends every wait.
    ``look`` is called before the console is asked: buttons that say things are on a device that has to be read.
    """

    def __init__(
        self,
        console: Console,
        robots: Sequence[Robot],
        stop: Callable[[], bool] = lambda: False,
        pause: Callable[[float], None] = time.sleep,
        look: Callable[[], object] = lambda: None,
    ) -> None:
        self.held = False
        self.leaving = False
        self.running = False
        self.ended = False  # something said ends the running episode
        self.status: dict[str, Any] = {}
        self.listeners: list[Listener] = []
        self._console = console
        self._robots = tuple(robots)
        self._stop = stop
        self._pause = pause
        self._look = look
        self._begun = False  # BEGIN was said since the wait for it began
        self._unjudged = False  # END was said, its verdict was not
        self._far = False  # its verdict came from a page: somebody beside the arm has to say BEGIN too
        self._verdicts: list[Said] = []

    def hear(self) -> None:
        """Take in what was said since the last call, and show the figures. Never raises because a robot is gone."""
        self._look()
        for said in self._console.poll():
            self._act(said)
            for listener in self.listeners:
                listener(said, self.running)
            self._keep(said)
        self.show()

    def show(self, **figures: Any) -> None:
        """Change these of the figures, and show all."""
        self.status |= figures
        self._console.show(self.status)

    def verdicts(self) -> list[Said]:
        """The verdicts since the last call, for `PersonJudge`."""
        taken, self._verdicts = self._verdicts, []
        return taken

    def over(self) -> bool:
        """Whether no further episode is to begin: asked to stop, or told to quit between two of them."""
        return self._stop() or (self.leaving and not self.running)

    def tick(self) -> None:
        """To be called once per control period. A hold in a reset lasts in here, until BEGIN."""
        self.hear()
        if not self.running:
            self._wait_while(lambda: self.held)

    def await_person(self, begin: bool, judged: bool) -> None:
        """Between two episodes: wait while the arm is held, with ``begin`` for BEGIN, with ``judged`` for a verdict.

        A verdict that comes from a page does not end the wait alone: BEGIN follows, beside the arm.
        """
        self.hear()  # a HOLD said while the loop was busy counts before anything moves again
        self._begun = False
        self._unjudged &= judged
        self._wait_while(lambda: self.held or self._unjudged or self._far or (begin and not self._begun))

    def waits_for(self, what: str) -> None:
        """Say so where it is news."""
        if what != self.status.get("waits for", ""):
            self.show(**{"waits for": what})

    def _wait_while(self, waiting: Callable[[], bool]) -> None:
        before = self.status.get("waits for", "")
        while waiting() and not (self.leaving or self._stop()):
            self.waits_for(JUDGE if self._unjudged and not self.held else BEGIN)
            self._stay_owner()
            self._pause(WAIT)
            self.hear()
        self.waits_for(before)

    def _stay_owner(self) -> None:
        """Silence would give the robot to whoever comes; a robot that is gone shows when it is needed."""
        for robot in self._robots:
            try:
                robot.status()
            except RobotError as error:
                log.debug("%s", error)

    def _act(self, said: Said) -> None:
        if said.event is Event.STOP:
            self._tell_robots(lambda robot: robot.stop(f"STOP by {said.source}"), "NOT STOPPED, use the hardware stop")
        elif said.event is Event.HOLD:
            self._tell_robots(lambda robot: robot.hold(f"hold by {said.source}"), "not held")
        elif said.event is Event.BEGIN and self.held:
            self._tell_robots(_let_go_on, "still held")

    def _tell_robots(self, tell: Callable[[Robot], None], problem: str) -> None:
        """Every robot, also after one that does not answer."""
        for robot in self._robots:
            try:
                tell(robot)
            except RobotError as error:
                log.error("%s: %s", problem, error)

    def _keep(self, said: Said) -> None:
        """What it means for the waits and the running episode."""
        event = said.event
        self.held = event is Event.HOLD or (self.held and event is not Event.BEGIN)
        self.leaving |= event is Event.QUIT
        self._begun |= event is Event.BEGIN
        self.ended |= self.running and event in ENDINGS
        if event is Event.END and self.running:
            self._unjudged = True
        elif event is Event.BEGIN:
            self._unjudged = self._far = False
        elif event in JUDGEMENTS:
            self._far |= self._unjudged and said.source == FAR
            self._unjudged = False
        if self.running and event in VERDICTS:
            self._verdicts.append(said)


def _let_go_on(robot: Robot) -> None:
    """End a hold, if nobody has ended it yet; never a STOP, for which this would not be enough."""
    if robot.status().held:
        robot.confirm()


@final
class AttentiveClock:
    """A clock at which a person is heard after every period. Satisfies `Clock`."""

    def __init__(self, clock: Clock, ears: Ears) -> None:
        self.period = clock.period
        self._clock = clock
        self._ears = ears

    def start(self) -> None:
        """Begin a schedule."""
        self._clock.start()

    def tick(self) -> None:
        """Let a period pass, then listen."""
        self._clock.tick()
        self._ears.tick()


def by_hand(info: Mapping[str, Any]) -> bool:
    """Whether somebody has taken over."""
    return info.get("takeover", -1) >= 0


@final
class Attended(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose episodes a person begins and ends. ``env`` must run on an `AttentiveClock` of ``ears``.

    ``max_steps`` of ``period`` s each is the time limit, a truncation, where the environment's own is out of reach.
    With ``begins`` a reset goes on until that is true of a step's ``info``; what passed until then is not part of the
    episode, and ``forget`` is called so that nobody judges by it. `by_hand`: none begins with a person who still looks
    for the device.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        ears: Ears,
        max_steps: int,
        period: float,
        begins: Begins | None = None,
        forget: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(env)
        self._ears = ears
        self._max_steps = max_steps
        self._period = period
        self._begins = begins
        self._forget = forget
        self._rest = np.zeros(env.action_space.shape or (), np.float32)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As of the environment. Ends early where no further episode is to begin."""
        self._ears.running = False
        self._ears.show(step="", left="")
        ready = False
        while not ready:
            self._ears.tick()  # after an outage or another reset: a HOLD is heard before the arm moves
            self._ears.waits_for(RESET)
            obs, info = self.env.reset(seed=seed, options=options)
            obs, ready = self._await_begin(obs)
        if self._begins:
            self._forget()
        self._steps = 0
        self._ears.verdicts()
        self._ears.running, self._ears.ended = not self._ears.over(), False
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        late = truncated or self._ears.ended or self._steps >= self._max_steps
        self._ears.running = not (terminated or late)
        self._show(info)
        return obs, reward, terminated, late and not terminated, info

    def _await_begin(self, obs: Any) -> tuple[Any, bool]:
        """The newest observation, and whether the episode can begin: False if the robot has to be reset again."""
        while self._begins and not self._ears.over():
            self._ears.waits_for(HAND)
            obs, _, _, _, info = self.env.step(self._rest)
            self._show(info)
            if "abort" in info:
                return obs, False
            if self._begins(info):
                break
        self._ears.waits_for("")
        return obs, True

    def _show(self, info: dict[str, Any]) -> None:
        device = info.get("device", "ok")
        self._ears.status |= {
            "step": self._steps,
            "left": f"{(self._max_steps - self._steps) * self._period:.0f} s",
            "led by": info.get("who", "policy"),
            "device": "" if device == "ok" else device,
        }  # shown with the next period: what it is asked about must not delay this one


def attended(seeds: Iterable[int], ears: Ears, begin: bool = False, judged: bool = True) -> Iterator[int]:
    """``seeds``, one for each episode, each once the person lets it begin; with ``begin`` they have to say so.

    With ``judged`` an episode that they ended waits for their verdict. Ends when they quit, or when it is asked to
    stop. Until the seed is there nothing moves.
    """
    for seed in seeds:
        ears.await_person(begin, judged)
        if ears.over():
            return
        yield seed
