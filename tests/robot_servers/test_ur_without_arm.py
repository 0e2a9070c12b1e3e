"""What the UR driver says without an arm: absent, silent, unknown, or its library missing."""

from __future__ import annotations

import socket
import sys
import time

import numpy as np
import pytest

from robot_servers.__main__ import make_driver
from robot_servers.drivers.ur import HOME_Q, UrDriver
from robot_servers.drivers.ur_kinematics import ARMS
from robot_servers.drivers.ur_worker import Rtde
from robot_servers.interface import Limits, RobotError, Tool
from robot_servers.real import UR_MODELS, Real

TCP = (0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 1.0)
TOOL = Tool(tcp=TCP)
DOWN = tuple(ARMS["ur5e"].tcp(np.array(HOME_Q), np.array(TCP))[3:].tolist())
LIMITS = Limits((-0.8, -0.5, 0.1), (-0.2, 0.3, 0.8), DOWN, tilt=1.0, force=60.0)


def test_absent_robot_is_an_error_within_seconds():
    """An arm that is switched off must not look like a server that hangs."""
    begun = time.monotonic()
    driver = UrDriver("127.0.88.254", LIMITS, tool=TOOL)
    with pytest.raises(RobotError, match="is it switched on"):
        driver.connect()
    assert time.monotonic() - begun < 5.0
    assert [check.ok for check in driver.preflight()] == [False]


def test_silent_peer_is_an_error_within_seconds():
    """ur_rtde would wait for it with the interpreter lock in its hand, and the whole process with it."""
    with socket.create_server(("127.0.88.253", 30004)), pytest.raises(RobotError, match="no UR answers"):
        UrDriver("127.0.88.253", LIMITS).connect()


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    """ModuleNotFoundError: rtde_receive: nobody knows which package that is."""
    monkeypatch.setitem(sys.modules, "rtde_receive", None)
    with pytest.raises(RobotError, match="install the extra ur"):
        Rtde("127.0.0.1", 125.0).open()


def test_unknown_model_is_refused_with_the_nearest():
    """A UR5 driven with the lengths of a UR5e is some millimetres wrong everywhere."""
    with pytest.raises(RobotError, match='did you mean "ur5'):
        UrDriver("127.0.0.1", LIMITS, model="ur5-e")


def test_served_by_name_only_with_what_people_know():
    """A default box or tool would be wrong on every table but one."""
    assert set(UR_MODELS) == set(ARMS)
    real = Real("127.0.0.1", "robotiq-urcap", "none", LIMITS)
    driver = make_driver("ur10e", limits=LIMITS, real=real)
    assert driver.cycle_hz == 500.0 and driver.limits == LIMITS
    for blank in (Real("127.0.0.1", tool="none"), Real("127.0.0.1")):
        with pytest.raises(RobotError, match="--limits"):
            make_driver("ur5e", limits=blank.limits, real=blank)
