"""Learning from takeovers alone, against imitation: ``python -m examples.benchmarks.rlif [--json FILE]``.

RLIF (arXiv 2311.12996), HG-DAgger, behaviour cloning and plain RLPD on three tasks, with experts of three skills that
take over by the value gap against a reference agent, or at random. The same demonstrations, the same rules and the same
budget for every method of a task and seed; the score is the share of 100 episodes that succeed, alone.

Parts: ``experts`` measures the experts (``results/rlif-experts.csv``), ``study`` runs the rows that do not exist yet
(``results/rlif.csv``), ``report`` judges and draws (``rlif.png``). The reference agents are kept in ``references``; one
that is missing there is trained. Its file's hash is in every row. An interrupted study goes on with its next row.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from examples.benchmarks.learning import commit, machine
from examples.benchmarks.rlif_reference import REFERENCES, yardstick
from examples.benchmarks.rlif_report import draw, verdicts
from examples.benchmarks.rlif_rows import Rows
from examples.benchmarks.rlif_study import Job, Method, RuleName, Terms, measure
from examples.benchmarks.rlif_tasks import LEVELS, TaskName, opened, study_task
from examples.benchmarks.rlif_training import EVALUATION_SEEDS, demonstrate_to
from serl_core.helping import Yardstick
from serl_core.summary import check_writable, write_json
from serl_core.teleop.conditions import Always, Intervening, Level

RESULTS = Path(__file__).parent / "results"
Part = Literal["experts", "study", "report"]
FIELDS: tuple[str, ...] = (
    "task", "method", "expert", "rule", "seed", "score", "successes", "episodes", "wilson_low", "wilson_high",
    "mean_success_steps", "demo_steps", "env_steps", "intervention_steps", "interventions", "share_last_quarter",
    "updates", "achieved_utd", "reference", "wall_s", "cpu_s", "machine", "commit",
)  # fmt: skip
EXPERT_FIELDS = ("task", "expert", "successes", "episodes", "wilson_low", "wilson_high", "mean_success_steps", "commit")


@dataclass(frozen=True)
class Config:
    """RLIF and its baselines under simulated takeovers."""

    parts: tuple[Part, ...] = ("experts", "study", "report")  # what to do
    tasks: tuple[TaskName, ...] = ("reacher", "peg_insertion", "pick_cube")
    methods: tuple[Method, ...] = ("rlif", "hg-dagger")  # of the rows with takeovers
    baselines: tuple[Method, ...] = ("bc", "rlpd")  # without takeovers: once per task and seed
    experts: tuple[Level, ...] = LEVELS
    rules: tuple[RuleName, ...] = ("value-gap",)  # add "random-30", "random-50", "random-85": reported, not judged
    seeds: tuple[int, ...] = (100, 101, 102)  # 0 to 2 are for development
    terms: Terms = field(default_factory=Terms)
    references: Path = REFERENCES  # where the reference agents are kept
    results: Path = RESULTS  # folder of the CSVs
    json: Path | None = None  # also write the verdicts here


def jobs(config: Config) -> Iterator[Job]:
    """The rows in the order in which they are run: a whole comparison of one seed before the next seed."""
    for rule in config.rules:
        for seed in config.seeds:
            for task in config.tasks:
                if rule == "value-gap":
                    yield from (Job(task, method, "good", "none", seed) for method in config.baselines)
                for expert in config.experts:
                    yield from (Job(task, method, expert, rule, seed) for method in config.methods)


def study(config: Config) -> None:
    """Run the rows that do not exist yet."""
    rows = Rows(config.results / "rlif.csv", FIELDS, 5)
    known: dict[TaskName, Yardstick] = {}
    for job in jobs(config):
        if job.key in rows.done():
            continue
        if job.rule == "value-gap" and job.task not in known:
            known[job.task] = yardstick(job.task, config.references)
        row = measure(job, config.terms, known.get(job.task) if job.rule == "value-gap" else None)
        rows.append({**row, "machine": machine(), "commit": commit()})
        print(f"{' '.join(job.key)}: {row['score']:.2f} in {row['wall_s']:.0f} s", flush=True)


def experts(config: Config) -> None:
    """How often each expert succeeds when it drives every step."""
    rows = Rows(config.results / "rlif-experts.csv", EXPERT_FIELDS, 2)
    for task in config.tasks:
        for level in config.experts:
            if (task, level) in rows.done():
                continue
            row = expert_row(task, level, config.terms.episodes)
            rows.append({**row, "commit": commit()})
            print(f"{task}: the {level} expert succeeds {row['successes']} of {row['episodes']} times", flush=True)


def expert_row(task: TaskName, level: Level, episodes: int) -> dict[str, Any]:
    """Episodes in which the expert acts from beginning to end."""
    with opened(task) as world:
        env = Intervening(world.env, world.expert(level, np.random.default_rng(1)), Always())
        tally = demonstrate_to(env, study_task(task).action_dim, episodes, EVALUATION_SEEDS)
    return {"task": task, "expert": level, **tally.evaluation()}


def main(config: Config) -> int:
    """Do the parts that are asked for."""
    if config.json:
        check_writable(config.json)
    if "experts" in config.parts:
        experts(config)
    if "study" in config.parts:
        study(config)
    if "report" in config.parts:
        rows = Rows(config.results / "rlif.csv", FIELDS, 5).read()
        found = verdicts(rows)
        for line in found["lines"]:
            print(line)
        draw(rows, config.results / "rlif.png")
        if config.json:
            write_json(config.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog="python -m examples.benchmarks.rlif", description=__doc__)))
