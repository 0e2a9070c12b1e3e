"""What a UR says of itself, judged: its modes, its software, its tool, its clock."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from robot_servers.drivers.ur_kinematics import UrArm
from robot_servers.drivers.ur_link import Sample
from robot_servers.geometry import delta_between, pose_inv, pose_mul, rotvec_to_quat
from robot_servers.interface import Array, Check, FaultKind, Health, Tool

CLOCK_LEAK = 1e-4  # s/s by which two clocks may drift apart
SAME_MASS, SAME_CENTRE = 0.1, 0.02  # kg, m
SAME_TCP, SAME_TURN = 0.005, 0.02  # m, rad: nominal kinematics differ from the calibrated ones
OLDEST = {3: 15, 5: 11}  # major version of PolyScope → oldest minor one
RUNNING = 7  # robot mode, RTDE guide
ROBOT_MODES = {-1: "no controller", 3: "powered off", 4: "powering on", 5: "idle, brakes locked", 6: "backdrive"}
PERSON = "look at the arm and release the button or device, then power it on and release the brakes at the pendant"
SAFETY: dict[int, tuple[FaultKind, str]] = {  # safety mode, RTDE guide → what is wrong and what to do
    3: ("protective", "protective stop: look for its cause, then recover"),
    4: ("other", "a joint is past its safety limits: move it back with the pendant's recovery mode"),
    5: ("user-stop", f"safeguard stop: {PERSON}"),
    6: ("user-stop", f"emergency stop of the system: {PERSON}"),
    7: ("user-stop", f"emergency stop of the robot: {PERSON}"),
    8: ("other", "safety violation: read the pendant's log, then restart the safety system there"),
    9: ("other", "safety fault: read the pendant's log, then restart the safety system there"),
    12: ("user-stop", f"safeguard stop of the automatic mode: {PERSON}"),
    13: ("user-stop", f"three-position enabling stop: {PERSON}"),
}


class RobotClock:
    """The robot's timestamps on our clock: the least delay seen so far counts as none, but is forgotten slowly."""

    def __init__(self) -> None:
        self._offset = float("inf")
        self._last = (0.0, 0.0)  # stamp and its time

    def time(self, stamp: float, now: float) -> float:
        """When the package with this ``stamp`` (s, robot's clock), which came ``now``, was measured (s, our clock).

        Strictly increasing from package to package; the same for the same one.
        """
        before, then = self._last
        if stamp < before:  # the controller was restarted
            self._offset = float("inf")
        if stamp != before:
            self._offset = min(self._offset + CLOCK_LEAK * max(0.0, stamp - before), now - stamp)
            self._last = (stamp, max(stamp + self._offset, then + 1e-6))
        return self._last[1]


def safety(sample: Sample) -> Health:
    """What keeps the arm from moving: its safety system, or that it is not switched on. No fault: it could move."""
    if sample.safety_mode in SAFETY:
        return Health(*SAFETY[sample.safety_mode])
    if sample.robot_mode != RUNNING:
        return Health("other", f"the arm is not running but {mode(sample)}: {PERSON}")
    return Health()


def mode(sample: Sample) -> str:
    """The robot's mode in words."""
    return ROBOT_MODES.get(sample.robot_mode, f"in mode {sample.robot_mode}")


def tcp_pose(sample: Sample) -> Array:
    """The measured pose (7,) of the TCP, as everywhere else."""
    return np.concatenate([sample.pose[:3], rotvec_to_quat(sample.pose[3:])])


def checks(sample: Sample, arm: UrArm, tool: Tool, ask: Callable[[str], str]) -> tuple[Check, ...]:
    """The preflight of an arm that sends measurements. ``ask`` is its dashboard; raises what that raises."""
    fault = safety(sample)
    return (
        *_software(ask),
        Check("safety and power", not fault.fault, fault.text or "running, no stop"),
        _payload(sample, tool),
        _tcp(sample, arm, tool),
    )


def _software(ask: Callable[[str], str]) -> tuple[Check, ...]:
    text = ask("PolyscopeVersion")
    found = re.search(r"(\d+)\.(\d+)", text)
    major, minor = (int(found[1]), int(found[2])) if found else (0, 0)
    recent = major in OLDEST and minor >= OLDEST[major]
    version = Check("software", recent, f'"{text}"; needed: PolyScope 3.15 or 5.11, or newer of these two series')
    if major != 5:  # the CB series has no remote control to switch on
        return (version,)
    remote = ask("is in remote control") == "true"
    text = "on" if remote else "it is off: switch it on at the pendant, or no program can be sent"
    return version, Check("remote control", remote, f"remote control: {text}")


def _payload(sample: Sample, tool: Tool) -> Check:
    mass = abs(sample.payload - tool.mass)
    centre = float(np.abs(sample.centre - tool.centre).max())
    text = f"payload at the robot {sample.payload:.2f} kg at {np.round(sample.centre, 3).tolist()} m"
    if mass <= SAME_MASS and centre <= SAME_CENTRE:
        return Check("payload", True, text)
    here = f"configured here {tool.mass:.2f} kg at {list(tool.centre)} m"
    return Check("payload", False, f"{text}, {here}: make both the same, or force mode drifts")


def _tcp(sample: Sample, arm: UrArm, tool: Tool) -> Check:
    """The TCP that the robot uses follows from its pose and joints; this finds a wrong model too."""
    flange_to_tcp = pose_mul(pose_inv(arm.flange(sample.q)), tcp_pose(sample))
    off = delta_between(np.array(tool.tcp), flange_to_tcp)
    text = f"flange to TCP at the robot {np.round(flange_to_tcp, 4).tolist()}"
    if np.linalg.norm(off[:3]) <= SAME_TCP and np.linalg.norm(off[3:]) <= SAME_TURN:
        return Check("TCP", True, text)
    return Check("TCP", False, f"{text}, configured here {list(tool.tcp)}: make both the same, and check the model")
