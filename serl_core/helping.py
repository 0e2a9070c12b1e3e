"""How the scripted operator helps a policy that trains: as a person would, or under the conditions of RLIF's study.

The conditions are those of arXiv 2311.12996, section 5: at random with a fixed rate, or by the value gap against a
reference agent, by experts of several skills (`serl_core.teleop.conditions`). A reference agent is what
``python -m examples.benchmarks.rlif`` trains and keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from serl_core.agents.policy import Obs
from serl_core.agents.reference import Reference
from serl_core.agents.sac import SACConfig
from serl_core.checkpoint import Checkpoints
from serl_core.config import ConfigError, Observation
from serl_core.envs.robot_env import observation_space
from serl_core.pairs import AnyTask
from serl_core.summary import read_json
from serl_core.teleop.conditions import SKILL, AtRandom, Level, Rule, ValueGap, expert_of
from serl_core.teleop.scripted import OperatorConfig

Way = Literal["in-trouble", "at-random", "value-gap"]


@dataclass(frozen=True)
class Scripted:
    """When the scripted operator takes over, and how good it is. The further options belong to one way each."""

    takeover: Way = "in-trouble"  # as a person does, at-random, or by the value-gap against a reference agent
    skill: Level = "good"  # how often it is right: poor 20 %, medium 60 %, good always
    rate: float | None = None  # at-random: share of all steps; 0.3, 0.5 or 0.85 in RLIF's study
    reference: Path | None = None  # value-gap: folder of an agent, as examples/benchmarks/references/peg_insertion
    delay: float | None = None  # value-gap, steps: where an action costs as much as waiting so long; 2.5 if not given


@dataclass(frozen=True)
class Helping:
    """Who helps, if a script does: by ``rule``, or as a person would; ``meta`` is kept with the episodes."""

    operator: OperatorConfig | None = None
    rule: Rule | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Yardstick:
    """A reference agent, the first digits of its file's SHA-256, and how often it succeeds."""

    agent: Reference
    digest: str
    success: float


DELAY = 2.5  # steps


def helping_of(operator: str, scripted: Scripted, task: AnyTask, obs: Observation, seed: int) -> Helping:
    """The help of a run; ``operator`` as of `serl_core.attendance.Wanted`. Needs no robot.

    Raises ConfigError for options that would be ignored or cannot be, CheckpointError for a damaged reference agent.
    """
    _check(operator, scripted)
    if operator != "scripted":
        return Helping()
    about = {"takeover": scripted.takeover, "skill": scripted.skill}
    rng = np.random.default_rng([seed, 3])
    if scripted.takeover == "at-random":
        assert scripted.rate is not None  # `_check`
        rule = AtRandom(scripted.rate, rng)
        return Helping(expert_of(scripted.skill), rule, {"scripted": {**about, "rate": scripted.rate}})
    if scripted.takeover == "value-gap":
        assert scripted.reference is not None  # `_check`
        found = _reference(scripted.reference, task, obs)
        delay = DELAY if scripted.delay is None else scripted.delay
        rule = ValueGap(found.agent.values, rng, task.discount**delay)
        return Helping(
            expert_of(scripted.skill), rule, {"scripted": {**about, "delay": delay, "reference": found.digest}}
        )
    return Helping(OperatorConfig("intervene", SKILL[scripted.skill]), meta={"scripted": about})


def load_yardstick(folder: Path, task: str, example: Obs, action_dim: int) -> Yardstick:
    """The newest reference agent in a folder of checkpoints, for a task by its name and its observations.

    Raises ConfigError if there is none, or one that does not fit, and CheckpointError if it is damaged.
    """
    checkpoints = Checkpoints(folder)
    path = checkpoints.latest()
    if path is None:
        raise ConfigError(f"{folder} holds no reference agent: python -m examples.benchmarks.rlif trains them")
    tree = checkpoints.load(path)
    if not {"task", "config", "policy", "critics", "success"} <= tree.keys():
        raise ConfigError(f"{path} is no reference agent but another checkpoint: see examples/benchmarks/references")
    if tree["task"] != task:
        raise ConfigError(f"{path} is a reference agent of the task {tree['task']}, not of {task}")
    size, wanted = tree["policy"]["normaliser/mean"].shape, example["state"].shape
    if size != wanted:
        raise ConfigError(f"{path} looks at {size[0]} entries of state, {task} has {wanted[0]} here: train it again")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in tree["config"].items()
    }
    agent = Reference(SACConfig(**values), example, action_dim, tree["policy"], tree["critics"])
    return Yardstick(agent, str(read_json(path / "complete.json")["sha256"])[:12], float(tree["success"]))


def _reference(folder: Path, task: AnyTask, obs: Observation) -> Yardstick:
    if obs != "state":
        raise ConfigError("--scripted.takeover value-gap: a reference agent looks at the state, so give --obs state")
    shape = observation_space(task, obs)["state"].shape
    example = {"state": np.zeros(shape or (), np.float32)}
    found = load_yardstick(folder, task.name, example, task.action_dim)
    found.agent.values(example, np.zeros(task.action_dim, np.float32))  # compiles now, not while the arm waits
    return found


def _check(operator: str, scripted: Scripted) -> None:
    """What would be ignored is refused."""
    if operator != "scripted" and scripted != Scripted():
        raise ConfigError(f"--scripted.* says how --operator scripted helps, not {operator}")
    way = scripted.takeover
    if (scripted.rate is None) == (way == "at-random"):
        raise ConfigError("--scripted.takeover at-random and --scripted.rate, such as 0.3, are given together")
    if (scripted.reference is None) == (way == "value-gap"):
        raise ConfigError("--scripted.takeover value-gap and --scripted.reference FOLDER are given together")
    if scripted.delay is not None and (way != "value-gap" or not scripted.delay > 0):
        raise ConfigError("--scripted.delay is of --scripted.takeover value-gap, and positive")
