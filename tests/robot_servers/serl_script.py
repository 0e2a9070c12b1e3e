"""An environment as SERL's users have it: posts to a URL, knows nothing of leases, limits or watchdogs."""

from __future__ import annotations

import json
import time

import numpy as np
from http_site import post

HZ = 10
SIDES = ("x", "y", "z", "neg_x", "neg_y", "neg_z")
PRECISION = {
    "translational_stiffness": 2000,
    "translational_damping": 89,
    "rotational_stiffness": 250,
    "rotational_damping": 9,
    "translational_Ki": 0,
    "rotational_Ki": 0,
    **{f"translational_clip_{side}": 0.03 for side in SIDES},
    **{f"rotational_clip_{side}": 0.1 for side in SIDES},
}
COMPLIANCE = {
    **PRECISION,
    "rotational_stiffness": 150,
    "rotational_damping": 7,
    **{f"translational_clip_{side}": 0.02 for side in SIDES},
}


class ScriptEnv:
    """The motions of SERL's environment for a Franka, posted the way it posts them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.statuses: set[int] = set()
        self.update()

    def post(self, route: str, body: object = None) -> str:
        status, _, text = post(self.url, route, b"" if body is None else json.dumps(body).encode())
        self.statuses.add(status)
        return text

    def update(self) -> None:
        state = json.loads(self.post("getstate"))
        self.pose, self.gripper = np.array(state["pose"]), state["gripper_pos"]

    def send(self, pose: np.ndarray) -> None:
        self.post("clearerr")
        self.post("pose", {"arr": np.array(pose).astype(np.float32).tolist()})

    def interpolate(self, goal: np.ndarray, seconds: float) -> None:
        self.update()
        for pose in np.linspace(self.pose, goal, int(seconds * HZ)):
            self.send(pose)
            time.sleep(1 / HZ)
        self.update()

    def reset(self, start: np.ndarray) -> None:
        self.post("update_param", COMPLIANCE)
        self.post("update_param", PRECISION)
        time.sleep(0.5)
        self.post("jointreset")
        time.sleep(0.5)
        self.interpolate(start, 1.5)
        self.post("update_param", COMPLIANCE)
        self.post("clearerr")
        self.update()

    def step(self, delta: np.ndarray, grip: str) -> None:
        self.post(grip)
        self.send(np.concatenate([self.pose[:3] + delta, self.pose[3:]]))
        time.sleep(1 / HZ)
        self.update()
