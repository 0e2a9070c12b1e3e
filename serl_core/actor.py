"""``serl actor``: drive the robot with the newest policy, under a person's correction, and stream what happens."""

from __future__ import annotations

import getpass
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Literal

import gymnasium as gym

from robot_servers.keys import load_client_keys
from serl_core.advice import Advisor, Learner, advisor_for
from serl_core.agents.policy import act_inline
from serl_core.attendance import Attendance, attending, check_wanted
from serl_core.config import Observation
from serl_core.envs.attention import Attended, attended
from serl_core.envs.rewards import Judge
from serl_core.envs.takeover_machine import TakeoverConfig
from serl_core.helping import Helping, Scripted, helping_of
from serl_core.judging.audit import audited, audits
from serl_core.judging.scorer import chosen_judge
from serl_core.latency import Latency, Timed, timed
from serl_core.metrics import Metrics
from serl_core.nets.once import EncodedOnce
from serl_core.outage import OutlivesServer
from serl_core.pairs import AnyTask
from serl_core.policies import LinkPolicy
from serl_core.processes import StopFlag
from serl_core.rollout import Identity, rollout
from serl_core.session import connected, episode_meta, make_env
from serl_core.summary import Tally
from serl_core.tasks import load_task
from serl_core.teleop.console import Said
from serl_core.transport import ActorLink, LinkError, LinkStatus
from serl_core.types import EpisodeStart, Judgement, Record
from serl_core.verdicts import Verdicts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Drive the robot with the newest policy and stream what happens to the learner."""

    run_dir: Path  # spool and metrics of this actor
    task: str = "pick_cube"  # task by name, or the path of a task file
    obs: Observation = "state"  # what the policy sees
    robot: str = "tcp://127.0.0.1:5555"  # address of the robot server; of two arms LEFT,RIGHT, so is --truth
    truth: str | None = None  # address of a simulated scene's ground truth: success oracle, scripted operator
    learner: str = "tcp://127.0.0.1:5557"  # address of the learner
    keys: Path | None = None  # folder of this machine's keys (serl keys), for a robot or a learner on another one
    insecure: bool = False  # allow a learner on another machine without keys: others can read and write what is sent
    judge: str = ""  # who judges: the task's own, "rule", or files of classifiers to be reached in turn, A.npz,B.npz
    stage_reward: float = 0.0  # of each classifier but the last, which gives 1
    operator: str = "scripted"  # who corrects the policy: scripted, a device such as spacemouse (serl teleop), or none
    scripted: Scripted = field(default_factory=Scripted)  # when the scripted operator takes over, and how good it is
    takeover: TakeoverConfig = field(default_factory=TakeoverConfig)  # how a person's device takes over
    console: str = "keys"  # where a person is heard: keys, page, keys+page, or none
    console_keys: str = ""  # other keys, e.g. for a pedal: b=begin,p=stop
    buttons: str = ""  # what further buttons of the device say: start=success,select=undo (names: serl teleop test)
    who: str = field(default_factory=getpass.getuser)  # the person, kept with their verdicts
    name: str = "actor"  # of this actor: letters, digits, "_", "." and "-"
    env_steps: int = 0  # end after this many steps; 0: until stopped
    resume: bool = False  # count what the learner has stored already towards env_steps
    max_behind: int = 20  # lockstep: wait while the learner is this many transitions behind
    spool_sync: float | None = None  # s of records that a power loss may cost here; without, about half a minute
    learner_away: Literal["act", "hold"] = "act"  # without a learner: act on with the last weights, or hold the arm
    seed: int = 0
    trunk_weights: Path | None = None  # of the learner's image trunk; the small one comes with the package


REFUSED = "refused"  # the figure that says what could not be meant
PATIENCE = 120  # s to wait for a learner; it may be compiling
RECENT = 20  # episodes behind the rates that a person is shown


class Recorder:
    """Sends every record to the learner, and under the lockstep clock waits for it to keep up.

    While the learner is away it says so, and with ``hold`` it lets no step follow: without commands the guard holds
    the arm, and ``hear`` listens to the person beside it.
    """

    def __init__(
        self,
        link: ActorLink,
        max_behind: int | None,
        stop: Callable[[], bool],
        hold: bool = False,
        say: Callable[[str], None] = log.warning,
        hear: Callable[[], object] = lambda: None,
    ) -> None:
        self._link = link
        self._max_behind = max_behind
        self._stop = stop
        self._hold = hold
        self._say = say
        self._hear = hear
        self._away = False

    def __call__(self, record: Record) -> None:
        self._link.send(record)
        self._mind_absence()
        if self._max_behind is not None:
            self._wait(self._max_behind)

    def _mind_absence(self) -> None:
        status = self._link.status()
        if status.connected == self._away:  # news
            self._away = not status.connected
            self._say(self._absence(status) if self._away else "the learner is back")
        while self._hold and self._away and not self._stop():
            connected = self._link.wait_connected(timeout=0.2)
            self._hear()  # a HOLD must not wait for the step after the learner's return
            if connected:
                self._away = False
                self._say("the learner is back")

    def _absence(self, status: LinkStatus) -> str:
        then = "the arm holds until it is back" if self._hold else f"acting on with weights {status.weights_version}"
        return f"{status.text}: {then}; {status.unacked} records wait in the spool (--learner-away)"

    def _wait(self, max_behind: int) -> None:
        def caught_up(report: Mapping[str, Any]) -> bool:
            return self._link.learner_lag() + report.get("behind", 0) <= max_behind

        waited, updates = 0, -1
        while not (self._link.wait_until(caught_up, timeout=1.0) or self._stop()):
            status = self._link.status()
            newest = status.report.get("grad_steps", 0)
            waited, updates = (0 if newest > updates else waited + 1), newest  # slow is not the same as gone
            if waited >= PATIENCE:
                raise LinkError(f"no update by the learner for {PATIENCE} s ({status.text}): is it running?")


class EpisodeLog:
    """Writes one line of metrics per episode, with the age of the weights that acted (median, in steps).

    ``further`` gives further figures of the episode that has just ended.
    """

    def __init__(
        self,
        tally: Tally,
        metrics: Metrics,
        policy: LinkPolicy,
        already: int,
        wall: Callable[[], float] = time.time,
        further: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._ages: list[int] = []
        self._tally = tally
        self._metrics = metrics
        self._policy = policy
        self._already = already
        self._wall = wall
        self._further = further

    def __call__(self, record: Record) -> None:
        if isinstance(record, EpisodeStart):
            self._ages = []
            return
        steps = self._already + self._tally.steps
        self._ages.append(self._tally.steps - 1 - self._policy.received)
        if record.terminated or record.truncated:
            figures = {**asdict(self._tally.episodes[-1]), "total_steps": steps, **self._further()}
            age = median(self._ages)
            self._metrics.write(steps, self._wall(), **figures, version=self._policy.version, weight_age_steps=age)


class Board:
    """Shows a person how the run stands, with every record and every verdict; ``status`` is what the console shows.

    To be told of both after ``tally``. ``version`` tells that of the weights that act.
    """

    def __init__(self, status: dict[str, Any], tally: Tally, version: Callable[[], int]) -> None:
        self._status = status
        self._tally = tally
        self._version = version

    def __call__(self, record: Record) -> None:
        self._status |= {"episode": record.episode, "weights": self._version(), **self._rates()}

    def judge(self, judgement: Judgement) -> None:
        """A verdict has changed what counts."""
        self._status |= self._rates()

    def _rates(self) -> dict[str, str]:
        episodes = [episode for episode in self._tally.episodes[-RECENT:] if not episode.discarded]
        successes = sum(episode.success for episode in episodes)
        steps = sum(episode.steps for episode in episodes)
        helped = sum(episode.operator_steps for episode in episodes) / steps if steps else 0.0
        return {"successes": f"{successes}/{len(episodes)}", "helped": f"{helped:.0%}"}


def learner_behind(link: ActorLink) -> Learner:
    """How the learner behind ``link`` does."""
    status = link.status()
    return Learner.of_report(status.connected, status.report)


def training_seeds(seed: int, already: int) -> Iterator[int]:
    """Episode seeds of a training run: apart from evaluations', other than its demonstrations', new after a resume."""
    return count(2_000_000 + 100_000 * seed + already)


def main(config: Config) -> int:
    """Act until the steps are done or someone stops it; what cannot be delivered now waits in the spool."""
    act_inline()
    task = load_task(config.task)
    check_wanted(config, len(task.arms))
    keys = load_client_keys(config.keys) if config.keys else None
    helping = helping_of(config.operator, config.scripted, task, config.obs, config.seed)
    stop = StopFlag()
    with (
        connected(task, config.obs, config.robot, config.truth, keys=keys) as session,
        ActorLink(
            config.learner,
            config.name,
            config.run_dir / "spool",
            config.insecure,
            keys=keys,
            spool_sync=config.spool_sync,
        ) as link,
        stop.on_signals(),
        attending(config, session, task, stop, config.run_dir / "page.token", keys) as there,
    ):
        once = EncodedOnce()
        judge = chosen_judge(config.judge, task, config.obs, once, config.trunk_weights, config.stage_reward)
        policy = LinkPolicy(link, task, config.obs, config.seed, config.trunk_weights, once)
        if not policy.wait(PATIENCE, stop):
            return 0
        act(config, task, there, link, policy, stop, audited(judge, session.truth), helping)
        deliver(link, config.run_dir / "spool", stop)
    return 0


def act(
    config: Config,
    task: AnyTask,
    there: Attendance,
    link: ActorLink,
    policy: LinkPolicy,
    stop: Callable[[], bool],
    judge: Judge | None,
    helping: Helping,
) -> None:
    """Drive the robot until the steps are done or someone ends it; everything goes to the learner."""
    session, ears = there.session, there.ears
    already = steps_so_far(link) if config.resume else 0
    lockstep = session.robot.metadata.clock == "lockstep"
    tally, latency = Tally(), Latency(None if lockstep else 1.0 / task.control_hz)
    board = Board(ears.status, tally, lambda: policy.version)
    advisor = advisor_for(task, lambda: learner_behind(link), say=print, show=ears.status.update)
    verdicts = heard_verdicts(there, config.who, link.send, tally, board, advisor)
    env = attended_env(config, task, there, stop, judge, helping)
    metrics = Metrics(config.run_dir / "metrics" / "actor.jsonl")
    rollout(
        Timed(env, latency, None if lockstep else session.local[0]),
        timed(policy, latency),
        [
            policy.hear,
            verdicts,
            Recorder(
                link, config.max_behind if lockstep else None, stop, config.learner_away == "hold", hear=ears.hear
            ),
            tally,
            EpisodeLog(tally, metrics, policy, already, further=latency.take),
            board,
            *audits(judge, Metrics(config.run_dir / "metrics" / "judge.jsonl")),
            advisor,
        ],
        identity=Identity(link.session),
        seeds=attended(training_seeds(config.seed, already), ears),
        stop=ears.over,
        budget=max(0, config.env_steps - already) if config.env_steps else None,
        meta={**episode_meta(session, task, config.obs), **helping.meta},
    )


def heard_verdicts(
    there: Attendance,
    who: str,
    send: Callable[[Judgement], object],
    tally: Tally,
    board: Board,
    advisor: Advisor,
) -> Verdicts:
    """What a person says of episodes, on its way to the store and to everybody here who counts successes.

    What cannot be meant stands among the figures of their console until they say the next thing.
    """
    ears = there.ears

    def complain(text: str) -> None:
        log.error("%s", text)
        ears.status[REFUSED] = text

    def hear(said: Said, running: bool) -> None:
        ears.status.pop(REFUSED, None)
        verdicts.hear(said)

    verdicts = Verdicts((send, tally.judge, board.judge, advisor.judge), who, complain)
    ears.listeners.append(hear)
    return verdicts


def attended_env(
    config: Config,
    task: AnyTask,
    there: Attendance,
    stop: Callable[[], bool],
    judge: Judge | None = None,
    helping: Helping = Helping(),  # noqa: B008  # frozen: nobody helps
) -> gym.Env[Any, Any]:
    """The task's environment under the operator's correction, heard by the console, and outliving its server."""
    session = there.session
    env = make_env(
        session,
        task,
        config.obs,
        helping.operator,
        config.seed,
        device=there.device,
        takeover=config.takeover,
        said=there.ears.verdicts,
        judge=judge,
        stop=there.ears.over,
        rule=helping.rule,
    )
    env = Attended(env, there.ears, task.max_steps, 1.0 / task.control_hz)
    return OutlivesServer(env, (session.robot, *session.partners), stop, hear=there.ears.hear)


def steps_so_far(link: ActorLink) -> int:
    """How many steps the learner has, those included that an earlier process left in the spool."""
    link.wait_drained(timeout=PATIENCE)
    return int(link.status().report["received"])


def deliver(link: ActorLink, spool: Path, stop: Callable[[], bool]) -> None:
    """Wait until the learner has everything, only briefly if stopped; say so if it has not."""
    for _ in range(PATIENCE):
        if link.wait_drained(timeout=1.0):
            return
        if stop():
            break
    print(f"{link.learner_lag()} records wait in {spool}; the next actor with this --run-dir sends them", flush=True)
