"""Success after training, for our method and its baselines, over seeds: ``python -m examples.benchmarks.learning``.

Methods, all with the same evaluation (100 episodes, final checkpoint, no help, success from the oracle):

- ``hil``: 20 demonstrations, then training with the scripted operator's interventions;
- ``no_operator``: the same without interventions;
- ``rlpd``: plain RLPD (no imitation term, no bounded targets, one-step targets) without interventions;
- ``rlpd_more_demos``: plain RLPD with as many more demonstration steps as ``hil``'s operator spent in
  the run of the same seed (the control for the operator's effort);
- ``bc``: behaviour cloning of ``hil``'s 20 demonstrations;
- ``operator``: the scripted operator alone.

One row per method and seed in ``results/learning-TASK-OBS.csv``. Rows that exist are not run again, so an
interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import csv
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from serl_core import demo
from serl_core.agents.bc import BC, BCConfig, make_bc_policy
from serl_core.blueprint import Blueprint
from serl_core.config import Observation
from serl_core.data.episodes import EpisodeStore
from serl_core.data.replay import Replay
from serl_core.data.sampling import Sampling
from serl_core.engine import Engine
from serl_core.evaluate import evaluate
from serl_core.nets.encoders import fit_normaliser
from serl_core.record import idle
from serl_core.rollout import Decision, Policy
from serl_core.simulated import simulated_server
from serl_core.summary import Tally, read_json
from serl_core.teleop.scripted import OperatorConfig
from serl_core.types import Obs

Method = Literal["hil", "no_operator", "rlpd", "rlpd_more_demos", "bc", "operator"]
RESULTS = Path(__file__).parent / "results"
BC_UPDATES = 10_000
FIELDS: tuple[str, ...] = (
    "method", "seed", "successes", "episodes", "wilson_low", "wilson_high", "mean_success_steps", "demo_steps",
    "env_steps", "intervention_steps", "interventions", "achieved_utd", "weight_age_steps_median", "wall_s",
    "machine", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Success after training, for our method and its baselines, over seeds."""

    task: str = "pick_cube"  # task by name
    obs: Observation = "state"  # what the policy sees
    methods: tuple[Method, ...] = ("hil",)  # which rows
    seeds: tuple[int, ...] = (100, 101, 102, 103, 104)  # reporting seeds; 0 to 2 are for development
    env_steps: int = 5_000  # steps of training
    eval_episodes: int = 100
    utd: int = 4  # critic updates per step
    runs: Path = Path("runs/learning")  # run directories
    results: Path = RESULTS  # folder of the CSV


def row_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one finished demo."""
    flat = {**summary, **summary["eval"], "machine": machine(), "commit": commit()}
    return {name: flat.get(name) for name in FIELDS if name in flat}


def row_of_evaluation(tally: Tally) -> dict[str, Any]:
    """The figures of an evaluation without a training run."""
    return {**tally.evaluation(), "env_steps": 0, "machine": machine(), "commit": commit()}


def machine() -> str:
    """Processor and number of cores."""
    return f"{platform.machine()} {os.cpu_count()} cores"


def commit() -> str:
    """The commit that is measured."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


class Benchmark:
    """Runs one row at a time."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.csv = config.results / f"learning-{config.task}-{config.obs}.csv"

    def run_dir(self, method: Method, seed: int) -> Path:
        """Where the demo of one row lives."""
        return self.config.runs / f"{self.config.task}-{self.config.obs}-{method}-{seed}"

    def row(self, method: Method, seed: int) -> dict[str, Any]:
        """Measure one row."""
        if method == "bc":
            return row_of_evaluation(self.behaviour_cloning(seed))
        if method == "operator":
            return row_of_evaluation(self.operator(seed))
        return row_of(self.demo(method, seed))

    def demo(self, method: Method, seed: int) -> dict[str, Any]:
        """One training run as a user would start it."""
        config, run_dir = self.config, self.run_dir(method, seed)
        if not (run_dir / "summary.json").exists():
            shutil.rmtree(run_dir, ignore_errors=True)  # an interrupted run is measured again from its start
            demo.main(
                demo.Config(
                    task=config.task,
                    obs=config.obs,
                    seed=seed,
                    run_dir=run_dir,
                    env_steps=config.env_steps,
                    eval_episodes=config.eval_episodes,
                    demo_steps=self.extra_demo_steps(seed) if method == "rlpd_more_demos" else 0,
                    operator="scripted" if method == "hil" else "none",
                    preset="default" if method in ("hil", "no_operator") else "plain",
                    utd=config.utd,
                )
            )
        return read_json(run_dir / "summary.json")

    def extra_demo_steps(self, seed: int) -> int:
        """Demonstration steps of the ``hil`` run of this seed, and the steps its operator spent."""
        hil = self.demo("hil", seed)
        return int(hil["demo_steps"]) + int(hil["intervention_steps"])

    def behaviour_cloning(self, seed: int) -> Tally:
        """Clone the demonstrations that ``hil`` started from."""
        self.demo("hil", seed)
        blueprint = Blueprint.for_task(self.config.task, self.config.obs)
        return self.evaluate(clone(blueprint, self.run_dir("hil", seed) / "demos", seed), blueprint, None)

    def operator(self, seed: int) -> Tally:
        """The operator drives every step."""
        blueprint = Blueprint.for_task(self.config.task, self.config.obs)
        return self.evaluate(idle(blueprint.load_task()), blueprint, OperatorConfig(mode="always"))

    def evaluate(self, policy: Policy, blueprint: Blueprint, operator: OperatorConfig | None) -> Tally:
        """The same episodes as after training."""
        task = blueprint.load_task()
        with simulated_server(task, blueprint.obs, self.config.runs / "logs") as address:
            return evaluate(policy, task, blueprint.obs, address, episodes=self.config.eval_episodes, operator=operator)

    def done(self) -> set[tuple[str, int]]:
        """Rows that exist."""
        if not self.csv.exists():
            return set()
        with self.csv.open() as file:
            return {(row["method"], int(row["seed"])) for row in csv.DictReader(file)}

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; the header comes with the first."""
        self.csv.parent.mkdir(parents=True, exist_ok=True)
        new = not self.csv.exists()
        with self.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(row)


def clone(blueprint: Blueprint, demos: Path, seed: int) -> Policy:
    """Train behaviour cloning on the demonstrations in ``demos`` and return its policy."""
    task = blueprint.load_task()
    encode = blueprint.replay_encoder(np.random.default_rng(seed))
    replay = Replay(50_000, blueprint.raw_example(), task.action_dim, encode, blueprint.views)
    for record in EpisodeStore(demos).records():
        replay.insert(record)
    config = BCConfig(grasp=task.grippers)
    agent = BC(config, blueprint.example(), task.action_dim)
    state = agent.init(jax.random.key(seed), fit_normaliser(*replay.state_statistics("demos")))
    spec = Sampling(task.discount, config.batch, demo_ratio=1.0)
    engine = Engine(agent, replay, spec, 10, blueprint.sight(), seed)
    for call in range(BC_UPDATES // 10):
        state, _ = engine.update(state, call)
    act, params = make_bc_policy(config, blueprint.example(), task.action_dim), agent.policy(state)
    encode, key = blueprint.encoder(), jax.random.key(seed)

    def policy(obs: Obs) -> Decision:
        return Decision(act(params, encode(obs), key, False))

    return policy


def main(config: Config) -> None:
    """Run the rows that do not exist yet."""
    benchmark = Benchmark(config)
    for method in config.methods:
        for seed in config.seeds:
            if (method, seed) in benchmark.done():
                continue
            row = {"method": method, "seed": seed, **benchmark.row(method, seed)}
            benchmark.append(row)
            print(f"{config.task} {method} seed {seed}: {row['successes']}/{row['episodes']}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.benchmarks.learning", description=__doc__))
    sys.exit(0)
