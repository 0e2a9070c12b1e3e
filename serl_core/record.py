"""``serl record``: demonstrations, frames for a classifier, and free play; by a person, or by the scripted operator.

The scripted operator goes through the same takeover path as a person, and only its successes are kept. Of what a
person records everything is stored at once, and what they say of it stands above as labels (`serl_core.recording`).
"""

from __future__ import annotations

import contextlib
import getpass
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from robot_servers.keys import ClientKeys, load_client_keys
from serl_core.attendance import attending, check_wanted, parse_buttons
from serl_core.config import ConfigError, Observation
from serl_core.data.episodes import EpisodeStore
from serl_core.envs.attention import by_hand
from serl_core.envs.rewards import Judge
from serl_core.envs.takeover_machine import TakeoverConfig
from serl_core.metrics import Metrics, read
from serl_core.pairs import AnyTask
from serl_core.processes import StopFlag
from serl_core.progress import Progress, progress
from serl_core.recording.book import ABOUT, Kind, known_entries, next_episode
from serl_core.recording.outcome import Outcome, outcome_of
from serl_core.recording.person import Plan, enough, record_person
from serl_core.recording.script import scripted_attendance
from serl_core.recording.watch import Watch, WatchConfig, end_stops
from serl_core.rollout import Decision, Identity, rollout
from serl_core.session import Session, connected, episode_meta, make_env
from serl_core.summary import check_writable, write_json
from serl_core.tasks import load_task
from serl_core.teleop.console import Event
from serl_core.teleop.scripted import OperatorConfig
from serl_core.types import DEMONSTRATOR, EpisodeStart, Obs, Record, Step

SCRIPTED_SUCCESS = 20  # steps of an episode in which the script shows nothing but success
MAX_ATTEMPTS = 5  # per wanted demonstration; an operator worse than this cannot demonstrate


@dataclass(frozen=True)
class Config:
    """Record demonstrations, success or failure frames for a classifier, or free play."""

    out: Path  # folder of the episodes
    task: str = "pick_cube"  # task by name, or the path of a task file
    obs: Observation = "state"  # what an observation holds
    kind: Kind = "demo"  # "success", "failure": every frame, or none, shows success; "play": neither is claimed
    operator: str = "scripted"  # who leads: scripted, a device such as spacemouse (serl teleop), or none
    episodes: int = 20  # episodes of this kind to have in the end, those of earlier calls included
    steps: int = 0  # go on beyond ``episodes`` until this many steps are kept
    max_steps: int = 0  # of a person's episode: its time limit, a truncation; 0: the task's own
    robot: str = "tcp://127.0.0.1:5555"  # address of the robot server; of two arms LEFT,RIGHT, so is --truth
    truth: str | None = None  # address of the server's ground truth
    judge: str = ""  # of demonstrations, as of serl actor: "", "rule" or A.npz,B.npz; a person's word goes before it
    stage_reward: float = 0.0  # of each classifier but the last, which gives 1
    trunk_weights: Path | None = None  # of the classifiers' image trunk; the small one comes with the package
    keys: Path | None = None  # folder of this machine's keys (serl keys), for a robot on another one
    json: Path | None = None  # also write here what it came to, however it ended: kept, attempts, warnings, …
    seed: int = 0  # of scenes and operator
    console: str = "keys"  # where a person is heard: keys, or keys+page for a browser too
    console_keys: str = ""  # other keys, e.g. for a pedal: b=begin,p=stop
    buttons: str = ""  # what further buttons of the device say: start=success,select=undo (names: serl teleop test)
    who: str = field(default_factory=getpass.getuser)  # the person, kept with their verdicts
    takeover: TakeoverConfig = field(default_factory=TakeoverConfig)  # how a person's device leads
    watch: WatchConfig = field(default_factory=WatchConfig)  # when a person is warned


class SuccessfulEpisodes:
    """Keeps successful episodes in the store, whole; counts those that are in it, whoever recorded them.

    ``attempts``: episodes tried so far, of which the next one has the number.
    """

    def __init__(self, store: EpisodeStore, metrics: Metrics, bar: Progress) -> None:
        known = known_entries(store, DEMONSTRATOR)
        self.lengths = [entry.steps for entry in known if entry.over and entry.verdict == "success"]
        tried = [row["attempts"] for row in read(metrics.path)]  # by earlier calls, failures included
        self.attempts = max(next_episode(known), *tried[-1:], 0)
        self._store = store
        self._metrics = metrics
        self._bar = bar
        self._records: list[Record] = []

    @property
    def episodes(self) -> int:
        """How many are kept."""
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """Their steps."""
        return sum(self.lengths)

    def __call__(self, record: Record) -> None:
        if isinstance(record, EpisodeStart):
            self._records = []
        self._records.append(record)
        if isinstance(record, Step) and (record.terminated or record.truncated):
            self._finish(record)

    def _finish(self, last: Step) -> None:
        self.attempts = last.episode + 1
        if last.success:
            for record in self._records:
                self._store.append(record)
            self.lengths.append(len(self._records) - 1)
            self._metrics.write(self.episodes, time.time(), steps=self.lengths[-1], attempts=self.attempts)
            self._bar.advance()


def idle(task: AnyTask) -> Callable[[Obs], Decision]:
    """The policy of a robot that waits for its operator: it never moves."""
    action = np.zeros(task.action_dim, np.float32)
    return lambda obs: Decision(action)


def record_script(config: Config, task: AnyTask, session: Session, judge: Judge | None = None) -> int:
    """Record, and refuse to go on for ever with an operator who does not succeed."""
    env = make_env(session, task, config.obs, OperatorConfig(mode="always"), config.seed, judge=judge)
    bar = progress("recording demonstrations", config.episodes)
    with bar as shown, EpisodeStore(config.out) as store, StopFlag().on_signals() as stop:
        kept = SuccessfulEpisodes(store, Metrics(config.out / "metrics.jsonl"), shown)
        watch = Watch(config.watch, np.ones(task.action_dim - task.grippers), task.control_hz, lambda: kept.lengths)

        def enough() -> bool:
            return kept.episodes >= config.episodes and kept.steps >= config.steps

        first = kept.attempts

        def seeds() -> Iterator[int]:
            for index in count(first):
                if enough() or kept.attempts >= MAX_ATTEMPTS * max(1, kept.episodes, config.episodes):
                    return
                yield first_seed(config.seed) + index

        identity = Identity(DEMONSTRATOR, first_episode=first, source="demo")
        meta = episode_meta(session, task, config.obs)
        try:
            rollout(env, idle(task), [kept, watch], identity=identity, seeds=seeds(), stop=stop, meta=meta)
        finally:
            report(config, script_outcome(config, kept, watch))
    print(f"kept {kept.episodes} successful demonstrations ({kept.steps} steps) of {kept.attempts} in {config.out}")
    return 0 if enough() else 1


def script_outcome(config: Config, kept: SuccessfulEpisodes, watch: Watch) -> Outcome:
    """Of the script's attempts only successes are kept; the others are not stored at all."""
    return Outcome(
        config.kind,
        str(config.out),
        kept=kept.episodes,
        steps=kept.steps,
        attempts=kept.attempts,
        successes=kept.episodes,
        discarded=kept.attempts - kept.episodes,
        warnings=dict(watch.episodes),
    )


def report(config: Config, outcome: Outcome) -> None:
    """Write ``--json FILE``, if it was asked for."""
    if config.json is not None:
        write_json(config.json, asdict(outcome))


def first_seed(seed: int) -> int:
    """Of the scenes of recordings: apart from training and evaluation seeds."""
    return 1_000_000 + 10_000 * seed


def record_by_hand(
    config: Config, task: AnyTask, session: Session, keys: ClientKeys | None, judge: Judge | None = None
) -> int:
    """Record what a person, or a script in their place, does and says until they quit; 0 if that is enough."""
    scripted = config.operator == "scripted"
    plan = Plan(
        config.kind,
        config.obs,
        config.episodes,
        config.steps,
        config.max_steps or (SCRIPTED_SUCCESS if scripted and config.kind == "success" else 0),
        first_seed(config.seed),
        TakeoverConfig(ease=0) if scripted else config.takeover,
        config.watch,
        end_stops=end_stops(config.operator, task, config.takeover),
        attempts=MAX_ATTEMPTS * max(1, config.episodes) if scripted else 0,
    )
    with StopFlag().on_signals() as stop, EpisodeStore(config.out) as store, contextlib.ExitStack() as stack:
        if scripted:
            there, begins = scripted_attendance(config.kind, task, session, config.seed, stop)
        else:
            person = attending(config, session, task, stop, config.out / "page.token", keys)
            there, begins = stack.enter_context(person), by_hand
        meta = {**episode_meta(session, task, config.obs), "operator": config.operator, "who": config.who}
        book, _ = record_person(
            plan,
            task,
            there,
            store,
            stop,
            idle=idle(task),
            who=config.who,
            meta=meta,
            say=_say,
            begins=begins,
            judge=judge,
            ended=lambda book, watch: report(config, outcome_of(book, watch, config.kind, config.out)),
        )
    print(f"kept {book.kept} {ABOUT[config.kind]} ({book.steps} steps) of {len(book.ledger.entries)} in {config.out}")
    return 0 if enough(plan, book) else 1


def check(config: Config) -> None:
    """Raises `ConfigError` for what cannot be meant, before a robot is asked for."""
    by_button = Event.BEGIN in parse_buttons(config.buttons).values()
    if config.operator != "scripted" and "keys" not in config.console.split("+") and not by_button:
        raise ConfigError(
            f'--console "{config.console}": only keys, or a button of the device, can say that the arm may move; '
            "write keys+page, or name the button: --buttons start=begin"
        )
    if config.episodes < 0 or config.max_steps < 0:
        raise ConfigError("--episodes and --max-steps must not be negative")
    if config.json is not None:
        check_writable(config.json)
    if config.judge and config.kind != "demo":
        raise ConfigError(f"--judge is for demonstrations: what is recorded as {config.kind} is taken at your word")


def named_judge(config: Config, task: AnyTask) -> Judge | None:
    """Who judges demonstrations beside a person, None for the task's own. Raises `ConfigError` if that cannot work."""
    if not config.judge:
        return None
    from serl_core.judging.scorer import chosen_judge  # needs jax, which the robot's computer does without
    from serl_core.nets.once import EncodedOnce

    return chosen_judge(config.judge, task, config.obs, EncodedOnce(), config.trunk_weights, config.stage_reward)


def _say(text: str) -> None:
    """A line of its own, also where a terminal shows a line of status."""
    print(f"\r\x1b[K{text}" if sys.stdout.isatty() else text, flush=True)


def main(config: Config) -> int:
    """Record."""
    check(config)
    task = load_task(config.task)
    check_wanted(config, len(task.arms))
    judge = named_judge(config, task)
    keys = load_client_keys(config.keys) if config.keys else None
    with connected(task, config.obs, config.robot, config.truth, keys=keys) as session:
        if config.operator == "scripted" and config.kind == "demo":
            return record_script(config, task, session, judge)
        return record_by_hand(config, task, session, keys, judge)
