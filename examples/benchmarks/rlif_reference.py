"""The study's yardsticks: a converged agent per task, trained once, kept with its hash.

It learns from the task's reward with everything that helps: many demonstrations, a good expert's help now and then,
three-step windows, and on the arm's tasks the person's action followed where the critics agree. Reacher's tries for
itself: where nearly all that it saw was right, its critics said that the good expert loses a tenth of the value in
every other step. What a yardstick says decides the takeovers of the study, so its file's hash stands in every row, and
the file comes with the study: trained again, on another processor or with another version of JAX, it is another agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from examples.benchmarks.rlif_tasks import StudyTask, TaskName, opened, study_task
from examples.benchmarks.rlif_training import Recipe, Trainee, demonstrate, score, train
from serl_core.agents.policy import params_to_tree
from serl_core.agents.sac import SAC, SACConfig, make_policy
from serl_core.checkpoint import Checkpoints
from serl_core.data.replay import Replay
from serl_core.data.sampling import Sampling
from serl_core.helping import Yardstick, load_yardstick
from serl_core.summary import Tally
from serl_core.teleop.conditions import Always, AtRandom, Intervening

REFERENCES = Path(__file__).parent / "references"
SEED = 77  # of demonstrations and training: none of the study's
STEPS: Mapping[TaskName, int] = {"reacher": 12_000, "peg_insertion": 6_000, "pick_cube": 6_000}
IMITATION: Mapping[TaskName, float] = {"reacher": 0.0, "peg_insertion": 30.0, "pick_cube": 30.0}
DEMONSTRATIONS: Mapping[TaskName, int] = {"reacher": 50, "peg_insertion": 100, "pick_cube": 100}
HELP = 0.1  # share of the steps in which the good expert acts
EVALUATION = 900_000  # first seed of the episodes that say how good it is
CONVERGED = 0.95  # share of successes below which nobody should be judged by it


def config_of(task: StudyTask) -> SACConfig:
    """Small networks: it is asked in every step of the study. The gripper is one more entry of the action.

    A gripper critic of its own would overstate what a wrong grip costs: it learns from few choices that nobody made.
    """
    return SACConfig(
        discount=task.discount,
        critics=5,
        hidden=(128, 128),
        activation="relu",
        value_bounds=(0.0, 1.0),
        n_step=3,
        imitation=IMITATION[task.name],
    )


def yardstick(name: TaskName, root: Path, episodes: int = 100) -> Yardstick:
    """The reference agent of a task, trained now if ``root`` holds none. Raises RuntimeError if it did not converge."""
    checkpoints = Checkpoints(root / name, keep=1)
    if checkpoints.latest() is None:
        checkpoints.save(STEPS[name], trained(name, episodes))
    task = study_task(name)
    found = load_yardstick(checkpoints.root, name, task.example(), task.action_dim)
    if found.success < CONVERGED:
        raise RuntimeError(
            f"{checkpoints.root}: the reference agent succeeds in {found.success:.0%} only; delete it, train longer"
        )
    return found


def trained(name: TaskName, episodes: int) -> dict[str, Any]:
    """A new reference agent as a tree for a checkpoint."""
    task = study_task(name)
    config = config_of(task)
    agent = SAC(config, task.example(), task.action_dim)
    act = make_policy(config, task.example(), task.action_dim)
    recipe = Recipe(agent, act, Sampling(task.discount, 128, 0.35, config.n_step), utd=4)
    rng = np.random.default_rng(SEED)
    with opened(name) as world:
        expert = world.expert("good", rng)
        replay = Replay(100_000, task.example(), task.action_dim, dict)
        demonstrating = Intervening(world.env, expert, Always())
        for record in demonstrate(demonstrating, task.action_dim, DEMONSTRATIONS[name], SEED):
            replay.insert(record)
        trainee = Trainee(recipe, replay, SEED)
        train(Intervening(world.env, expert, AtRandom(HELP, rng)), trainee, STEPS[name], SEED)
        tally = score(world.env, trainee.final_policy(), episodes, EVALUATION)
    return {
        "task": name,
        "config": asdict(config),
        "policy": params_to_tree(agent.averaged_policy(trainee.state)),
        "critics": jax.tree.map(np.asarray, trainee.state.target["arm"]),
        "success": _rate(tally),
        "seed": SEED,
    }


def _rate(tally: Tally) -> float:
    return tally.successes / len(tally.episodes)
