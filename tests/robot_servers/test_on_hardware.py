"""On a real arm: ``SERL_ROBOT=tcp://ROBOT:5555 pytest -m robot tests/robot_servers/test_on_hardware.py``.

Deselected unless asked for. The arm moves by at most 5 mm and 2°: empty its gripper, keep its stop in reach.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from robot_servers.client import RobotClient
from robot_servers.conformance.bench import Bench
from robot_servers.conformance.suite import CHECKS, run
from robot_servers.conformance.verdict import holds

pytestmark = pytest.mark.robot


@pytest.fixture
def address() -> str:
    """Whoever runs this says which arm; guessing one would move somebody else's."""
    return os.environ["SERL_ROBOT"]


def test_the_robots_server_keeps_what_the_protocol_promises(address: str) -> None:
    """Guards a lab's arm, gripper and cameras after every change of driver, firmware or cabling."""
    with Bench(address) as bench:
        results = run(bench, CHECKS, tell=print)
    assert holds(results), [result for result in results if result.result == "fail"]


def test_an_arm_at_rest_measures_rest(address: str) -> None:
    """Guards the tool file: a wrong mass or centre shows as a force in free space, a wrong TCP as a moving pose."""
    with RobotClient(address) as robot:
        states = [robot.state() for _ in range(100)]
    forces = np.array([state.force for state in states])
    positions = np.array([state.pose[:3] for state in states])
    assert np.linalg.norm(forces.mean(axis=0)) < 3.0, "N: compare the tool's mass and centre with Desk or PolyScope"
    assert np.ptp(positions, axis=0).max() < 1e-3, "m: is somebody pushing, or the controller ringing?"
