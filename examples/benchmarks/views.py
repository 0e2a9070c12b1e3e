"""What cached views cost in learning: ``python -m examples.benchmarks.views [--json FILE]``.

Replay keeps the frozen trunk's features of a few shifted views of each frame; exact mode shifts every frame anew in
every update. Here the same learner learns from pixels with 1, 4 and 16 views, their offsets drawn for each frame, and
with all 81: then a view drawn is a fresh crop, the distribution of exact mode for one pass of the trunk over each
frame.

The score is the area under the success curve: 20 episodes alone at every 1 000 steps, which have seeds of their own,
as a share. Judged by the difference to 81 views on the same task and seed: the lower end of a bootstrap's 90 %
interval of its mean must be above −0.05, and nothing is judged from fewer than 5 seeds. One row per task, number of
views and seed in ``results/views.csv``; rows that exist are not run again, but for another ``--env-steps``: then the
new one takes the place of the old one.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from examples.benchmarks.interventions import Grid, Switches
from examples.benchmarks.learning import commit, machine
from examples.benchmarks.rlif_rows import Rows
from examples.benchmarks.rlif_tasks import in_this_process
from examples.benchmarks.rlif_training import EVALUATION_SEEDS, Recipe, Trainee, demonstrate, score, successful, train
from examples.benchmarks.views_report import draw, verdict
from serl_core.blueprint import Blueprint
from serl_core.data.replay import Replay
from serl_core.methods import recipe
from serl_core.nets.frames import SHIFTS
from serl_core.nets.once import EncodedOnce
from serl_core.session import Session, make_env
from serl_core.summary import check_writable, write_json
from serl_core.tasks import load_task
from serl_core.teleop.scripted import OperatorConfig
from serl_core.types import Record

RESULTS = Path(__file__).parent / "results"
FIELDS: tuple[str, ...] = (
    "task", "views", "seed", "area", "curve", "successes", "episodes", "wilson_low", "wilson_high",
    "mean_success_steps", "env_steps", "operator_share", "training_successes", "training_episodes", "updates",
    "achieved_utd", "wall_s", "cpu_s", "machine", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What cached views cost in learning."""

    tasks: tuple[str, ...] = ("pick_cube", "peg_insertion")
    # of training, of each task; on pick_cube nine of ten episodes succeed without help after 3 500 (UTD 2, batch 256):
    # more points at the top cost time and only bring the areas closer together
    env_steps: tuple[int, ...] = (4_000, 5_000)
    views: tuple[int, ...] = (1, 4, 16, SHIFTS)
    seeds: tuple[int, ...] = (100, 101, 102, 103, 104)  # 0 to 2 are for development
    demonstrations: int = 20  # successful episodes before training
    utd: int = 2  # critic updates per step
    batch: int = 128
    episodes: int = 50  # of the final evaluation
    results: Path = field(default=RESULTS)  # folder of CSV and picture
    json: Path | None = None  # also write the judgement here


def row(config: Config, task: str, env_steps: int, views: int, seed: int) -> dict[str, Any]:
    """Train and measure."""
    begun, cpu = time.monotonic(), time.process_time()
    cameras = Blueprint.for_task(task, "pixels").cameras
    with in_this_process(task, cameras) as session, in_this_process(task, cameras) as another:
        shown = environment(session, task, OperatorConfig(mode="always"), seed)
        records = successful(demonstrate(shown, load_task(task).action_dim, config.demonstrations, seed))
        trainee = trainee_of(config, task, env_steps, views, seed, records)
        alone = environment(another, task, None, seed)
        grid = Grid(alone, trainee)
        helped = environment(session, task, OperatorConfig(mode="intervene"), seed)
        training = train(helped, trainee, env_steps, seed, [grid])
        result = score(alone, trainee.final_policy(), config.episodes, EVALUATION_SEEDS)
    return {
        **{"task": task, "views": views, "seed": seed},
        "area": round(float(np.mean(grid.shares)), 4),
        "curve": " ".join(map(str, grid.curve)),
        **result.evaluation(),
        "env_steps": training.steps,
        "operator_share": round(training.operator_steps / training.steps, 4),
        "training_successes": training.successes,
        "training_episodes": len(training.episodes),
        "updates": trainee.updates,
        "achieved_utd": trainee.limiter.achieved_utd,
        "wall_s": round(time.monotonic() - begun, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
    }


def environment(session: Session, task: str, operator: OperatorConfig | None, seed: int) -> Any:
    """The task from pixels, helped or alone."""
    return make_env(session, load_task(task), "pixels", operator, seed)


def trainee_of(config: Config, task: str, env_steps: int, views: int, seed: int, records: list[Record]) -> Trainee:
    """The learner as `serl learner --views` builds it, with the demonstrations in its replay."""
    switches = Switches(config.utd)
    blueprint = Blueprint.for_task(task, "pixels", utd=config.utd, switches=switches)
    fewer = replace(blueprint.agent_config, batch=config.batch)
    blueprint = replace(blueprint, cached_views=views, agent_config=fewer)
    how, size = recipe(switches, fewer), load_task(task).action_dim
    frames = 2 * len(records) + env_steps + env_steps // 5  # an episode has a frame more than steps
    encode = blueprint.replay_encoder(np.random.default_rng([seed, 1]))
    replay = Replay(frames, blueprint.raw_example(), size, encode, blueprint.views, routing=how.routing)
    for record in records:
        replay.insert(record)
    sees = blueprint.encoder(EncodedOnce())
    return Trainee(Recipe(blueprint.agent(), blueprint.act(), how.sampling, how.utd, encode=sees), replay, seed)


def main(config: Config) -> int:
    """Run the rows that do not exist yet, and judge. Raises ValueError unless each task has its steps."""
    if config.json:
        check_writable(config.json)
    rows = Rows(config.results / "views.csv", FIELDS, 3)
    budgets = list(zip(config.tasks, config.env_steps, strict=True))  # now, not after the first row
    for seed in config.seeds:
        for task, env_steps in budgets:
            for views in config.views:
                if measured(rows, task, env_steps, views, seed):
                    continue
                found = row(config, task, env_steps, views, seed)
                rows.append({**found, "machine": machine(), "commit": commit()})
                print(f"{task}, {views} views, seed {seed}: area {found['area']}, {found['curve']}", flush=True)
    found = verdict(rows.read())
    print("\n".join(found["lines"]))
    draw(rows.read(), config.results / "views.png")
    if config.json:
        write_json(config.json, found)
    return 0


def measured(rows: Rows, task: str, env_steps: int, views: int, seed: int) -> bool:
    """Whether this row is there, with this budget: areas of different ones must not be compared."""
    wanted = (task, str(views), str(seed), str(env_steps))
    return any((row["task"], row["views"], row["seed"], row["env_steps"]) == wanted for row in rows.read())


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog="python -m examples.benchmarks.views", description=__doc__)))
