"""How the scripted operator helps on `serl actor`: the conditions of a study as options."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from env_parts import REACH, Arm
from person_parts import Script

from serl_core.actor import Config, attended_env
from serl_core.agents.policy import params_to_tree
from serl_core.agents.sac import SAC, SACConfig
from serl_core.attendance import attended_by
from serl_core.checkpoint import Checkpoints
from serl_core.cli import parse
from serl_core.config import ConfigError
from serl_core.envs.attention import attended
from serl_core.envs.robot_env import observation_space
from serl_core.helping import Helping, helping_of
from serl_core.rollout import Decision, Identity, rollout
from serl_core.session import Session
from serl_core.summary import read_json
from serl_core.teleop.conditions import SKILL, AtRandom, ValueGap
from serl_core.teleop.scripted import OperatorConfig
from serl_core.types import EpisodeStart, Record, Step

TASK = replace(REACH, max_steps=25)
REST = np.zeros(TASK.action_dim, np.float32)


def asked(*words: str) -> Config:
    """The actor's configuration from a command line."""
    return parse("actor", Config, ["--run-dir", "nowhere", *words])


def helping(config: Config) -> Helping:
    return helping_of(config.operator, config.scripted, TASK, config.obs, config.seed)


def acted(config: Config, help_: Helping, episodes: int = 6) -> list[Step]:
    """The steps of a policy that rests, under this help, as `serl actor` makes its environment."""
    arm, heard = Arm(), list[Record]()

    def hear(record: Record) -> None:
        heard.append(record)

    session = Session(arm.robot, arm.clock(TASK), arm.truth)
    there = attended_by(session, Script(lambda status: ()), None, lambda: False, lambda seconds: None)
    env = attended_env(config, TASK, there, lambda: False, None, help_)
    seeds = attended(range(episodes), there.ears)
    rollout(env, lambda obs: Decision(REST), [hear], identity=Identity("a"), seeds=seeds, meta=help_.meta)
    assert all(
        record.meta["scripted"] == help_.meta["scripted"] for record in heard if isinstance(record, EpisodeStart)
    )
    return [record for record in heard if isinstance(record, Step)]


def stored(folder: Path, task: str = TASK.name, **changes: Any) -> Path:
    """An untrained reference agent where one of the study would be."""
    shape = observation_space(TASK, "state")["state"].shape or ()
    config = SACConfig(critics=2, hidden=(8,))
    agent = SAC(config, {"state": np.zeros(shape, np.float32)}, TASK.action_dim)
    state = agent.init(jax.random.key(0))
    tree = {
        "task": task, "config": asdict(config), "success": 1.0, "policy": params_to_tree(agent.policy(state)),
        "critics": jax.tree.map(np.asarray, state.target["arm"]), **changes,
    }  # fmt: skip
    return Checkpoints(folder).save(0, tree)


# ── what is asked for ──


def test_without_options_it_helps_as_a_person_would() -> None:
    """Guards the default: what was measured with the scripted operator stays comparable."""
    found = helping(asked())
    assert found.operator == OperatorConfig(mode="intervene") and found.rule is None
    assert helping(asked("--operator", "none")) == Helping()
    poor = helping(asked("--scripted.skill", "poor"))
    assert poor.operator == OperatorConfig(mode="intervene", skill=SKILL["poor"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--scripted.takeover at-random", "--scripted.rate"),
        ("--scripted.rate 0.3", "--scripted.rate"),
        ("--scripted.takeover at-random --scripted.rate 1.5", "must lie in"),
        ("--scripted.takeover value-gap", "--scripted.reference"),
        ("--scripted.reference somewhere", "--scripted.reference"),
        ("--scripted.takeover at-random --scripted.rate 0.3 --scripted.delay 2", "--scripted.delay"),
        ("--scripted.takeover value-gap --scripted.reference x --scripted.delay 0", "--scripted.delay"),
        ("--operator none --scripted.skill poor", "--operator scripted"),
        ("--scripted.takeover value-gap --scripted.reference x", "holds no reference agent"),
        ("--scripted.takeover value-gap --scripted.reference x --obs pixels", "--obs state"),
    ],
)
def test_what_would_be_ignored_or_cannot_be_is_refused(words: str, text: str) -> None:
    """Guards a study against a condition that somebody asked for and did not get."""
    with pytest.raises(ConfigError, match=text):
        helping(asked(*words.split()))


# ── at random ──


@pytest.mark.parametrize("level", ["poor", "medium", "good"])
def test_takeovers_at_random_replace_the_action_and_are_recorded(level: str) -> None:
    """Guards the way from the command line into the records: RLIF learns from nothing but these marks."""
    config = asked("--scripted.takeover", "at-random", "--scripted.rate", "0.3", "--scripted.skill", level)
    found = helping(config)
    assert isinstance(found.rule, AtRandom) and found.meta["scripted"]["rate"] == 0.3
    assert found.operator is not None and (found.operator.mode, found.operator.skill) == ("always", SKILL[level])  # type: ignore[index]
    steps = acted(config, found)
    led = [step for step in steps if step.who == "operator"]
    assert 0.2 < len(led) / len(steps) < 0.4
    assert all(step.takeover >= 0 and step.action.any() and not step.proposal.any() for step in led)
    assert all(step.takeover == -1 and not step.action.any() for step in steps if step.who == "policy")


# ── by the value gap ──


def test_takeovers_by_the_value_gap_against_a_stored_agent(tmp_path: Path) -> None:
    """Guards the study's own condition on the real loop: the agent is loaded, asked, and named in every episode."""
    path = stored(tmp_path / "references")
    config = asked("--scripted.takeover", "value-gap", "--scripted.reference", str(path.parent))
    found = helping(config)
    assert isinstance(found.rule, ValueGap)
    assert found.meta["scripted"]["reference"] == read_json(path / "complete.json")["sha256"][:12]
    steps = acted(config, found, episodes=3)
    begun = [after.takeover for before, after in pairwise(steps) if after.takeover > before.takeover]
    assert begun and begun == sorted(set(begun))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"task": "pick_cube"}, "of the task pick_cube, not of reach"),
        ({"critics": None}, "another checkpoint"),
        ({"policy": {"normaliser/mean": np.zeros(3)}}, "looks at 3 entries"),
    ],
)
def test_a_reference_agent_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    """Guards takeovers against an agent that knows another task, or none."""
    if changes.get("critics", 0) is None:
        Checkpoints(tmp_path).save(0, {"task": TASK.name, "policy": {}})
    else:
        stored(tmp_path, **changes)
    with pytest.raises(ConfigError, match=text):
        helping(asked("--scripted.takeover", "value-gap", "--scripted.reference", str(tmp_path)))
