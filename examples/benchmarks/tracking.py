"""How closely an emulated Franka follows a line: ``python -m examples.benchmarks.tracking [--json FILE]``.

Targets at 100 Hz on a line of ±3 cm at 0.25 Hz, given to the real libfranka in three ways: to franky alone, through our
guard and driver with the filter of targets switched off, and with it on, as the driver is used. SERL's filter has a
time constant of 0.2 s, which alone is a mean distance of 6 mm from this line, for any controller.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from robot_servers.drivers.franka import FrankaDriver
from robot_servers.drivers.franka_arm import FrankaArm
from robot_servers.drivers.franka_gains import Gains
from robot_servers.drivers.franka_model import FR3, FRANKA_HAND, tcp_pose
from robot_servers.grippers.none import NoGripper
from robot_servers.guarded import GuardedRobot
from robot_servers.impedance import FILTER_PER_MS
from robot_servers.interface import Array, Command, Compliance, Limits
from robot_servers.realtime import prefer_realtime
from serl_core.franka_sim.launch import emulated_franka

RESULTS = Path(__file__).parent / "results"
RATE = 100.0  # Hz, of targets
AMPLITUDE, FREQUENCY = 0.03, 0.25  # m, Hz
SETTLE = 2.0  # s before the line: the soft start
LIMITS = Limits((0.2, -0.4, 0.02), (0.8, 0.4, 0.8))
CLIPS = (0.05, 0.05, 0.05)  # m, out of the way: what is measured is the tracking
Arm = tuple[Callable[[], Array], Callable[[Array], None]]  # the measured pose (7,), and a new target


@dataclass(frozen=True)
class Config:
    """How closely an emulated Franka follows a line."""

    seconds: float = 12.0  # three periods of the line
    stiffness: tuple[float, ...] = (800.0, 2000.0)  # N/m; damping is critical
    json: Path | None = None  # also write the figures here


@contextlib.contextmanager
def franky_alone(host: str, stiffness: float) -> Iterator[Arm]:
    """The client library's own tracker, critically damped."""
    arm = FrankaArm(host, FR3, realtime=False)
    arm.connect()
    try:
        raw = arm.read()
        arm.set_tcp(raw, np.array(FRANKA_HAND.tcp))
        time.sleep(0.2)  # until it shows in the states
        gains = np.repeat([stiffness, 75.0], 3)
        q = arm.read().q
        arm.track(tcp_pose(q, FRANKA_HAND), q, Gains(gains, 2.0 * np.sqrt(gains), np.zeros(7), np.zeros(7)))
        yield lambda: tcp_pose(arm.read().q, FRANKA_HAND), arm.aim
    finally:
        arm.close()


@contextlib.contextmanager
def guarded(host: str, stiffness: float, filter_per_ms: float) -> Iterator[Arm]:
    """Our driver behind its guard."""
    driver = FrankaDriver(
        host, NoGripper(), LIMITS, FRANKA_HAND, joints=FR3, realtime=False, filter_per_ms=filter_per_ms
    )
    damping = 2.0 * math.sqrt(stiffness)
    compliance = Compliance(stiffness, damping, translational_clip=CLIPS, translational_clip_neg=CLIPS)
    robot = GuardedRobot(driver, compliance=compliance, prepare=prefer_realtime)
    robot.connect()

    def aim(target: Array) -> None:
        robot.command(Command(target, None, robot.state().time))

    try:
        yield lambda: robot.state().pose, aim
    finally:
        robot.close()


def follow(arm: Arm, seconds: float) -> dict[str, float]:
    """Mean and greatest distance, mm, between the measured TCP and the target of the same moment."""
    measured, aim = arm
    time.sleep(SETTLE)
    start, begun, distances = measured(), time.monotonic(), []
    for tick in range(round(seconds * RATE)):
        time.sleep(max(0.0, begun + tick / RATE - time.monotonic()))
        target = start.copy()
        target[1] += AMPLITUDE * math.sin(2 * math.pi * FREQUENCY * (time.monotonic() - begun))
        aim(target)
        distances.append(1000 * float(np.linalg.norm(measured()[:3] - target[:3])))
    return {"mean_mm": round(float(np.mean(distances)), 2), "max_mm": round(max(distances), 2)}


def main(config: Config) -> None:
    """Measure, print, and write the table."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, emulated_franka(Path(folder) / "log") as (host, _):
        for stiffness in config.stiffness:
            ways = {
                "franky alone": franky_alone(host, stiffness),
                "guard and driver, no filter of targets": guarded(host, stiffness, 1.0),
                "guard and driver": guarded(host, stiffness, FILTER_PER_MS),
            }
            for name, way in ways.items():
                with way as arm:
                    rows.append({"way": name, "stiffness": stiffness, **follow(arm, config.seconds)})
                print(
                    "{way:<40} {stiffness:>6.0f} N/m  mean {mean_mm:5.2f} mm  max {max_mm:5.2f} mm".format(**rows[-1])
                )
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    with (RESULTS / "tracking.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "machine"])
        writer.writeheader()
        writer.writerows({**row, "machine": machine} for row in rows)
    if config.json is not None:
        config.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Config))
