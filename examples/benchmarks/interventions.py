"""What a person's help saves: ``python -m examples.benchmarks.interventions [--json FILE]``.

The same learner with the same demonstrations, UTD and updates on `peg_insertion`: with the scripted operator's
interventions (``hil``), alone (``alone``), and as the control plain RLPD with as many more demonstration steps as the
operator of that seed spent (``more-demos``). ``penalty`` and ``aged`` are ``hil`` with one switch each: a penalty on
the steps before a takeover, and demonstrations and interventions that leave the batches when they are old.
``hil-judged`` is ``hil`` with a trained classifier (``--judge FILE``) that decides what is a success in training,
through cameras that are rendered for it alone; the truth is recorded beside its word, and evaluates.

The bar: 18 of 20 evaluation episodes, at two points of a grid of 1 000 steps in a row; the first of them counts, and a
run that never gets there counts as its budget. It is run again when a larger one is asked for (``--env-steps``), and
its new row takes the place of the old one. The grid has evaluation seeds of its own. The operator's rules are fixed
for the whole run, so that it tapers off is a result. One row per method and seed in ``results/interventions.csv``;
rows that exist are not run again.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import tyro

from examples.benchmarks.interventions_judge import MAKE, Witness, cameras_of, judged_by
from examples.benchmarks.interventions_report import BAR, GRID_EPISODES, draw, first_crossing, verdict
from examples.benchmarks.learning import commit, machine
from examples.benchmarks.rlif_rows import Rows
from examples.benchmarks.rlif_study import share_of_operator
from examples.benchmarks.rlif_tasks import in_this_process
from examples.benchmarks.rlif_training import EVALUATION_SEEDS, Recipe, Trainee, demonstrate, score, successful, train
from serl_core.blueprint import Blueprint
from serl_core.config import Preset
from serl_core.data.replay import Replay
from serl_core.methods import recipe
from serl_core.session import make_env
from serl_core.summary import check_writable, write_json
from serl_core.tasks import load_task
from serl_core.teleop.scripted import OperatorConfig
from serl_core.types import EpisodeStart, Record, Step

RESULTS = Path(__file__).parent / "results"
Method = Literal["hil", "alone", "more-demos", "penalty", "aged", "hil-judged"]
HELPED = ("hil", "penalty", "aged", "hil-judged")
PENALTY, AGE = 0.05, 2_000  # of ``penalty`` and ``aged``
GRID = 1_000  # steps between two points
GRID_SEEDS = 50_000  # of the grid's evaluation episodes; the final evaluation has others
FIELDS: tuple[str, ...] = (
    "task", "method", "expert", "seed", "steps_to_bar", "crossed", "curve", "successes", "episodes", "wilson_low",
    "wilson_high", "mean_success_steps", "demo_steps", "env_steps", "intervention_steps", "interventions",
    "operator_share", "share_last_quarter", "training_successes", "training_episodes", "updates", "achieved_utd",
    "wall_s", "cpu_s", "machine", "commit",
    "judge", "oracle_successes", "false_successes", "missed_successes", "episodes_by_quarter", "judged_by_quarter",
    "oracle_by_quarter",
)  # fmt: skip


@dataclass(frozen=True)
class Switches:
    """Those of `serl learner`."""

    utd: int
    method: Literal["hil-serl"] = "hil-serl"
    takeover_penalty: float = 0.0
    takeover_penalty_steps: int = 3
    demo_age: int = 0
    imitation: None = None
    rlif_expert: Literal["last"] = "last"


@dataclass(frozen=True)
class Config:
    """What a person's help saves."""

    task: str = "peg_insertion"  # task by name
    methods: tuple[Method, ...] = ("hil", "alone", "more-demos")
    seeds: tuple[int, ...] = (100, 101, 102, 103, 104)  # 0 to 2 are for development
    env_steps: int = 8_000  # steps of training
    demonstrations: int = 2  # successful episodes before training; with 20 this learner hardly needs anybody
    utd: int = 4  # critic updates per step
    episodes: int = 100  # of the final evaluation
    judge: Path | None = None  # classifier of ``hil-judged`` (serl classifier train)
    results: Path = RESULTS  # folder of CSV and picture
    json: Path | None = None  # also write the judgement here


class Grid:
    """Evaluates at every `GRID` steps, in a simulation of its own."""

    def __init__(self, env: gym.Env[Any, Any], trainee: Trainee) -> None:
        self.curve: list[int] = []
        self._env = env
        self._trainee = trainee
        self._steps = 0

    def __call__(self, record: Record) -> None:
        self._steps += isinstance(record, Step)
        if isinstance(record, EpisodeStart) or self._steps % GRID:
            return
        tally = score(self._env, self._trainee.final_policy(), GRID_EPISODES, GRID_SEEDS)
        self.curve.append(tally.successes)

    @property
    def shares(self) -> list[float]:
        """The same as shares of its episodes."""
        return [successes / GRID_EPISODES for successes in self.curve]


class Benchmark:
    """Runs one row at a time."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rows = Rows(config.results / "interventions.csv", FIELDS, 4)

    def has(self, method: Method, seed: int) -> bool:
        """Whether there is nothing to measure: a row that crossed, or whose budget was at least this one."""
        key = (self.config.task, method, _expert(method), str(seed))
        for row in self.rows.read():
            if (row["task"], row["method"], row["expert"], row["seed"]) == key:
                return row["crossed"] == "True" or int(row["env_steps"]) >= self.config.env_steps
        return False

    def row(self, method: Method, seed: int) -> dict[str, Any]:
        """Measure one row."""
        begun, cpu = time.monotonic(), time.process_time()
        config = self.config
        path = judge_of(config, method)
        cameras = () if path is None else cameras_of(path)
        with in_this_process(config.task, cameras) as session, in_this_process(config.task) as another:
            task = load_task(config.task)
            demonstrating = make_env(session, task, "state", OperatorConfig(mode="always"), seed)
            records = self.demonstrations(demonstrating, method, seed)
            trainee = self.trainee(method, seed, records)
            operator = OperatorConfig(mode="intervene") if method in HELPED else None
            alone = make_env(another, task, "state", None, seed)
            grid = Grid(alone, trainee)
            judge = None if path is None else judged_by(path, task, session)
            witness = Witness(lambda step: step.success if judge is None else judge.true_success)
            env = make_env(session, task, "state", operator, seed, judge=judge)
            training = train(env, trainee, config.env_steps, seed, [grid, witness])
            result = score(alone, trainee.final_policy(), config.episodes, EVALUATION_SEEDS)
        crossing = first_crossing(grid.curve)
        return {
            **{"task": config.task, "method": method, "expert": _expert(method), "seed": seed},
            "steps_to_bar": config.env_steps if crossing is None else crossing * GRID,
            "crossed": crossing is not None,
            "curve": " ".join(map(str, grid.curve)),
            **result.evaluation(),
            "demo_steps": sum(isinstance(record, Step) for record in records),
            "env_steps": training.steps,
            "intervention_steps": training.operator_steps,
            "interventions": len(training.takeovers),
            "operator_share": round(training.operator_steps / training.steps, 4),
            "share_last_quarter": share_of_operator(training, 0.75),
            "training_successes": training.successes,
            "training_episodes": len(training.episodes),
            "updates": trainee.updates,
            "achieved_utd": trainee.limiter.achieved_utd,
            "wall_s": round(time.monotonic() - begun, 1),
            "cpu_s": round(time.process_time() - cpu, 1),
            "judge": "oracle" if judge is None else judge.name,
            **witness.figures(),
        }

    def demonstrations(self, env: gym.Env[Any, Any], method: Method, seed: int) -> list[Record]:
        """Successful episodes; for the control so many more as make up for what the operator of ``hil`` spent."""
        size = load_task(self.config.task).action_dim
        records = successful(demonstrate(env, size, self.config.demonstrations, seed))
        wanted = sum(isinstance(record, Step) for record in records) + self.extra(method, seed)
        episode = self.config.demonstrations
        while sum(isinstance(record, Step) for record in records) < wanted:
            records += successful(demonstrate(env, size, 1, seed, episode))
            episode += 1
        return records

    def extra(self, method: Method, seed: int) -> int:
        """Demonstration steps beyond the usual ones. Raises ValueError while the row that they follow is missing."""
        if method != "more-demos":
            return 0
        for row in self.rows.read():
            if (row["task"], row["method"], row["seed"]) == (self.config.task, "hil", str(seed)):
                return int(row["intervention_steps"])
        raise ValueError(f"more-demos follows hil: measure hil with seed {seed} first (--methods hil more-demos)")

    def trainee(self, method: Method, seed: int, records: list[Record]) -> Trainee:
        """The learner as `serl learner` builds it, with the demonstrations in its replay."""
        preset: Preset = "plain" if method == "more-demos" else "default"
        penalty, age = PENALTY * (method == "penalty"), AGE * (method == "aged")
        switches = Switches(self.config.utd, takeover_penalty=penalty, demo_age=age)
        blueprint = Blueprint.for_task(self.config.task, "state", preset, self.config.utd, switches=switches)
        how, size = recipe(switches, blueprint.agent_config), load_task(self.config.task).action_dim
        replay = Replay(50_000, blueprint.raw_example(), size, dict, routing=how.routing)
        for record in records:
            replay.insert(record)
        return Trainee(Recipe(blueprint.agent(), blueprint.act(), how.sampling, how.utd), replay, seed)


def _expert(method: Method) -> str:
    return "scripted" if method in HELPED else "none"


def judge_of(config: Config, method: Method) -> Path | None:
    """The classifier that judges a method, None for the oracle. Ends the program where none is given."""
    if method != "hil-judged":
        return None
    if config.judge is None:
        raise SystemExit(f"hil-judged needs a classifier, --judge FILE; to make one: {MAKE}")
    return config.judge


def main(config: Config) -> int:
    """Run the rows that do not exist yet, and judge."""
    if config.json:
        check_writable(config.json)
    benchmark = Benchmark(config)
    for method in config.methods:
        judge_of(config, method)
    for seed in config.seeds:
        for method in config.methods:
            if benchmark.has(method, seed):
                continue
            row = benchmark.row(method, seed)
            benchmark.rows.append({**row, "machine": machine(), "commit": commit()})
            print(
                f"{config.task} {method} seed {seed}: {row['steps_to_bar']} steps to {BAR}, {row['curve']}", flush=True
            )
    found = verdict(benchmark.rows.read())
    print("\n".join(found["lines"]))
    draw(benchmark.rows.read(), config.results / "interventions.png")
    if config.json:
        write_json(config.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog="python -m examples.benchmarks.interventions", description=__doc__)))
