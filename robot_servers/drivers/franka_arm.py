"""One Franka arm through franky and libfranka, in this project's terms: no limits, no filters, no decisions.

franky runs libfranka's 1 kHz control loop in a thread of its own; references and gains reach it from any thread, so
nothing here has to tick. While a motion runs, reading the state costs microseconds; at rest it waits up to 1 ms for
the next packet.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from robot_servers.drivers.franka_gains import GAIN_TIME, OUTER_ANGLE, OUTER_CLIP, Gains
from robot_servers.geometry import pose_inv, pose_mul, quat_normalise, quat_to_matrix
from robot_servers.interface import Array, Gripper, Health, JointLimits, RobotError, RobotState, Tool

if TYPE_CHECKING:
    import franky

T = TypeVar("T")
log = logging.getLogger(__name__)

JOINT_BRAKE = 0.3  # of the acceleration and jerk limits: with all of it the FCI may see a discontinuity
LONGEST_BRAKE = 2.5  # s
CONNECT = 4.0  # s; libfranka itself waits a minute for an address where nobody answers
PRIORITY = 80  # of libfranka's control loop on a kernel without real-time patch; with one it chooses its own
WHEELS = "https://timschneider42.github.io/franky/whl/by-robot-server-version"
COMMUNICATION = ("communication_constraints_violation", "UDP receive", "TCP connection", "connection closed")
MODES = {  # what a person has to do before the arm can be controlled, by libfranka's robot mode
    "UserStopped": "the arm's user stop was pressed: release it, see that the arm may move, then recover",
    "Guiding": "the arm is in programming mode: switch it to execution in Desk, then recover",
    "Other": "the arm is not ready: unlock its joints and activate FCI in Desk, then recover",
}


def load_franky() -> None:
    """Raises `RobotError` naming the package unless franky can be imported."""
    try:
        import franky  # noqa: F401
    except ImportError as error:
        raise RobotError(f"Franka arms need franky ({error}): install the extra franka (franky-control)") from error


class FrankaArm:
    """A connection to the FCI at ``host``. ``realtime`` demands a real-time kernel, which libfranka then checks.

    What libfranka refuses or loses comes out as `RobotError`. `brake` may be called from any thread.
    """

    def __init__(self, host: str, joints: JointLimits, realtime: bool) -> None:
        self._host = host
        self._joints = joints
        self._realtime = realtime
        self._robot: franky.Robot | None = None
        self._motion: franky.CartesianImpedanceTrackingMotion | None = None

    # ── connection ──

    def connect(self) -> None:
        """Raises `RobotError` within 5 s, saying what to do, if nobody answers or versions do not fit."""
        load_franky()
        import franky

        config = franky.RealtimeConfig.Enforce if self._realtime else franky.RealtimeConfig.Ignore
        try:
            self._robot = _within(CONNECT, lambda: franky.Robot(self._host, realtime_config=config))
        except franky.IncompatibleVersionException as error:
            raise RobotError(mismatch(self._host, str(error))) from error
        except franky.RealtimeException as error:
            raise RobotError(
                f"{error} A Franka arm needs a PREEMPT_RT kernel on this computer; --waive-realtime goes on without "
                "one, at the price of communication faults"
            ) from error
        except franky.Exception as error:
            raise RobotError(f"no Franka arm at {self._host}: {error} Is it on, and FCI activated in Desk?") from error
        except TimeoutError as error:
            raise RobotError(
                f"the FCI at {self._host} has not answered for {CONNECT:g} s: check address and cable, and that no "
                "other program controls the arm"
            ) from error

    def close(self) -> None:
        """Brake, wait for rest, and let the connection go."""
        if self._robot is not None:
            self.settle()
        self._robot = self._motion = None

    # ── state ──

    def read(self) -> franky.RobotState:
        return self._call(lambda robot: robot.state, "sends no state")

    def reading(self, raw: franky.RobotState, when: float, last: RobotState | None, gripper: Gripper) -> RobotState:
        """The arm's state in our terms, measured at ``when`` s, after the ``last`` one."""
        import franky

        jacobian = self._require().model.zero_jacobian(franky.Frame.EndEffector, raw)
        pose = pose_of(raw.O_T_EE)
        if last is not None and float(pose[3:] @ last.pose[3:]) < 0.0:
            pose[3:] = -pose[3:]  # continuous, where a hand that points down would flip its sign with every noise
        wrench = -raw.K_F_ext_hat_K  # libfranka's is what the arm does to its surroundings
        return RobotState(
            time=when,
            pose=pose,
            vel=jacobian @ raw.dq,
            force=wrench[:3],
            torque=wrench[3:],
            q=raw.q,
            dq=raw.dq,
            jacobian=jacobian,
            gripper=gripper.width(),
            grip=gripper.grip(),
        )

    @property
    def running(self) -> bool:
        """Whether a motion of ours controls the arm."""
        return self._robot is not None and self._robot.is_in_control

    def last_error(self) -> str:
        """Why the last motion ended by itself, in libfranka's words; asked once, then it is empty."""
        import franky

        try:
            self._require().poll_motion()
        except (franky.Exception, RuntimeError) as error:
            return str(error)
        return ""

    # ── motions ──

    def track(self, pose: Array, q: Array, gains: Gains) -> None:
        """Start the tracker at ``pose`` (7,) with posture ``q`` (7,); a running one hands over without a gap."""
        import franky

        motion = franky.CartesianImpedanceTrackingMotion(
            posture_task=franky.PostureTask(q, gains.posture_stiffness, gains.posture_damping),
            lower_joint_limits=np.array(self._joints.low),
            upper_joint_limits=np.array(self._joints.high),
            translational_error_clip=np.full(3, OUTER_CLIP),
            rotational_error_clip=np.full(3, OUTER_ANGLE),
            gains_time_constant=GAIN_TIME,
        )
        motion.set_gains(_cartesian(gains))
        motion.set_reference(_reference(pose))
        self._start(lambda robot: robot.move(motion, asynchronous=True))
        self._motion = motion

    def aim(self, pose: Array) -> None:
        """The tracker's target (7,) from the next millisecond on."""
        assert self._motion is not None  # after `track`
        self._motion.set_reference(_reference(pose))

    def set_gains(self, gains: Gains) -> None:
        import franky

        assert self._motion is not None  # after `track`
        self._motion.set_gains(_cartesian(gains))
        posture = franky.NullspaceGains()
        posture.posture_stiffness, posture.posture_damping = gains.posture_stiffness, gains.posture_damping
        self._motion.set_nullspace_gains(posture)

    def move_joints(self, q: Array, factor: float) -> None:
        """Start moving the joints to ``q`` (7,) rad at ``factor`` of the arm's own speed and acceleration limits."""
        import franky

        dynamics = franky.RelativeDynamicsFactor(factor)
        motion = franky.JointMotion(franky.JointState(q), relative_dynamics_factor=dynamics)
        self._start(lambda robot: robot.move(motion, asynchronous=True))

    def brake(self) -> None:
        """Damp the running motion to rest; it ends the controller and takes 0.2 s or a little more. Never raises."""
        if not self.running:
            return
        import franky

        def stop(robot: franky.Robot) -> None:
            torques = robot.current_control_signal_type == franky.ControlSignalType.Torques
            robot.move(franky.TorqueStopMotion() if torques else franky.JointStopMotion(JOINT_BRAKE), asynchronous=True)

        self._try(stop, "could not be braked")

    def settle(self) -> None:
        """Brake and wait for rest, `LONGEST_BRAKE` at most. Never raises."""
        self.brake()
        self._try(lambda robot: robot.join_motion(LONGEST_BRAKE), "ended its last motion with an error")

    # ── settings: the arm takes them only while nothing controls it ──

    def recover(self) -> None:
        """Clear reflexes. Raises `RobotError` if the arm will not, e.g. because a person has to act first."""
        if not self._call(lambda robot: robot.recover_from_errors(), "did not recover"):
            raise RobotError(
                f"the arm at {self._host} still reports errors: look at Desk, mend the cause, then recover"
            )

    def set_tcp(self, state: franky.RobotState, tcp: Array) -> None:
        """Make ``tcp`` (7,), in the flange's frame, the end effector and the stiffness frame."""
        nominal = pose_of(state.F_T_NE)
        self._call(lambda robot: robot.set_ee(_column_major(pose_mul(pose_inv(nominal), tcp))), "refused the TCP")
        self._call(lambda robot: robot.set_k(np.eye(4).ravel().tolist()), "refused the stiffness frame")

    def set_load(self, tool: Tool) -> None:
        """Tell the arm what it carries beyond the end effector configured in Desk."""
        inertia = np.reshape(tool.inertia, (3, 3)).T.ravel().tolist()
        self._call(lambda robot: robot.set_load(tool.mass, list(tool.centre), inertia), "refused the load")

    def set_collision(self, torque: Array, force: Array) -> None:
        """Thresholds (7,) Nm and (6,) N, Nm of the arm's own reflex."""
        self._call(lambda robot: robot.set_collision_behavior(torque, force), "refused the collision thresholds")

    # ── how calls are made ──

    def _start(self, move: Callable[[franky.Robot], None]) -> None:
        """Start a motion. libfranka's loop inherits the scheduling of the thread that starts it: one of our choice."""

        def start() -> None:
            if not self._realtime and sys.platform == "linux":
                with contextlib.suppress(PermissionError):  # then it runs like everything else
                    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
            self._call(move, "did not start the motion")

        try:
            _within(CONNECT, start)
        except TimeoutError as error:
            raise RobotError(f"the arm at {self._host} did not start the motion within {CONNECT:g} s") from error

    def _call(self, call: Callable[[franky.Robot], T], failed: str) -> T:
        import franky

        try:
            return call(self._require())
        except (franky.Exception, franky.InvalidMotionTypeException, RuntimeError, ValueError) as error:
            raise RobotError(f"the arm at {self._host} {failed}: {error}") from error

    def _try(self, call: Callable[[franky.Robot], object], failed: str) -> None:
        """For what must go on whatever the arm answers."""
        try:
            self._call(call, failed)
        except RobotError as error:
            log.warning("%s", error)

    def _require(self) -> franky.Robot:
        if self._robot is None:
            raise RobotError(f"the Franka arm at {self._host} is not connected: call connect()")
        return self._robot


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of ``call`` in a thread of its own. Raises what it raises, or `TimeoutError`."""
    results: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((True, call()))
        except Exception as error:  # noqa: BLE001  # handed to the caller, who knows what can happen
            results.put((False, error))

    threading.Thread(target=run, name="franka-call", daemon=True).start()
    try:
        done, result = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if not done:
        raise result
    return result


def mismatch(host: str, text: str) -> str:
    """What to install when libfranka says that it does not speak the arm's version of the FCI."""
    found = re.search(r"server version: *(\d+)", text)
    version = found.group(1) if found else "N"
    return (
        f"the arm at {host} speaks another version of the FCI than the installed franky-control: {text.strip()} "
        f"Install the wheel built for it: pip install --force-reinstall franky-control --index-url {WHEELS}/{version}/ "
        "(5 is the Panda, libfranka 0.9.2; its newest firmware is 4.2), or update the arm's firmware"
    )


def fault(mode: str, errors: str, lost: str) -> Health:
    """What the arm's mode, its error flags (libfranka's list in words) and the end of our last motion mean together."""
    text = " ".join((lost or errors.strip("[]")).split())
    if mode == "UserStopped" or "user stop" in text.lower():
        return Health("user-stop", MODES["UserStopped"])
    if mode in MODES:
        return Health("other", MODES[mode])
    if "safety function" in text:
        return Health("protective", f"{text} Disable it in Desk, then recover")
    if any(sign in text for sign in COMMUNICATION):
        return Health("communication", f"{text}: look at the load of this computer and at the cable to the arm")
    if mode == "Reflex" or text:
        return Health("reflex", f"{text or 'the arm stopped by itself'}: look what it met, then recover")
    return Health()


def pose_of(affine: franky.Affine) -> Array:
    """A transformation of franky's as a pose (7,)."""
    return np.concatenate([affine.translation, quat_normalise(affine.quaternion)])


def _column_major(pose: Array) -> list[float]:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = quat_to_matrix(pose[3:]), pose[:3]
    return matrix.T.ravel().tolist()


def _reference(pose: Array) -> franky.CartesianReference:
    import franky

    return franky.CartesianReference(target=franky.Affine(pose[:3], quat_normalise(pose[3:])))


def _cartesian(gains: Gains) -> franky.CartesianImpedanceGains:
    import franky

    return franky.CartesianImpedanceGains.diagonal(gains.stiffness, gains.damping)
