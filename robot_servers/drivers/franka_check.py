"""What a Franka arm reports of itself, compared with what we were told: for its preflight and before it moves."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from robot_servers.drivers.franka_arm import fault, pose_of
from robot_servers.geometry import quat_angle
from robot_servers.interface import Array, Check, RobotError, Tool

if TYPE_CHECKING:
    import franky

NO_END_EFFECTOR = 0.01  # kg; Desk's "none"
MASS = 0.05  # kg that the two may differ by: 0.5 N of drift
CENTRE = 0.02  # m
INERTIA = 0.005  # kg·m²
PLACE, TURN = 0.001, 0.01  # m and rad of a TCP


def load_to_add(raw: franky.RobotState, tool: Tool) -> Tool:
    """The load that makes the arm carry ``tool``: all of it if Desk knows of no end effector, else nothing.

    Raises `RobotError` if Desk has an end effector of another mass: then the arm would drift under its weight.
    """
    if raw.m_ee < NO_END_EFFECTOR:
        return tool
    if abs(raw.m_ee - tool.mass) > MASS:
        raise RobotError(
            f"Desk has an end effector of {raw.m_ee:.2f} kg, our tool weighs {tool.mass:.2f} kg: correct the one "
            "that is wrong (Desk, Settings, End effector; or the tool file)"
        )
    return Tool()


def checks(raw: franky.RobotState, tool: Tool, host: str) -> tuple[Check, ...]:
    """One line each for connection, mode and tool."""
    trouble = fault(raw.robot_mode.name, str(raw.current_errors), "")
    known = raw.m_ee >= NO_END_EFFECTOR
    return (
        Check("connection", True, f"{host} speaks the FCI of franky-control {version('franky-control')}"),
        Check("mode", not trouble.fault, trouble.text or f"{raw.robot_mode.name}, no errors"),
        _tcp(raw, tool),
        _mass(raw, tool),
        _close("centre of mass", raw.F_x_Cee, np.array(tool.centre), CENTRE, "m", known),
        _close("inertia", raw.I_ee.ravel(), np.array(tool.inertia), INERTIA, "kg·m²", known),
        Check("self-test", True, "an FR3 wants one every 24 h and stops without: see Desk before a long run"),
    )


def _tcp(raw: franky.RobotState, tool: Tool) -> Check:
    """Never a failure: to connect makes the arm's TCP ours."""
    theirs, ours = pose_of(raw.F_T_EE), np.array(tool.tcp)
    apart = float(np.linalg.norm(theirs[:3] - ours[:3]))
    if apart <= PLACE and quat_angle(theirs[3:], ours[3:]) <= TURN:
        return Check("TCP", True, f"{_numbers(ours[:3])} m from the flange")
    return Check("TCP", True, f"the arm's is {apart * 1000:.0f} mm from ours, or turned; connecting sets ours")


def _mass(raw: franky.RobotState, tool: Tool) -> Check:
    try:
        load = load_to_add(raw, tool)
    except RobotError as error:
        return Check("mass", False, str(error))
    source = "set on connecting: Desk has no end effector" if load.mass else f"Desk: {raw.m_ee:.2f} kg"
    return Check("mass", True, f"{tool.mass:.2f} kg ({source})")


def _close(name: str, theirs: Array, ours: Array, within: float, unit: str, known: bool) -> Check:
    if not known:
        return Check(name, True, "set on connecting: Desk has no end effector")
    off = float(np.abs(theirs - ours).max())
    text = f"Desk {_numbers(theirs)}, ours {_numbers(ours)} {unit}"
    return Check(name, off <= within, text if off <= within else f"{text}: correct the one that is wrong")


def _numbers(values: Array) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
