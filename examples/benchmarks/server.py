"""How quickly and how steadily a robot server works: ``python -m examples.benchmarks.server [--json FILE]``.

The simulated arm in real time, through the real server, on whatever else the machine is doing:

- a command until it is accepted, in turns with a bare ZeroMQ echo of the same bytes; both serve 20 observers;
- a state from its measurement to an observer in another process, and the guard's own share of a command;
- 500 Hz physics with two 128×128 cameras under a 10 Hz loop: periods and steps that came late, and drift.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import tyro
import zmq

from robot_servers import wire
from robot_servers.client import RobotClient
from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Command, CommandRefused, RobotState
from robot_servers.realtime import prefer_realtime
from robot_servers.statistics import quantile
from robot_servers.stream import StateStream
from serl_core.clock import RealtimeClock
from serl_core.processes import Child, children, serl

RESULTS = Path(__file__).parent / "results"
HZ = 10.0  # of the loop that an actor runs
PAUSE = 0.002  # s between two commands: a client that does nothing else would measure its own rate
REACH = 0.01  # m of the motion that is commanded


@dataclass(frozen=True)
class Config:
    """How quickly and how steadily a robot server works."""

    commands: int = 2000  # and as many echoes, states and guarded commands
    minutes: float = 1.0  # of the 10 Hz loop; an hour shows its drift
    cameras: tuple[str, ...] = ("front", "wrist")  # rendered during the loop
    json: Path | None = None  # also write the figures here


def ahead(state: RobotState, home: np.ndarray) -> Command:
    """A target on a slow line near ``home`` (7,)."""
    target = home.copy()
    target[0] += REACH * np.sin(state.time)
    return Command(target, None, state.time)


@contextlib.contextmanager
def end(*options: str) -> Iterator[list[str]]:
    """One of the other processes, killed afterwards: the words it prints first."""
    command = [sys.executable, "-m", "examples.benchmarks.server_ends", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()
        finally:
            process.kill()


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call. A refused command was answered too: on a busy machine its state may be too old."""
    begun = time.perf_counter()
    with contextlib.suppress(CommandRefused):
        call()
    return time.perf_counter() - begun


def round_trips(robot: RobotClient, echo_address: str, count: int) -> tuple[list[float], list[float]]:
    """Seconds of commands and of echoes of the same bytes, one after the other in turns."""
    home = robot.state().pose
    with zmq.Context() as context, context.socket(zmq.DEALER) as echo:
        echo.setsockopt(zmq.LINGER, 0)
        echo.connect(echo_address)

        def bounce(frames: list[wire.Buffer]) -> None:
            echo.send_multipart(frames)
            echo.recv_multipart()

        commands, echoes = [], []
        for _ in range(count + 20):
            command = ahead(robot.state(), home)
            commands.append(timed(lambda command=command: robot.command(command)))
            frames = wire.encode({"id": 1, "call": "command", "args": [wire.to_tree(command)]})
            echoes.append(timed(lambda frames=frames: bounce(frames)))
            time.sleep(PAUSE)
    return commands[20:], echoes[20:]


def transit(address: str, count: int) -> list[float]:
    """Seconds from the measurement of a state to its arrival here: one clock, as it is one machine."""
    with StateStream(address) as stream:
        stream.wait(5.0)
        return [-(stream.wait(5.0).time - time.monotonic()) for _ in range(count)]


def latencies(config: Config, address: str) -> dict[str, float]:
    """Commands, echoes and states, with 20 observers of each server."""
    with RobotClient(address) as robot, end("--role", "echo") as (echo, states):
        watched = ("--addresses", robot.sockets["state"], states)
        with end("--role", "observers", *watched):
            commands, echoes = round_trips(robot, echo, config.commands)
            states_took = transit(address, config.commands)
    ms = {name: [1000 * value for value in values] for name, values in (("command", commands), ("echo", echoes))}
    return {
        "command_p50_ms": quantile(ms["command"], 0.5),
        "command_p99_ms": quantile(ms["command"], 0.99),
        "echo_p50_ms": quantile(ms["echo"], 0.5),
        "echo_p99_ms": quantile(ms["echo"], 0.99),
        "ratio_p50": quantile(ms["command"], 0.5) / quantile(ms["echo"], 0.5),
        "ratio_p99": quantile(ms["command"], 0.99) / quantile(ms["echo"], 0.99),
        "transit_p50_ms": 1000 * quantile(states_took, 0.5),
        "transit_p99_ms": 1000 * quantile(states_took, 0.99),
    }


def guard(count: int) -> float:
    """Median µs that the guard adds to a command, without any socket."""
    robot = GuardedRobot(MujocoDriver("reach"))
    robot.connect()
    try:
        robot.advance(2.0)  # past the soft start
        home, took = robot.state().pose, []
        for _ in range(count):
            command = ahead(robot.state(), home)
            took.append(timed(lambda command=command: robot.command(command)))
            robot.advance(0.02)
        return 1e6 * median(took)
    finally:
        robot.close()


def loop(address: str, minutes: float) -> dict[str, float]:
    """What an actor does, ten times a second: how often it and the robot's own periods came late."""
    with RobotClient(address) as robot:
        home, clock = robot.state().pose, RealtimeClock(1.0 / HZ)
        before, steps = robot.status(), round(60 * minutes * HZ)
        clock.start()
        begun = time.monotonic()
        for _ in range(steps):
            command = ahead(robot.state(), home)
            timed(lambda command=command: robot.command(command))
            robot.frames()
            clock.tick()
        drift, after = time.monotonic() - begun - steps / HZ, robot.status()
    cycles = after.cycles - before.cycles
    return {
        "loop_steps": steps,
        "loop_late_steps": clock.late,
        "loop_drift_ms": 1000 * drift,
        "loop_refused": after.refused - before.refused,
        "cycles": cycles,
        "late_cycles_percent": 100 * (after.late - before.late) / cycles,
    }


def scheduling() -> str:
    """What a server's cycle gets here."""
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(prefer_realtime()))
    thread.start()
    thread.join()
    return said[0].partition(":")[0]


def measure(config: Config) -> dict[str, float | str]:
    """One row of figures."""
    with children() as running, tempfile.TemporaryDirectory() as logs:

        def serve(*options: str) -> str:
            command = serl("server", "mujoco", "--scene", "reach", "--port", "0", *options)
            running.append(Child("server", command, Path(logs) / f"{len(running)}.log"))
            return running[-1].ready(60.0)[0]

        figures = latencies(config, serve())
        running.pop().stop()
        figures |= loop(serve("--cameras", *config.cameras), config.minutes)
    figures["guard_median_us"] = guard(config.commands)
    rounded: dict[str, float | str] = {name: round(value, 3) for name, value in figures.items()}
    return {**rounded, "scheduling": scheduling(), "cores": os.cpu_count() or 0, "load": round(os.getloadavg()[0], 1)}


def main(config: Config) -> int:
    """Measure, print, and write the CSV."""
    row = measure(config)
    for name, value in row.items():
        print(f"{name:<20} {value}")
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "server.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    if config.json:
        config.json.write_text(json.dumps(row, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog="python -m examples.benchmarks.server", description=__doc__)))
