from dataclasses import dataclass

import numpy as np
import pytest
from env_parts import REACH, Arm

from serl_core.config import ConfigError
from serl_core.envs.build import build_env
from serl_core.envs.rewards import OracleJudge
from serl_core.envs.takeover import device_action
from serl_core.teleop.scripted import OperatorConfig, ScriptedOperator, Supervisor

CONFIG = OperatorConfig()
STEP = 0.02  # m


def operator(arm: Arm, **options) -> ScriptedOperator:
    return ScriptedOperator(REACH, arm.robot.state, arm.truth, OperatorConfig(**options), np.random.default_rng(0))


@dataclass
class Outcome:
    successes: int = 0
    steps: int = 0
    operator_steps: int = 0


def play(policy, episodes: int = 4, **options) -> Outcome:
    """Episodes of a policy (called with the arm) under the watch of an operator with these options."""
    arm, outcome = Arm(), Outcome()
    judge = OracleJudge(arm.truth)
    device = operator(arm, **options)
    env = build_env(REACH, arm.robot, obs="state", clock=arm.clock(), truth=arm.truth, judge=judge, device=device)
    act = policy(arm)
    for seed in range(episodes):
        env.reset(seed=seed)
        ended = False
        while not ended:
            _, _, terminated, truncated, info = env.step(act())
            ended = terminated or truncated
            outcome.steps += 1
            outcome.operator_steps += info["who"] == "operator"
        outcome.successes += info["success"]
    return outcome


def expert(arm: Arm):
    hand = operator(arm, mode="always", reaction=0)
    return lambda: device_action(REACH, hand.read())


def idle(arm: Arm):
    return lambda: np.zeros(4, np.float32)


def runaway(arm: Arm):
    return lambda: np.array([-1, 1, -1, 0], np.float32)


# ── help where it is needed, and only there ──


def test_it_demonstrates_alone():
    """Guards the recording of demonstrations: every step is the operator's and every episode succeeds."""
    outcome = play(idle, mode="always")
    assert outcome.successes == 4 and outcome.operator_steps == outcome.steps


def test_it_leaves_a_good_policy_alone():
    """Guards tapering as an outcome: a policy that is as good as the expert needs no help at all."""
    outcome = play(expert)
    assert outcome.successes == 4 and outcome.operator_steps == 0


@pytest.mark.parametrize("policy", [idle, runaway])
def test_it_helps_a_bad_policy_to_succeed(policy):
    """Guards learning from corrections: stalling and drifting policies are corrected in time."""
    outcome = play(policy)
    assert outcome.successes == 4 and 0 < outcome.operator_steps < outcome.steps


def test_it_never_helps_when_told_so():
    """Guards evaluations without help."""
    outcome = play(idle, mode="never")
    assert outcome.successes == 0 and outcome.operator_steps == 0


def test_less_skill_means_more_mistakes():
    """Guards the knob: an operator who misjudges everything is worse than a perfect one."""
    assert play(idle, mode="always", skill=0.0).steps > play(idle, mode="always").steps


# ── what it does, in detail ──


def test_its_hand_follows_its_eyes_after_the_reaction_time():
    """Guards the delay that a person has and that the policy must not learn to rely on."""
    arm = Arm()
    arm.driver.place_objects(0)
    hand = operator(arm, mode="always", noise=0.0, reaction=3)
    first = hand.read().twist
    arm.driver._object[:3] = arm.robot.state().pose[:3]  # the goal jumps to where the TCP is
    twists = [hand.read().twist for _ in range(4)]
    for twist in twists[:3]:
        np.testing.assert_array_equal(twist[0:2], first[0:2])
    assert np.linalg.norm(first) > 0.1 and np.linalg.norm(twists[3]) < 0.1


def test_it_stays_within_the_reach_of_a_device():
    """Guards the device's contract: twists in [−1, 1], nothing on axes that the task does not use."""
    hand = operator(Arm(), mode="always", noise=0.5, speed=1.0)
    twists = np.array([hand.read().twist for _ in range(200)])
    assert np.abs(twists).max() <= 1.0 and not twists[:, 3:].any()


def test_it_needs_a_sensible_character():
    """Guards against percentages where fractions are meant."""
    with pytest.raises(ConfigError, match="skill"):
        OperatorConfig(skill=80)


# ── when it steps in ──


def watch(distances, max_steps: int = 1000) -> list[str]:
    supervisor, reasons = Supervisor(CONFIG, max_steps, STEP), []
    for distance in distances:
        supervisor.watch(distance)
        reasons.append(supervisor.reason)
    return reasons


def test_steady_progress_is_left_alone():
    """Guards the policy's freedom to be slow, as long as it gets on."""
    assert not any(watch(np.linspace(0.4, 0.0, 400)))


def test_a_stall_is_noticed_after_its_time():
    """Guards the first rule."""
    reasons = watch([0.3] * 20)
    assert reasons.index("stall") == CONFIG.stall_steps


def test_a_drift_is_noticed_at_its_distance():
    """Guards the second rule: measured from the nearest the policy has been."""
    distances = [0.3, 0.2, *np.arange(0.2, 0.3, 0.01)]
    reasons = watch(distances)
    assert distances[reasons.index("drift")] == pytest.approx(0.2 + CONFIG.drift + 0.01, abs=0.011)


def test_out_of_time_it_drives_to_the_end():
    """Guards the third rule: no release, however good things look."""
    reasons = watch([0.3 - 0.002 * step for step in range(100)], max_steps=100)
    begun = reasons.index("time")
    assert set(reasons[begun:]) == {"time"}


def test_it_lets_go_once_things_are_good_and_then_judges_afresh():
    """Guards the end of a correction: long enough, far enough, and with a clean slate for the policy."""
    distances = [0.3] * 16 + [0.3 - 0.005 * step for step in range(1, 20)] + [0.205] * 16
    reasons = watch(distances)
    released = reasons.index("", CONFIG.stall_steps)
    assert distances[CONFIG.stall_steps] - distances[released] >= CONFIG.drive_progress - 1e-9
    assert released - CONFIG.stall_steps >= CONFIG.drive_steps
    assert not any(reasons[released : released + CONFIG.stall_steps - 1])
