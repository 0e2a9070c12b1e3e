"""A Universal Robots arm, CB series or e-Series, as a clipped Cartesian spring.

Each period of the arm's RTDE interface the law of `ur_law` gives a wrench, and the arm's force mode
exerts it: pressing is bounded by stiffness times clip, and the speed by the limits handed to force
mode. Stiff position control (servol) is only for motions that touch nothing, and only if asked for.
The robot's own watchdog ends the program when this process dies or hangs.

The arm must be in remote control (e-Series), switched on, with payload and TCP set at the pendant as
in `Tool`: a wrong payload makes force mode drift. The force sensor is zeroed on connect and at the end
of each joint reset, so nothing may be touched or held there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from robot_servers.drivers.ur_checks import SAFETY, checks, safety, tcp_pose
from robot_servers.drivers.ur_kinematics import ARMS, UrArm
from robot_servers.drivers.ur_law import WrenchLaw
from robot_servers.drivers.ur_link import LinkLost, RtdeLink, Sample, UrLink
from robot_servers.drivers.ur_listener import Listener
from robot_servers.drivers.ur_worker import WATCHDOG_HZ
from robot_servers.geometry import quat_conj, quat_rotate, quat_to_rotvec
from robot_servers.grippers.none import NoGripper
from robot_servers.interface import (
    Array,
    Check,
    ClockMode,
    Compliance,
    Enforcer,
    Frame,
    Gripper,
    Health,
    Limits,
    RobotError,
    RobotState,
    Tool,
    nearest,
)

HOME_Q = (0.0, -1.5708, 1.5708, -1.5708, -1.5708, 0.0)  # upright, elbow bent, the tool pointing down
AT_HOME = 0.01  # rad, and rad/s
SILENT = 3  # periods without a new package after which a cycle waits for one
UNLOCK_TIME = 5.0  # s that a protective stop must last before it can be unlocked (dashboard server manual)
CONTACT = 20.0  # N at which servol stops: it would push on with all its strength
Doing = Literal["off", "track", "joints", "guide"]


class UrDriver:
    """Satisfies `Driver`, in real time only. ``limits`` has no default: nobody else knows the table.

    ``limits.force``, ``torque``, ``speed`` and ``turn_speed`` also bound what is asked of force mode. ``free_space``
    tracks by servol instead, which stops with a fault at the first contact. ``tool`` must be what the pendant says.
    After ``silence`` s without a measurement the connection counts as broken.
    Raises `RobotError` for an unknown model; `connect` raises it, within 5 s, where no arm is ready.
    """

    name = "ur"
    scene = ""
    clock: ClockMode = "realtime"
    cameras: Mapping[str, tuple[int, int]] = {}
    limits_enforced: Enforcer = "server"

    def __init__(
        self,
        host: str,
        limits: Limits,
        *,
        model: str = "ur5e",
        home_q: tuple[float, ...] = HOME_Q,
        tool: Tool | None = None,
        gripper: Gripper | None = None,
        free_space: bool = False,
        silence: float = 0.1,
        link: UrLink | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if model not in ARMS:
            raise RobotError(f'unknown UR "{model}"{nearest(model, ARMS)}')
        self._arm: UrArm = ARMS[model]
        self.limits = limits
        self.home_q = home_q
        self.tool = tool or Tool()
        self.joint_limits = self._arm.joint_limits
        self.cycle_hz = self._arm.rate
        self._flange_to_tcp = np.array(self.tool.tcp)
        self.home_pose = tuple(self._arm.tcp(np.array(home_q), self._flange_to_tcp).tolist())
        self._gripper: Gripper = gripper or NoGripper()
        self._free_space = free_space
        self._link: UrLink = link or RtdeLink(host, self._arm.rate)
        self._host = host
        self._now = now
        self._silence = silence
        self._ears = Listener(self._link, 1.0 / self.cycle_hz, silence, now, sleep)
        self._law = WrenchLaw(1.0 / self.cycle_hz, limits.force, limits.torque)
        self._speeds = np.repeat((limits.speed, limits.turn_speed), 3)
        self._quat = np.array((0.0, 0.0, 0.0, 1.0))  # of the last state, whose sign the next one keeps
        self._acted = 0.0  # when the arm was last commanded
        self._gap = 0.0  # s, the longest time between two commands since the law began
        self._doing: Doing = "off"
        self._stopped = threading.Event()  # since `stop`, until `recover`
        self._asked: float | None = None  # of the gripper
        self._fault = Health()  # until `recover`
        self._halting: threading.Thread | None = None

    # ── life ──

    def connect(self) -> None:
        self._open()
        failed = [check.text for check in self._checks() if not check.ok]
        if failed:
            raise RobotError(f"the UR at {self._host} is not ready: {'; '.join(failed)}")
        self._gripper.connect()
        self._start(zero=True)

    def close(self) -> None:
        self._doing = "off"
        self._ears.forget()
        self._link.close()
        self._gripper.close()

    def stop(self) -> None:
        self._stopped.set()
        self._link.halt()
        self._gripper.stop()

    def recover(self) -> None:
        self._stopped.clear()
        if self._halting is not None:
            self._halting.join()
        lost = not self._ears.listen() and self._ears.deaf()
        if lost or self._fault.fault == "communication":  # ur_rtde itself rarely survives a silence
            self._link.close()
            self._open()
        self._ears.wait(lambda sample: True, "sends no measurements")  # a fresh one
        self._clear(self._ears.sample)
        self._start(zero=False)  # it may be pressing on something, which must not count as no force
        if self._stopped.is_set():
            raise RobotError("the arm was stopped while it recovered: recover again when that is safe")

    def _open(self) -> None:
        self._link.open()
        self._ears.wait(lambda sample: sample.timestamp > 0.0, "sends no measurements")

    def _clear(self, sample: Sample) -> None:
        """Unlock a protective stop. Raises `RobotError` for all that a person must clear at the arm."""
        if safety(sample).fault == "protective":
            rest = UNLOCK_TIME - self._ears.protected()
            if rest > 0.0:
                raise RobotError(f"protective stop: look for its cause; it can be unlocked in {rest:.0f} s")
            self._link.ask("close safety popup")
            answer = self._link.ask("unlock protective stop")
            self._ears.wait(lambda sample: sample.safety_mode not in SAFETY, f"stays locked ({answer})")
        if safety(self._ears.sample).fault:
            raise RobotError(safety(self._ears.sample).text)

    def _start(self, zero: bool) -> None:
        self._link.start()
        self._ears.wait(lambda sample: sample.running, "does not run the control program")
        if zero:
            self._link.zero_wrench()
        self._fault = Health()
        self._begin()

    def _begin(self) -> None:
        """The law from here on, at rest at the measured pose."""
        self._law.start(tcp_pose(self._ears.sample))
        self._gap, self._acted = 0.0, self._now()
        self._doing = "track"

    # ── one cycle ──

    def cycle(self) -> None:
        """Command the arm once. Waits at most ``silence`` s, and only when packages have stopped coming."""
        self._ears.listen_on(SILENT)
        if self._off():
            return
        fault = self._trouble(self._ears.sample)
        if fault.fault:
            self._fail(fault)
        else:
            self._attempt(self._act, self._ears.sample)

    def _act(self, sample: Sample) -> None:
        if self._doing != "track":
            self._link.keep_alive()
        elif self._free_space:
            self._servo(sample)
        else:
            wrench = self._law.wrench(tcp_pose(sample), sample.vel)
            # the frame's origin at the TCP: then the torque is about it, however the firmware takes the frame
            self._link.force(sample.pose[:3], wrench, self._speeds)
        now = self._now()
        self._gap, self._acted = max(self._gap, now - self._acted), now

    def _servo(self, sample: Sample) -> None:
        if np.linalg.norm(sample.wrench[:3]) > CONTACT:
            return self._fail(Health("reflex", f"a contact of more than {CONTACT:.0f} N in free-space mode"))
        target = self._law.advance()
        return self._link.servo(np.concatenate([target[:3], quat_to_rotvec(target[3:])]), 1.0 / self.cycle_hz)

    def _attempt(self, action: Callable[..., None], *args: Any) -> bool:
        """A refusal is a fault of the arm, not of this program: it can be recovered from."""
        try:
            action(*args)
        except LinkLost as error:
            self._fail(Health("communication", str(error)))
        except RobotError as error:
            self._fail(self._ended(str(error)))
        else:
            return True
        return False

    def _fail(self, fault: Health) -> None:
        """Remember it until `recover`, and end the program: it must not go on by itself when the cause is gone."""
        self._fault, self._doing = fault, "off"
        self._halting = threading.Thread(target=self._link.halt, name="ur-fault", daemon=True)
        self._halting.start()

    def _off(self) -> bool:
        return self._doing == "off" or self._stopped.is_set()

    # ── measurements ──

    def health(self) -> Health:
        return replace(self._arm_health(), gripper=self._gripper.trouble())

    def _arm_health(self) -> Health:
        if not self._ears.connected:
            return self._fault
        self._ears.listen()  # whoever was late in asking must not take that for the robot's silence
        present = self._trouble(self._ears.sample)
        return present if present.fault else self._fault

    def _trouble(self, sample: Sample) -> Health:
        """What is wrong at this moment."""
        if self._ears.deaf():
            return Health("communication", f"no measurement came for {self._silence} s: look at network and pendant")
        if safety(sample).fault or self._off() or sample.running:
            return safety(sample)
        return self._ended("its program ended")

    def _ended(self, text: str) -> Health:
        """Why the control program is over: only what was surely ours may be recovered from without a person."""
        gap = max(self._gap, self._now() - self._acted)
        if gap > 1.0 / WATCHDOG_HZ:
            return Health("communication", f"{text}; its watchdog ends it when no command comes, here for {gap:.2f} s")
        return Health("user-stop", f"{text}; somebody ended it at the pendant: look there before it goes on")

    def state(self) -> RobotState:
        sample = self._ears.sample
        pose = tcp_pose(sample)
        pose[3:] *= 1.0 if pose[3:] @ self._quat >= 0.0 else -1.0  # no jump at a half turn
        self._quat, back = pose[3:].copy(), quat_conj(pose[3:])
        return RobotState(
            time=self._ears.time(),
            pose=pose,
            vel=sample.vel,
            force=quat_rotate(back, sample.wrench[:3]),
            torque=quat_rotate(back, sample.wrench[3:]),
            q=sample.q,
            dq=sample.dq,
            jacobian=self._arm.jacobian(sample.q, self._flange_to_tcp),
            gripper=self._gripper.width(),
            grip=self._gripper.grip(),
        )

    # ── motions ──

    def track(self, pose: Array, gripper: float | None) -> None:
        if gripper is not None and gripper != self._asked:
            self._asked = gripper
            self._gripper.move(gripper)
        if self._doing == "joints":
            self._begin()
        self._law.set_target(pose)

    def set_compliance(self, compliance: Compliance) -> None:
        self._law.set_compliance(compliance)

    def guide(self, on: bool) -> None:
        if self._off():  # in a fault, which `health` reports
            return
        if on and self._attempt(self._link.guide):
            self._doing = "guide"
        elif not on:
            self._begin()

    def joint_reset(self) -> bool:
        if self._off():
            return False
        home, sample = np.array(self.home_q), self._ears.sample
        if self._doing != "joints":
            self._doing = "joints"
            self._attempt(self._link.move_joints, home)
            return False
        if max(np.abs(sample.q - home).max(), np.abs(sample.dq).max()) > AT_HOME:
            return False
        if self._attempt(self._link.zero_wrench):
            self._begin()
        return self._doing == "track"

    # ── preflight ──

    def preflight(self) -> tuple[Check, ...]:
        if self._ears.connected:
            return self._checks()
        try:
            self._open()
            return self._checks()
        except RobotError as error:
            return (Check("connection", False, str(error)),)
        finally:
            self._ears.forget()
            self._link.close()

    def _checks(self) -> tuple[Check, ...]:
        return checks(self._ears.sample, self._arm, self.tool, self._link.ask)

    # ── what only a simulation or a camera has ──

    def frames(self) -> dict[str, Frame]:
        return {}

    def place_objects(self, seed: int) -> None: ...

    def ground_truth(self) -> Mapping[str, Any]:
        return {}
