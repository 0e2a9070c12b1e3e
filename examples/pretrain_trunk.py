# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""Train the small image trunk on randomised renders of the simulated scenes, and write its weights.

    python examples/pretrain_trunk.py --out serl_core/nets/trunk.npz

The arm stands anywhere in its workspace, objects lie anywhere in theirs or are held; colours, lights and
patches of the picture are random. One linear map per scene and camera must read from the features where
object, goal and TCP are in the picture and how far away: the features that this needs are those from which
a policy's learned spatial embedding, which is linear as well, can tell where to go. No label of any task's
success or action is used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import numpy.typing as npt
import optax
import tyro

from robot_servers.cameras.simulated import SimulatedCameras
from robot_servers.scenes import load_scene
from robot_servers.scenes.base import FINGER_TRAVEL, set_free_pose
from robot_servers.scenes.peg_insertion import GRASP_HEIGHT, HEAD
from serl_core.nets.encoders import FEATURES, FRAME, Trunk, random_trunk, save_trunk
from serl_core.progress import progress

CAMERAS = ("front", "wrist")
SCENES = ("pick_cube", "peg_insertion")
POINTS = 3  # per picture: the object, where it belongs (or the object again), the TCP
LABELS = 3 * POINTS + 1  # u, v in [−1, 1] and metres of each point, and the gripper's opening
IK_STEPS = 25
REACH = ((0.36, -0.16, 0.014), (0.64, 0.16, 0.32))  # m, where the TCP is drawn; within the scene's own limits
HELD = 0.4  # share of pictures in which the object is between the fingers
Pictures = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Config:
    """Train the small image trunk on randomised renders of the simulated scenes."""

    out: Path = Path("trunk.npz")  # where the weights go
    data: Path = Path("trunk-data.npz")  # the rendered pictures, kept for the next time
    states: int = 5_000  # arm and object positions per scene; each is seen by both cameras
    steps: int = 6_000  # gradient steps
    batch: int = 48  # pictures per step
    learning_rate: float = 1e-3
    seed: int = 0


class RandomScene:
    """One scene whose arm, objects, colours and lights are drawn at random."""

    def __init__(self, name: str, rng: np.random.Generator) -> None:
        self._name, self._rng = name, rng
        self._scene = load_scene(name)
        self.model = self._scene.build()
        self.data = mujoco.MjData(self.model)
        self._colours = self.model.geom_rgba.copy()
        self._site = self.model.site("tcp").id
        self.opening = 1.0

    def draw(self) -> None:
        """A new state and look of everything; kinematics are up to date."""
        self._paint()
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:7] = self._scene.home_q
        self._scene.place(self.model, self.data, self._rng)
        low = np.maximum(REACH[0], self._scene.limits.box_low)
        high = np.minimum(REACH[1], self._scene.limits.box_high)
        self._reach(self._rng.uniform(low, high), self._rng.normal(0, 0.15))
        self._hold() if self._rng.uniform() < HELD or self._name == "peg_insertion" else self._open()
        mujoco.mj_forward(self.model, self.data)

    def points(self) -> list[npt.NDArray[np.float64]]:
        """Object, goal and TCP (3,) m in the world."""
        tcp = self.data.site("tcp").xpos
        if self._name == "peg_insertion":
            return [self.data.body("peg").xpos, self.data.body("hole").xpos, tcp]
        return [self.data.body("cube").xpos, self.data.body("cube").xpos, tcp]

    def _reach(self, goal: npt.NDArray[np.float64], yaw: float) -> None:
        """Damped least squares towards a position with the hand pointing down, turned by ``yaw`` rad."""
        data, jacobian = self.data, np.zeros((6, self.model.nv))
        wanted = np.array([0.0, np.cos(yaw / 2), np.sin(yaw / 2), 0.0])  # scalar first: a half turn about x, then z
        for _ in range(IK_STEPS):
            mujoco.mj_kinematics(self.model, data)
            mujoco.mj_comPos(self.model, data)
            error, turn = np.zeros(6), np.zeros(4)
            error[:3] = goal - data.site("tcp").xpos
            conjugate = np.zeros(4)
            mujoco.mju_negQuat(conjugate, data.body("hand").xquat)
            mujoco.mju_mulQuat(turn, wanted, conjugate)
            mujoco.mju_quat2Vel(error[3:], turn, 1.0)
            mujoco.mj_jacSite(self.model, data, jacobian[:3], jacobian[3:], self._site)
            arm = jacobian[:, :7]
            data.qpos[:7] += arm.T @ np.linalg.solve(arm @ arm.T + 1e-3 * np.eye(6), error)

    def _hold(self) -> None:
        mujoco.mj_kinematics(self.model, self.data)
        tcp = self.data.site("tcp").xpos
        if self._name == "peg_insertion":
            self._fingers(HEAD[1])
            set_free_pose(self.model, self.data, "peg", tcp - [0.0, 0.0, GRASP_HEIGHT], 0.0)
        else:
            self._fingers(0.02)
            set_free_pose(self.model, self.data, "cube", tcp + self._rng.normal(0, 0.004, 3), self._rng.normal(0, 0.1))

    def _open(self) -> None:
        self._fingers(self._rng.uniform(0.0, FINGER_TRAVEL))

    def _fingers(self, travel: float) -> None:
        self.opening = travel / FINGER_TRAVEL
        for side in ("left", "right"):
            self.data.qpos[self.model.joint(f"{side}_finger").qposadr[0]] = travel

    def _paint(self) -> None:
        """Colours around the scene's own, now and then anything; one or two lights from anywhere above."""
        rng, model = self._rng, self.model
        spread = 0.08 if rng.uniform() < 0.7 else 0.35
        model.geom_rgba[:, :3] = np.clip(self._colours[:, :3] + rng.normal(0, spread, (model.ngeom, 3)), 0, 1)
        for light in range(model.nlight):
            model.light_diffuse[light] = rng.uniform(0.3, 1.0) * rng.uniform(0.85, 1.0, 3)
            model.light_pos[light] = [rng.uniform(-0.5, 1.5), rng.uniform(-1, 1), rng.uniform(1.0, 2.5)]
        model.vis.headlight.ambient[:] = rng.uniform(0.1, 0.45)
        model.vis.headlight.diffuse[:] = rng.uniform(0.2, 0.6)


def seen_from(scene: RandomScene, camera: str) -> Floats:
    """The labels (LABELS,) of one picture: where the points are in it, how far, and the gripper's opening."""
    eye = scene.data.camera(camera)
    scale = 1.0 / np.tan(np.radians(scene.model.camera(camera).fovy[0]) / 2)
    labels = []
    for point in scene.points():
        x, y, z = eye.xmat.reshape(3, 3).T @ (point - eye.xpos)
        depth = max(0.02, -z)  # MuJoCo's cameras look along −z
        labels += [np.clip(scale * x / depth, -1.3, 1.3), np.clip(scale * y / depth, -1.3, 1.3), depth]
    return np.array([*labels, scene.opening], np.float32)


def render(config: Config) -> dict[str, npt.NDArray]:
    """Pictures (scenes, cameras, N, 128, 128, 3) and labels (scenes, cameras, N, LABELS)."""
    count = config.states
    pictures = np.empty((len(SCENES), len(CAMERAS), count, *FRAME), np.uint8)
    labels = np.empty((*pictures.shape[:3], LABELS), np.float32)
    with progress("rendering (pictures)", pictures[..., 0, 0, 0].size) as bar:
        for s, name in enumerate(SCENES):
            scene = RandomScene(name, np.random.default_rng([config.seed, s]))
            with SimulatedCameras(scene.model, CAMERAS) as cameras:
                for n in range(count):
                    scene.draw()
                    for c, picture in enumerate(cameras.render(scene.data).values()):
                        pictures[s, c, n], labels[s, c, n] = picture, seen_from(scene, CAMERAS[c])
                    bar.update((s * count + n) * len(CAMERAS), name)
    return {"pictures": pictures, "labels": labels}


def disturbed(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Shifted by up to 4 pixels, other colours and brightness, one patch of something else."""
    out = np.empty_like(pictures)
    for n, picture in enumerate(pictures):
        dy, dx = rng.integers(0, 9, 2)
        padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)), mode="edge")[dy : dy + FRAME[0], dx : dx + FRAME[1]]
        colour = padded * rng.uniform(0.75, 1.25) * rng.uniform(0.9, 1.1, 3) + rng.normal(0, 8)
        if rng.uniform() < 0.5:
            y, x, height, width = rng.integers(0, 100), rng.integers(0, 100), *rng.integers(6, 28, 2)
            colour[y : y + height, x : x + width] = rng.uniform(0, 255, 3)
        out[n] = np.clip(colour, 0, 255)
    return out


def batches(data: dict[str, npt.NDArray], config: Config) -> Iterator[tuple[int, Pictures, Floats]]:
    """Random minibatches, each of one scene and camera (its index comes first), disturbed."""
    rng = np.random.default_rng(config.seed + 1)
    pairs, held_out = len(SCENES) * len(CAMERAS), config.states // 20
    pictures = data["pictures"].reshape(pairs, config.states, *FRAME)
    labels = data["labels"].reshape(pairs, config.states, LABELS)
    for _ in range(config.steps):
        pair = int(rng.integers(pairs))
        chosen = rng.integers(held_out, config.states, config.batch)
        yield pair, disturbed(pictures[pair, chosen], rng), labels[pair, chosen]


def train(data: dict[str, npt.NDArray], config: Config) -> dict:
    """The trunk's parameters after ``steps`` of regression through one linear map per scene and camera."""
    pairs = len(SCENES) * len(CAMERAS)
    flat = data["labels"].reshape(pairs, -1, LABELS)
    mean, std = flat.mean(axis=1), flat.std(axis=1) + 1e-2
    size = int(np.prod(FEATURES))
    params = {
        "trunk": random_trunk(config.seed),
        "read": jnp.zeros((pairs, size, LABELS)),
        "bias": jnp.zeros((pairs, LABELS)),
    }
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, 200, config.steps)
    optimiser = optax.adamw(schedule, weight_decay=1e-4)
    opt_state = optimiser.init(params)

    def loss(params: dict, pair: jax.Array, pictures: jax.Array, labels: jax.Array) -> jax.Array:
        features = Trunk().apply({"params": params["trunk"]}, pictures)
        features = features.reshape(len(pictures), -1) / jnp.sqrt(1.0 * size)
        guess = features @ (params["read"][pair] * 16.0) + params["bias"][pair]
        return jnp.mean(optax.huber_loss(guess, labels))

    @jax.jit
    def step(params: dict, opt_state: optax.OptState, pair: jax.Array, pictures: jax.Array, labels: jax.Array):
        value, grads = jax.value_and_grad(loss)(params, pair, pictures, labels)
        changes, opt_state = optimiser.update(grads, opt_state, params)
        return optax.apply_updates(params, changes), opt_state, value

    measure = jax.jit(lambda params, pair, pictures: _read(params, pair, pictures, size))
    begun, recent = time.monotonic(), 0.0
    with progress("training (steps)", config.steps) as bar:
        for number, (pair, pictures, labels) in enumerate(batches(data, config)):
            wanted = (labels - mean[pair]) / std[pair]
            params, opt_state, value = step(params, opt_state, jnp.int32(pair), pictures, wanted)
            recent += 0.02 * (float(value) - recent)
            bar.update(number, f"loss {recent:.3f}")
            if number % 500 == 499 or number == config.steps - 1:
                print(f"{number + 1} steps, {time.monotonic() - begun:.0f} s:", flush=True)
                _report(data, config, lambda p, x, now=params: np.asarray(measure(now, jnp.int32(p), x)), mean, std)
                save_trunk(config.out, params["trunk"])
    return params["trunk"]


def _read(params: dict, pair: jax.Array, pictures: jax.Array, size: int) -> jax.Array:
    features = Trunk().apply({"params": params["trunk"]}, pictures)
    features = features.reshape(len(pictures), -1) / jnp.sqrt(1.0 * size)
    return features @ (params["read"][pair] * 16.0) + params["bias"][pair]


def _report(data: dict, config: Config, measure, mean: Floats, std: Floats) -> None:
    """Median error on pictures that were held out: pixels of the object, and millimetres of its distance."""
    held_out = config.states // 20
    for pair in range(len(SCENES) * len(CAMERAS)):
        scene, camera = divmod(pair, len(CAMERAS))
        pictures, labels = data["pictures"][scene, camera, :held_out], data["labels"][scene, camera, :held_out]
        error = np.abs(measure(pair, pictures) * std[pair] + mean[pair] - labels)
        pixels = np.median(np.hypot(error[:, [0, 3, 6]], error[:, [1, 4, 7]]), axis=0) * FRAME[0] / 2
        depth = np.median(error[:, [2, 5, 8]], axis=0) * 1000
        print(f"  {SCENES[scene]} {CAMERAS[camera]}: pixels {np.round(pixels, 1)}, mm {np.round(depth)}", flush=True)


def main(config: Config) -> None:
    """Render (or load what was rendered), train, write the weights."""
    if config.data.exists():
        data = dict(np.load(config.data, allow_pickle=False))
    else:
        data = render(config)
        np.savez(config.data, pictures=data["pictures"], labels=data["labels"])
    save_trunk(config.out, train(data, config))
    print(f"wrote {config.out}, {config.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(tyro.cli(Config))
