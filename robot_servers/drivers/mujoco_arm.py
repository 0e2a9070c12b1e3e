# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""One simulated arm among those of a model: where it sits in MuJoCo's arrays, its law, what it measures."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from robot_servers.geometry import pose_inv, pose_mul, quat_to_matrix
from robot_servers.impedance import TORQUE_LIMITS, Impedance
from robot_servers.interface import Array, RobotState
from robot_servers.scenes.base import FINGER_TRAVEL, Mount

BRAKE = np.array([60.0, 60.0, 60.0, 60.0, 12.0, 12.0, 12.0])  # Nms/rad of a stopped joint
WRENCH_TIME = 0.02  # s, time constant of the force estimate's low-pass filter
WRENCH_DAMPING = 1e-4  # keeps the force estimate finite at singularities
BASE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)  # the world's frame


def _seven(start: int) -> slice:
    return slice(int(start), int(start) + 7)


class SimulatedArm:
    """The arm at ``mount``. ``pose`` (7,), ``jacobian`` (6, 7) and the wrench are in its base frame, as of `measure`.

    ``q``, ``dq`` (7,) and ``grip`` (1,), the width m that is wanted of each finger, are views into MuJoCo's own
    arrays, so that a cycle allocates and looks up almost nothing. ``braked``: it stops by damping, not by the law.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, mount: Mount) -> None:
        name = mount.prefix
        first, motor = model.joint(f"{name}joint1"), model.actuator(f"{name}motor1").id
        positions, dofs = _seven(first.qposadr[0]), _seven(first.dofadr[0])
        self.law = Impedance(model.opt.timestep)
        self.braked = False
        self.pose = np.zeros(7)
        self.q, self.dq = data.qpos[positions], data.qvel[dofs]
        gripper = model.actuator(f"{name}gripper").id
        self.grip = data.ctrl[gripper : gripper + 1]
        self._model, self._data = model, data
        self._site = model.site(f"{name}tcp").id
        self._fingers = [int(model.joint(f"{name}{side}_finger").qposadr[0]) for side in ("left", "right")]
        self._position = data.site_xpos[self._site]
        self._quat = data.xquat[model.body(f"{name}hand").id]  # the TCP frame is parallel to the hand's
        self._rotation = data.site_xmat[self._site].reshape(3, 3)
        self._bias, self._gravity = data.qfrc_bias[dofs], data.qfrc_gravcomp[dofs]
        self._contact = data.qfrc_constraint[dofs]
        self._motors = data.ctrl[_seven(motor)]
        self._full_jacobian = np.zeros((6, model.nv))
        self._columns = self._full_jacobian[:, dofs]
        elsewhere = tuple(mount.pose) != BASE
        self._from_world = pose_inv(np.array(mount.pose)) if elsewhere else None
        self._turn = quat_to_matrix(np.array(mount.pose[3:])) if elsewhere else None  # base frame → world
        self.jacobian = np.zeros((6, 7)) if elsewhere else self._columns
        self._residual = np.zeros(7)
        self._wrench = np.zeros(6)

    # ── one physics step ──

    def drive(self) -> None:
        """Set the motors' torques for the next step."""
        if self.braked:  # dry damping, and the friction of closed brakes
            brakes = np.clip(-BRAKE * self.dq, -TORQUE_LIMITS, TORQUE_LIMITS)
            self._motors[:] = brakes + self._bias - self._gravity
        else:
            self._motors[:] = self.law.torque(self.pose, self.q, self.dq, self.jacobian, self._bias - self._gravity)

    def measure(self) -> None:
        """Pose and Jacobian of MuJoCo's present kinematics."""
        jacobian = self._full_jacobian
        mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._site)
        self.pose[:3] = self._position
        # The sign is left as the joint angles give it: continuous, where "scalar part ≥ 0" jumps at a half turn.
        self.pose[3:6] = self._quat[1:]
        self.pose[6] = self._quat[0]
        if self._turn is not None and self._from_world is not None:
            self.pose[:] = pose_mul(self._from_world, self.pose)
            self.jacobian[:3] = self._turn.T @ self._columns[:3]
            self.jacobian[3:] = self._turn.T @ self._columns[3:]

    # ── the wrench, once per cycle ──

    def begin_cycle(self) -> None:
        """A new sum of the external joint torques."""
        self._residual[:] = 0.0

    def add_contact(self) -> None:
        """Those of the step just done."""
        self._residual += self._contact

    def end_cycle(self, steps: int, period: float) -> None:
        """External joint torques → wrench at the TCP, as Franka's estimator does: pinv(Jᵀ)·tau, low-passed."""
        jacobian = self.jacobian
        matrix = jacobian @ jacobian.T
        matrix.flat[::7] += WRENCH_DAMPING
        wrench = np.linalg.solve(matrix, jacobian @ (self._residual / steps))
        self._wrench += (1.0 - math.exp(-period / WRENCH_TIME)) * (wrench - self._wrench)

    # ── from outside ──

    def put(self, q: Array, gripper: float) -> None:
        """Joints (7,) rad and the opening, 0 closed … 1 open, at once; kinematics are the caller's."""
        self.q[:] = q
        for finger in self._fingers:
            self._data.qpos[finger] = gripper * FINGER_TRAVEL
        self.grip[0] = gripper * FINGER_TRAVEL

    def restart(self) -> None:
        """The law begins where the arm is, and nothing presses on it."""
        self.measure()
        self._wrench[:] = 0.0
        self.law.start(self.pose, self.q)

    def to_base(self, pose: Array) -> Array:
        """A world-frame ``pose`` (7,) in the arm's base frame."""
        return pose if self._from_world is None else pose_mul(self._from_world, pose)

    def state(self, time: float) -> RobotState:
        """What it measures, stamped ``time`` s."""
        inverse = self._rotation.T if self._turn is None else self._rotation.T @ self._turn
        dq = self.dq.copy()
        jacobian = self.jacobian.copy()
        left, right = self._fingers
        opening = (self._data.qpos[left] + self._data.qpos[right]) / (2.0 * FINGER_TRAVEL)
        return RobotState(
            time=time,
            pose=self.pose.copy(),
            vel=jacobian @ dq,
            force=inverse @ self._wrench[:3],
            torque=inverse @ self._wrench[3:],
            q=self.q.copy(),
            dq=dq,
            jacobian=jacobian,
            gripper=min(1.0, max(0.0, float(opening))),
        )
