"""How long actions take: on a clock that a test moves, and through the whole environment."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
from env_parts import REACH, Arm

from robot_servers.interface import Applied, Command
from serl_core.envs.robot_env import RobotEnv
from serl_core.latency import STAGES, Latency, Timed, timed
from serl_core.rollout import Decision

STAY = np.zeros(4, np.float32)


class Hands:
    """A clock that stands still until somebody takes their time."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def step(latency: Latency, captured: float | None = 0.0, inference: float = 0.01, sent: float = 0.02) -> None:
    """One step of an episode that begins at 0 s, its command accepted 5 ms after it was sent."""
    latency.seen(0.004, captured)
    latency.decided(inference)
    latency.commanded(sent, sent + 0.005)


def test_every_stage_has_its_median_and_its_worst() -> None:
    """Guards what is read when an arm stutters: which stage it is, typically and at its worst."""
    latency = Latency(0.1)
    for _ in range(99):
        step(latency)
    step(latency, inference=0.05, sent=0.06)
    figures = latency.take()
    assert figures["capture_ms_p50"] == 4.0 and figures["command_ms_p99"] == pytest.approx(5.0)
    assert figures["inference_ms_p50"] == 10.0 and 10.0 < figures["inference_ms_p99"] <= 50.0
    assert figures["total_ms_p50"] == 25.0 and figures["late_actions"] == 0


def test_an_episode_is_not_counted_in_the_next_one() -> None:
    """Guards against figures that remember the first episode for ever; what was not measured is not invented."""
    latency = Latency(0.1)
    step(latency)
    latency.take()
    assert latency.take() == {"late_actions": 0}


def test_an_action_that_leaves_after_its_period_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """Guards against a policy that is a step behind, which nothing else shows: the arm still moves smoothly."""
    latency = Latency(0.1)
    for late in (False, True, True):
        step(latency, inference=0.09, sent=0.11 if late else 0.1)
    with caplog.at_level(logging.WARNING):
        assert latency.take()["late_actions"] == 2
    assert "2 of 3 actions left more than a control period (100 ms)" in caplog.text


def test_in_lockstep_nobody_is_late() -> None:
    """Guards against warnings in simulation, where time waits: only inference and command are measured."""
    latency = Latency(None)
    step(latency, captured=None, sent=5.0)
    figures = latency.take()
    assert set(figures) == {"inference_ms_p50", "inference_ms_p99", "command_ms_p50", "command_ms_p99", "late_actions"}
    assert figures["late_actions"] == 0


def taking(clock: Hands, seconds: float, act: Callable[[Command], Applied]) -> Callable[[Command], Applied]:
    def slow(command: Command) -> Applied:
        clock.at += seconds
        return act(command)

    return slow


def test_the_stages_of_a_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the wiring: policy, command and the age of what was seen, each by its own time stamps."""
    clock, arm = Hands(), Arm()
    monkeypatch.setattr(arm.robot, "command", taking(clock, 0.03, arm.robot.command))
    env = RobotEnv(arm.robot, REACH, arm.clock(), "state", arm.truth)
    monkeypatch.setattr(env._arm, "_now", clock)
    latency = Latency(0.1)
    whole = Timed(env, latency, lambda server: clock.at - 0.007, clock)  # measured 7 ms before it is in hand

    def think(obs: object) -> Decision:
        clock.at += 0.02
        return Decision(STAY)

    policy = timed(think, latency, clock)
    obs, _ = whole.reset(seed=0)
    for _ in range(5):
        obs, *_ = whole.step(policy(obs).action)
    figures = latency.take()
    found = {stage: figures[f"{stage}_ms_p50"] for stage in STAGES}
    assert found == pytest.approx({"capture": 7.0, "inference": 20.0, "command": 30.0, "total": 57.0})
    assert figures["late_actions"] == 0


def test_aborted_steps_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the figures against a command that was never accepted."""
    arm = Arm()
    latency = Latency(0.1)
    whole = Timed(RobotEnv(arm.robot, REACH, arm.clock(), "state", arm.truth), latency, None)
    whole.reset(seed=0)
    arm.robot.advance(1.0)  # the observation is too old by now
    assert "abort" in whole.step(STAY)[4]
    assert latency.take() == {"late_actions": 0}
