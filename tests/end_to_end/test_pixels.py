"""The pixel actor with the privileged channel closed."""

from __future__ import annotations

import numpy as np
import pytest
from observed import episodes

from serl_core.envs.robot_env import PROPRIOCEPTION

STEPS = 60
CAMERAS = ("front", "wrist")


pytestmark = pytest.mark.usefixtures("rendering")


def test_from_pixels_nothing_privileged_is_needed_or_seen(start, tmp_path):
    """Guards against a policy that learns from what no camera sees, and against pictures that stand still."""
    run_dir = tmp_path / "run"
    server = start("server", "mujoco", "--port", 0, "--clock", "lockstep", "--cameras", *CAMERAS)
    (robot,) = server.ready(60.0)  # one address: there is no channel for the ground truth
    common = ("--run-dir", run_dir, "--obs", "pixels", "--env-steps", STEPS)
    learner = start("learner", *common, "--address", "tcp://127.0.0.1:*", "--lockstep")
    (address,) = learner.ready(60.0)
    actor = start("actor", *common, "--robot", robot, "--learner", address, "--operator", "none")
    actor.wait(240.0)
    learner.wait(240.0)

    ((first, steps),) = episodes(run_dir)
    assert len(steps) == STEPS
    assert all(step.who == "policy" and step.policy_version > 0 for step in steps)
    observations = [first.obs, *(step.next_obs for step in steps)]
    for obs in observations:
        assert set(obs) == {"state", *CAMERAS}
        assert obs["state"].shape == (PROPRIOCEPTION + 1,)  # and the gripper's command
        assert all((obs[name].shape, obs[name].dtype) == ((128, 128, 3), np.uint8) for name in CAMERAS)
    for name in CAMERAS:
        assert len({obs[name].tobytes() for obs in observations}) > STEPS // 2
