"""Two arms as one environment, on two fake arms without physics that share a clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from env_parts import REACH, Arm, Hand, push
from gymnasium.utils.env_checker import check_env

from robot_servers.interface import NotOwner, RobotError
from serl_core.clock import LockstepClock
from serl_core.config import ConfigError, Observation
from serl_core.envs.actions import action_names, join_actions, split_action
from serl_core.envs.build import build_env
from serl_core.envs.pair_env import PairEnv, same_clock, state_layout
from serl_core.envs.robot_env import action_space, observation_space
from serl_core.envs.takeover import device_action
from serl_core.envs.takeover_machine import TakeoverConfig
from serl_core.pairs import PairTask
from serl_core.teleop.pair import PairDevice

SIX = ("x", "y", "z", "rx", "ry", "rz")
HALF = replace(REACH, axes=SIX, step_rotation=0.05)
PAIR = PairTask(
    "pair",
    "",
    30,
    HALF,
    replace(HALF, grasp_penalty=-0.05),
    privileged=lambda states, truth: np.array([states[0].pose[0], states[1].pose[0], truth["left"]["number"]]),
    privileged_dim=3,
)
STAY = np.zeros(14, np.float32)


class Two:
    """Two fake arms, whose time passes together."""

    def __init__(self, cameras: tuple[str, ...] = (), lag: float = 0.03) -> None:
        self.arms = Arm(cameras, lag), Arm(cameras, lag)
        self.left, self.right = (arm.robot for arm in self.arms)

    def advance(self, seconds: float) -> None:
        for arm in self.arms:
            arm.robot.advance(seconds)

    def env(self, task: PairTask = PAIR, obs: Observation = "state", clock=None, **options) -> PairEnv:
        truth = {"left": {"number": 7.0}}
        clock = clock or LockstepClock(0.1, self.advance)
        return PairEnv((self.left, self.right), task, clock, obs, lambda: truth, **options)

    @property
    def modes(self) -> list[str]:
        return [self.left.status().mode, self.right.status().mode]


def started(two: Two, **options) -> PairEnv:
    env = two.env(**options)
    env.reset(seed=0)
    return env


# ── shapes ──


def test_spaces_are_known_without_robots_and_say_whose_entry_is_whose():
    """Guards the learner's start, and what policies and datasets mean by each entry."""
    assert action_space(PAIR).shape == (14,)
    assert observation_space(PAIR, "state")["state"].shape == (2 * 23 + 3,)
    pixels = observation_space(PAIR, "pixels")
    assert set(pixels) == {"state", "left_front", "right_front"} and pixels["state"].shape == (46,)
    assert state_layout(PAIR, "state") == {"left": slice(0, 23), "right": slice(23, 46), "objects": slice(46, 49)}
    assert action_names(PAIR)[4:8] == ("left ry", "left rz", "right x", "right y")
    assert action_names(PAIR)[-2:] == ("left gripper", "right gripper")
    assert action_names(REACH) == ("x", "y", "z", "gripper")


@pytest.mark.parametrize("grippers", [(True, True), (True, False), (False, True), (False, False)])
def test_actions_are_split_and_joined_again(grippers):
    """Guards against a gripper entry that moves the other arm, also where only one arm has a gripper."""
    left, right = (replace(HALF, gripper=gripper) for gripper in grippers)
    task = replace(PAIR, left=left, right=replace(right, axes=("x", "y")))
    action = np.arange(task.action_dim, dtype=np.float32)
    parts = split_action(task, action)
    assert [len(part) for part in parts] == [arm.action_dim for arm in task.arms]
    assert parts[0][:6].tolist() == [0, 1, 2, 3, 4, 5] and parts[1][:2].tolist() == [6, 7]
    assert [part[-1] for part, has in zip(parts, grippers, strict=True) if has] == list(range(8, 8 + sum(grippers)))
    np.testing.assert_array_equal(join_actions(task, parts), action)


@pytest.mark.filterwarnings("ignore:.*(infinity|different from the unwrapped).*")
def test_gymnasium_accepts_the_environment(monkeypatch):
    """Guards the contract with every library that speaks Gymnasium."""
    two = Two(lag=1e-4)
    env = two.env()
    kept = ("target", "bent", "skew", "gripper")
    step = env.step
    monkeypatch.setattr(
        env,
        "step",
        lambda action: (*(out := step(action))[:4], {name: out[4][name] for name in kept if name in out[4]}),
    )
    check_env(env, skip_render_check=True)


def test_each_arm_does_its_own_part():
    """Guards against crossed arms: motions, grippers, observations and what is recorded."""
    two = Two()
    env = started(two)
    before = two.left.state().pose[0], two.right.state().pose[1]
    action = STAY.copy()
    action[0], action[7], action[13] = 1.0, 1.0, -1.0  # left x, right y, right gripper closes
    for _ in range(5):
        obs, _, _, _, info = env.step(action)
    assert two.left.state().pose[0] > before[0] + 0.02 and two.right.state().pose[1] < before[1] - 0.02  # hand down
    assert info["gripper"].tolist() == [1.0, 0.0] and two.right.state().gripper < 0.5 < two.left.state().gripper
    left, right, objects = (obs["state"][part] for part in state_layout(PAIR, "state").values())
    assert left[0] > 0.02 and abs(right[0]) < 1e-3 and right[1] > 0.02 and (left[-1], right[-1]) == (1.0, 0.0)
    assert objects[2] == 7.0 and objects[0] == pytest.approx(two.left.state().pose[0])
    assert info["target"].shape == (14,) and info["target"][7:10] == pytest.approx(two.right.state().pose[:3], abs=0.06)


def test_pictures_carry_the_name_of_their_arm():
    """Guards a pixel policy against the other arm's camera."""
    two = Two(("front",))
    env = started(two, obs="pixels")
    assert env.reset(seed=0)[0] in env.observation_space


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [(7, np.nan, r"action\[7\] \(right y\)"), (12, 2.0, r"action\[12\] \(left gripper\)")],
)
def test_an_action_that_cannot_be_meant_names_the_arm_and_moves_neither(index, value, message):
    """Guards both arms against a diverged policy."""
    two = Two()
    env = started(two)
    action = STAY.copy()
    action[index] = value
    with pytest.raises(ValueError, match=message):
        env.step(action)
    assert [robot.status().commands for robot in (two.left, two.right)] == [0, 0]


def test_halves_that_do_not_fit_are_refused():
    """Guards the first minute of a new task."""
    with pytest.raises(ConfigError, match="control_hz"):
        replace(PAIR, right=replace(HALF, control_hz=20.0))
    with pytest.raises(ConfigError, match="max_skew"):
        replace(PAIR, max_skew=0.2)
    with pytest.raises(ConfigError, match="one of 2 arms"):
        build_env(PAIR, Two().left, obs="pixels", clock=LockstepClock(0.1, lambda seconds: None))


# ── one instant ──


def test_both_are_commanded_before_time_passes_and_seen_after_it():
    """Guards against an arm that is always a step behind the other."""
    two, seen = Two(), []

    def advance(seconds):
        seen.append([robot.status().commands for robot in (two.left, two.right)])
        two.advance(seconds)

    env = two.env(clock=LockstepClock(0.1, advance))
    env.reset(seed=0)
    env.step(STAY)
    *_, info = env.step(STAY)
    assert seen[-2:] == [[1, 1], [2, 2]]
    assert info["states"][0].time == info["states"][1].time and info["skew"] == 0.0


def test_states_that_lie_too_far_apart_end_the_episode():
    """Guards against a policy that sees one arm's past: a slow server, or two simulations that share no clock."""
    two = Two()
    env = started(two)
    two.left.advance(0.01)
    *_, truncated, info = env.step(STAY)
    assert not truncated and info["skew"] == pytest.approx(0.01)
    two.left.advance(0.02)
    *_, terminated, truncated, info = env.step(STAY)
    assert truncated and not terminated and "30.0 ms apart" in info["abort"]
    assert two.modes == ["holding", "holding"]


def test_servers_clocks_are_compared_on_one_clock():
    """Guards two robot computers whose clocks began at different times."""
    two = Two()
    two.right.advance(5.0)
    env = two.env(local=(same_clock, lambda seconds: seconds - 5.0))
    env.reset(seed=0)
    assert abs(env.step(STAY)[4]["skew"]) < 1e-9
    with pytest.raises(RobotError, match="ms apart"):
        two.env().reset(seed=0)


# ── one end ──


def test_a_refusal_by_one_arm_truncates_and_holds_both():
    """Guards the other arm: it must not go on alone with what it holds."""
    two = Two()
    env = started(two, ask=lambda question: two.right.recover())
    two.right.hold("a person says so")
    _, reward, terminated, truncated, info = env.step(STAY)
    assert (reward, terminated, truncated) == (0.0, False, True) and "right arm: held" in info["abort"]
    assert two.modes == ["holding", "holding"]
    env.reset(seed=1)
    assert "abort" not in env.step(STAY)[4]


@pytest.mark.parametrize("which", [0, 1])
def test_stop_of_one_stops_both_and_the_next_episode_waits_for_a_person(which):
    """Guards whoever pressed STOP: with two servers nobody but the environment knows of both arms."""
    two, questions = Two(), []
    robots = two.left, two.right

    def ask(question: str) -> None:
        questions.append(question)
        assert two.modes == ["stopped", "stopped"]
        for robot in robots:
            robot.recover()

    env = two.env(ask=ask)
    env.reset(seed=0)
    robots[which].stop("a hand is in the way")
    *_, truncated, info = env.step(STAY)
    assert truncated and "a hand is in the way" in info["abort"] and two.modes == ["stopped", "stopped"]
    env.reset(seed=1)
    assert len(questions) == 1 and "left arm" in questions[0] and "right arm" in questions[0]
    assert "abort" not in env.step(STAY)[4]


def test_stop_during_a_reset_stops_both_and_the_reset_begins_again():
    """Guards the long motions between two episodes."""
    two, ticks, questions = Two(), [], []

    def advance(seconds):
        ticks.append(seconds)
        if len(ticks) == 2:
            two.right.stop("watch out")
        two.advance(seconds)

    def ask(question: str) -> None:
        questions.append((question, two.modes))
        two.left.recover()
        two.right.recover()

    env = two.env(clock=LockstepClock(0.1, advance), ask=ask)
    env.reset(seed=0)
    assert len(questions) == 1 and questions[0][1] == ["stopped", "stopped"] and "watch out" in questions[0][0]
    assert "abort" not in env.step(STAY)[4]


def test_an_arm_that_is_somebody_elses_is_left_alone():
    """Guards the next program: a hold is open to everyone, and would stop it. Ours is held."""

    def lost(command):
        raise NotOwner("the robot is in the hands of host:7")

    two = Two()
    env = started(two)
    two.right.command = lost
    *_, truncated, info = env.step(STAY)
    assert truncated and "right arm: the robot is in the hands of host:7" in info["abort"]
    assert two.modes == ["holding", "idle"]


def test_a_reset_that_one_arm_refuses_ends_the_others():
    """Guards against an arm that drives on in a reset that nobody waits for."""
    two = Two()
    task = replace(PAIR, right=replace(HALF, start=replace(HALF.start, pose=(0.9, 0.0, 0.4, *HALF.start.pose[3:]))))
    with pytest.raises(RobotError, match="MoveTo"):
        two.env(task).reset(seed=0)
    assert two.modes[0] == "holding"


# ── a person with two hands ──


def test_two_devices_are_one_takeover():
    """Guards the takeover path: either hand takes over both arms, and with a lost device both stand still."""
    two = Two()
    left = Hand([push(0.0), push(1.0, buttons=(True, False)), push(0.0), push(0.0)])
    right = Hand([push(0.0), push(0.0), push(0.0, -1.0), push(0.0, connected=False)])
    truth = {"left": {"number": 7.0}}
    env = build_env(
        PAIR,
        two.left,
        two.right,
        obs="state",
        clock=LockstepClock(0.1, two.advance),
        truth=lambda: truth,
        device=PairDevice(left, right),
        takeover=TakeoverConfig(ease=0),
    )
    env.reset(seed=0)
    policy = np.full(14, 0.1, np.float32)
    infos = [env.step(policy)[4] for _ in range(4)]
    assert [info["who"] for info in infos] == ["policy", "operator", "operator", "nobody"]
    assert infos[1]["executed"][0] == 1.0 and infos[1]["executed"][12] == -1.0
    assert np.count_nonzero(infos[1]["executed"]) == 2  # the right hand rests, and so does the right arm
    assert infos[2]["executed"][7] == -1.0 and np.count_nonzero(infos[2]["executed"]) == 1
    assert infos[3]["device"] == "disconnected" and (left.resets, right.resets) == (1, 1)
    assert [info["grasp_penalty"] for info in infos] == [0.0, -0.02, 0.0, 0.0]


def test_both_hands_pay_for_their_own_toggles():
    """Guards the gripper critic: the penalty is each arm's own, and their sum where both toggle."""
    two = Two()
    truth = {"left": {"number": 7.0}}
    clock = LockstepClock(0.1, two.advance)
    env = build_env(PAIR, two.left, two.right, obs="state", clock=clock, truth=lambda: truth)
    env.reset(seed=0)
    costs = []
    for commands in [(0, 0), (0, -1), (0, -1), (-1, 1), (1, 0)]:
        costs.append(env.step(np.array([0.0] * 12 + list(commands), np.float32))[4]["grasp_penalty"])
    assert costs == pytest.approx([0.0, -0.05, 0.0, -0.07, -0.02])


def test_the_reading_of_two_hands_is_the_action_of_two_arms():
    """Guards the order of entries between devices and arms."""
    reading = PairDevice(Hand([push(0.1, 0.2)]), Hand([push(0.3, buttons=(False, True, True))])).read()
    action = device_action(PAIR, reading)
    assert action[[0, 1, 6, 12, 13]] == pytest.approx([0.1, 0.2, 0.3, 0.0, 1.0])


def test_one_late_answer_does_not_cost_the_episode():
    """Guards episodes in real time: a computer is busy now and then; the newest states are asked for again."""
    two = Two()
    env = started(two)
    state, calls = two.right.state, []

    def late():
        calls.append(1)
        return replace(state(), time=state().time - (1.0 if len(calls) == 1 else 0.0))

    two.right.state = late
    *_, truncated, info = env.step(STAY)
    assert not truncated and info["skew"] == 0.0 and len(calls) == 2
