# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""A simulated Franka behind the same protocol as a real one: it moves by the torques of the impedance law only.

Each physics step is ``mj_step1`` (kinematics), the law, ``mj_step2`` (dynamics with those torques), so
the torques always answer the present state, as on the robot.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import mujoco
import numpy as np

from robot_servers.arms import PANDA
from robot_servers.cameras.render_process import ProcessRig
from robot_servers.cameras.simulated import CameraRig, InlineRig, check_cameras
from robot_servers.impedance import TORQUE_LIMITS, Impedance
from robot_servers.interface import (
    Array,
    Check,
    ClockMode,
    Compliance,
    Enforcer,
    Frame,
    Health,
    Limits,
    RobotError,
    RobotState,
    Tool,
)
from robot_servers.scenes import load_scene
from robot_servers.scenes.base import FINGER_TRAVEL, Scene

SETTLE = 0.2  # s of simulated time after objects were placed, so that episodes begin at rest
BRAKE = np.array([60.0, 60.0, 60.0, 60.0, 12.0, 12.0, 12.0])  # Nms/rad of a stopped joint
LIMP = Compliance(  # for guiding by hand: only enough damping to keep it from flying
    translational_stiffness=0.0,
    translational_damping=5.0,
    rotational_stiffness=0.0,
    rotational_damping=0.5,
    nullspace_stiffness=0.0,
)
AT_HOME = 0.05  # rad, largest joint error that counts as home
WRENCH_TIME = 0.02  # s, time constant of the force estimate's low-pass filter
WRENCH_DAMPING = 1e-4  # keeps the force estimate finite at singularities
ARM = slice(0, 7)
UNSTABLE = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)  # and QVEL, QACC


class MujocoDriver:
    """Satisfies `Driver`. ``now`` is the clock of measurements in real time; lockstep counts physics steps.

    Raises `RobotError` for an unknown scene or camera and for rates that do not divide; `connect` with
    cameras raises `RenderingUnavailable` where this machine cannot render.
    """

    name = "mujoco"
    joint_limits = PANDA
    tool = Tool()
    limits_enforced: Enforcer = "server"

    def __init__(
        self,
        scene: str,
        *,
        clock: ClockMode = "lockstep",
        cameras: tuple[str, ...] = (),
        image_size: tuple[int, int] = (128, 128),
        cycle_hz: float = 100.0,
        physics_hz: float = 500.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scene: Scene = load_scene(scene)
        self._substeps = round(physics_hz / cycle_hz)
        if self._substeps < 1 or not math.isclose(self._substeps * cycle_hz, physics_hz):
            raise RobotError(f"physics_hz {physics_hz} must be a multiple of cycle_hz {cycle_hz}")
        self.scene = scene
        self.clock: ClockMode = clock
        self.cycle_hz = cycle_hz
        self.home_q = self._scene.home_q
        self.limits: Limits = self._scene.limits
        self.cameras: Mapping[str, tuple[int, int]] = dict.fromkeys(cameras, image_size)
        self._physics_hz = physics_hz
        self._now = now
        self._steps = 0  # physics steps since the driver was made: time never runs backwards
        self._law = Impedance(1.0 / physics_hz)
        self._braked = False  # since `stop`
        self._guided = False
        self._compliance = Compliance()
        self._model = self._scene.build()
        self._model.opt.timestep = 1.0 / physics_hz
        # an automatic reset would teleport the arm and its objects in the middle of an episode
        self._model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        check_cameras(self._model, cameras)
        self._data = mujoco.MjData(self._model)
        self._bind()
        self._rig: CameraRig | None = None
        self._connected = False
        self.home_pose = self._find_home()

    def _bind(self) -> None:
        """Views into MuJoCo's own arrays, so that a cycle allocates and looks up almost nothing."""
        model, data = self._model, self._data
        self._site = model.site("tcp").id
        self._fingers = [int(model.joint(f"{side}_finger").qposadr[0]) for side in ("left", "right")]
        self._position = data.site_xpos[self._site]
        self._quat = data.xquat[model.body("hand").id]  # the TCP frame is parallel to the hand's
        self._rotation = data.site_xmat[self._site].reshape(3, 3)
        self._q, self._dq = data.qpos[ARM], data.qvel[ARM]
        self._bias, self._gravity = data.qfrc_bias[ARM], data.qfrc_gravcomp[ARM]
        self._contact = data.qfrc_constraint[ARM]
        self._motors, self._grip = data.ctrl[ARM], data.ctrl[7:8]
        self._warnings = data.warning.number[UNSTABLE]  # counts since the last reset of the data
        self._full_jacobian = np.zeros((6, model.nv))
        self._jacobian = self._full_jacobian[:, ARM]
        self._pose = np.zeros(7)
        self._residual = np.zeros(7)
        self._wrench = np.zeros(6)

    def _find_home(self) -> tuple[float, ...]:
        self._q[:] = self.home_q
        mujoco.mj_forward(self._model, self._data)
        self._measure()
        return tuple(self._pose.tolist())

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    def connect(self) -> None:
        if self.cameras:
            self._rig = self._make_rig()
            self._rig.open()
        self._connected = True
        self.place_objects(0)
        self.frames()  # now, so that no server's thread has to wait for the first ones later

    def _make_rig(self) -> CameraRig:
        if self.clock == "realtime":
            return ProcessRig(self._model, self.scene, self.cameras)
        return InlineRig(self._model, self.cameras)

    def close(self) -> None:
        if self._rig is not None:
            self._rig.close()
            self._rig = None
        self._connected = False

    # ── one cycle ────────────────────────────────────────────────────────────────────────────────

    def track(self, pose: Array, gripper: float | None) -> None:
        self._law.set_target(pose)
        if gripper is not None:
            self._grip[0] = min(1.0, max(0.0, gripper)) * FINGER_TRAVEL

    def stop(self) -> None:
        """Takes effect in the next cycle, which is the only one to touch the simulation."""
        self._braked = True

    def recover(self) -> None:
        self._braked = False
        self._restart_law()

    def health(self) -> Health:
        return Health()

    def cycle(self) -> None:
        """Raises `RobotError` when the physics has become unstable: MuJoCo would start over without a word."""
        self._require_connected()
        self._residual[:] = 0.0
        for _ in range(self._substeps):
            self._step()
            if self._warnings.any():
                raise RobotError(f"the simulation of {self.scene} has become unstable: see MuJoCo's warning above")
            self._residual += self._contact
        self._filter_wrench()
        if self._rig is not None:
            self._rig.offer(self._data, self._time())

    def _step(self) -> None:
        """One physics step; afterwards kinematics and Jacobian belong to the new joint positions."""
        self._motors[:] = self._torque()
        mujoco.mj_step2(self._model, self._data)
        mujoco.mj_step1(self._model, self._data)
        self._steps += 1
        self._measure()

    def _torque(self) -> Array:
        if self._braked:  # dry damping, and the friction of closed brakes
            return np.clip(-BRAKE * self._dq, -TORQUE_LIMITS, TORQUE_LIMITS) + self._bias - self._gravity
        return self._law.torque(self._pose, self._q, self._dq, self._jacobian, self._bias - self._gravity)

    def _measure(self) -> None:
        jacobian = self._full_jacobian
        mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._site)
        self._pose[:3] = self._position
        # The sign is left as the joint angles give it: continuous, where "scalar part ≥ 0" jumps at a half turn.
        self._pose[3:6] = self._quat[1:]
        self._pose[6] = self._quat[0]

    def _filter_wrench(self) -> None:
        """External joint torques → wrench at the TCP, as Franka's estimator does: pinv(Jᵀ)·tau, low-passed."""
        jacobian = self._jacobian
        matrix = jacobian @ jacobian.T
        matrix.flat[::7] += WRENCH_DAMPING
        wrench = np.linalg.solve(matrix, jacobian @ (self._residual / self._substeps))
        self._wrench += (1.0 - math.exp(-1.0 / (self.cycle_hz * WRENCH_TIME))) * (wrench - self._wrench)

    # ── measurements ─────────────────────────────────────────────────────────────────────────────

    def state(self) -> RobotState:
        self._require_connected()
        inverse = self._rotation.T
        dq = self._dq.copy()
        jacobian = self._jacobian.copy()
        left, right = self._fingers
        opening = (self._data.qpos[left] + self._data.qpos[right]) / (2.0 * FINGER_TRAVEL)
        return RobotState(
            time=self._time(),
            pose=self._pose.copy(),
            vel=jacobian @ dq,
            force=inverse @ self._wrench[:3],
            torque=inverse @ self._wrench[3:],
            q=self._q.copy(),
            dq=dq,
            jacobian=jacobian,
            gripper=min(1.0, max(0.0, float(opening))),
        )

    def frames(self) -> dict[str, Frame]:
        self._require_connected()
        return {} if self._rig is None else self._rig.frames(self._data, self._time())

    def ground_truth(self) -> Mapping[str, Any]:
        return self._scene.ground_truth(self._model, self._data)

    def _time(self) -> float:
        return self._steps / self._physics_hz if self.clock == "lockstep" else self._now()

    def _require_connected(self) -> None:
        if not self._connected:
            raise RobotError("the simulated arm is not connected: call connect()")

    # ── parameters and resets ────────────────────────────────────────────────────────────────────

    def set_compliance(self, compliance: Compliance) -> None:
        self._compliance = compliance
        if not self._guided:
            self._law.set_compliance(compliance)

    def guide(self, on: bool) -> None:
        self._guided = on
        self._law.set_compliance(LIMP if on else self._compliance)
        self._restart_law()

    def preflight(self) -> tuple[Check, ...]:
        return (Check("simulation", True, f"MuJoCo {mujoco.__version__}, {self._physics_hz:g} Hz physics"),)

    def joint_reset(self) -> bool:
        """Put the joints home at once, at rest; an arm that is home already stays as it is, with what it holds."""
        self._require_connected()
        if self._braked:
            return False
        if np.abs(self._q - self.home_q).max() > AT_HOME:
            self._q[:] = self.home_q
            self._dq[:] = 0.0
            self._restart_law()
        return True

    def place_objects(self, seed: int) -> None:
        """Reset the whole simulation: the same seed gives bit-identical episodes, whatever happened before."""
        self._require_connected()
        mujoco.mj_resetData(self._model, self._data)
        self._q[:] = self.home_q
        for finger in self._fingers:
            self._data.qpos[finger] = self._scene.gripper * FINGER_TRAVEL
        self._grip[0] = self._scene.gripper * FINGER_TRAVEL
        self._scene.place(self._model, self._data, np.random.default_rng(seed))
        self._restart_law()
        for _ in range(round(SETTLE * self._physics_hz)):
            self._step()
        self._restart_law()

    def _restart_law(self) -> None:
        mujoco.mj_step1(self._model, self._data)
        self._measure()
        self._wrench[:] = 0.0
        self._law.start(self._pose, self._q)
