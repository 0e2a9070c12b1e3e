import jax
import numpy as np
import pytest

from serl_core.agents.policy import params_to_tree
from serl_core.agents.reference import Reference
from serl_core.agents.sac import SAC, SACConfig, make_policy

EXAMPLE = {"state": np.zeros(3, np.float32)}
OBS = {"state": np.array([0.3, -0.7, 0.1], np.float32)}


def trained(grasp: int):
    """An untrained agent's networks, its own action, and the reference made of them."""
    config = SACConfig(critics=3, hidden=(16,), grasp=grasp)
    agent = SAC(config, EXAMPLE, 2 + grasp)
    state = agent.init(jax.random.key(1))
    params = agent.averaged_policy(state)
    act = make_policy(config, EXAMPLE, 2 + grasp)(params, OBS, jax.random.key(0), False)
    critics = jax.tree.map(np.asarray, state.target["arm"])
    return act, Reference(config, EXAMPLE, 2 + grasp, params_to_tree(params), critics)


@pytest.mark.parametrize("grasp", [0, 1])
def test_its_own_action_has_no_gap(grasp):
    """Guards the yardstick: whoever acts like the reference is never taken over by the value gap."""
    own, reference = trained(grasp)
    ours, theirs = reference.values(OBS, own)
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_another_action_has_another_value_and_leaves_the_references_alone():
    """Guards against a value that does not depend on the action, or compares two different states."""
    own, reference = trained(0)
    (_, before), (ours, theirs) = reference.values(OBS, own), reference.values(OBS, np.ones(2, np.float32))
    assert ours != pytest.approx(theirs, abs=1e-4) and theirs == pytest.approx(before, abs=1e-6)


def test_a_wrong_grip_costs_its_advantage():
    """Guards tasks with a gripper: the arm's critics alone never see its action."""
    own, reference = trained(1)
    gaps = []
    for command in (-1.0, 0.0, 1.0):
        ours, theirs = reference.values(OBS, np.array([own[0], own[1], command], np.float32))
        gaps.append(theirs - ours)
    assert min(gaps) == pytest.approx(0.0, abs=1e-6) and max(gaps) > 1e-4
    assert gaps.index(min(gaps)) - 1 == own[2]
