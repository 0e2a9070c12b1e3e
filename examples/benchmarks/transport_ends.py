"""The ends of a measured link, each a process of its own: ``python -m examples.benchmarks.transport_ends ROLE …``.

``actor`` and ``learner`` are the link with spool and store, encrypted if their folder holds keys; ``push`` and
``pull`` are a bare pyzmq pair that writes the same bytes to the same disk. A serving end prints "ready" and its
address, a calling end its figures: one for each line on its input, which is the size of a round, or all as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tyro
import zmq

from examples.benchmarks.records import DISTINCT, pictures, step
from robot_servers import wire
from robot_servers.keys import ClientKeys, ServerKeys, load_client_keys, load_server_keys
from serl_core.data.episodes import EpisodeStore
from serl_core.transport import ActorLink, LearnerLink
from serl_core.types import record_to_tree

PARAMS = {f"layer{index}": np.zeros((900, 1000), np.float32) for index in range(3)}  # 10.8 MB: an image policy


def client_keys(folder: Path) -> ClientKeys | None:
    """The keys in ``folder``, if there are any."""
    return load_client_keys(folder / "keys") if (folder / "keys").exists() else None


def server_keys(folder: Path) -> ServerKeys | None:
    """The keys in ``folder``, if there are any."""
    return load_server_keys(folder / "keys") if (folder / "keys").exists() else None


def asked() -> Iterator[int]:
    """Sizes of rounds, one per line of the standard input, until it ends."""
    return map(int, sys.stdin)


def actor(address: str, folder: Path, count: int) -> None:
    """Rounds of transitions sent as fast as they go: how many per s, until the last one is stored."""
    observations = pictures()
    with ActorLink(address, "actor", folder / "spool", keys=client_keys(folder)) as link:
        for size in asked():
            begun = time.perf_counter()
            for number in range(size):
                link.send(step(link.session, number, observations[number % DISTINCT]))
            if not link.wait_drained(300.0):
                sys.exit("the learner did not store everything within 300 s")
            print(size / (time.perf_counter() - begun), flush=True)


def paced(address: str, folder: Path, count: int) -> dict[str, float]:
    """A control loop at 50 Hz with three cameras: how long handing over a record takes, ms, and its own CPU time.

    Beside it, on the same machine at the same time: how long it takes to pack the record, and nothing else. What that
    takes longer than usual is other work on the machine.
    """
    observations = pictures(cameras=("front", "wrist", "side"))
    durations: list[float] = []
    bare: list[float] = []
    cpu: list[float] = []
    with ActorLink(address, "actor", folder / "spool") as link:
        due = time.perf_counter()
        for number in range(count):
            due += 0.02
            time.sleep(max(0.0, due - time.perf_counter()))
            record = step(link.session, number, observations[number % DISTINCT])
            begun = time.perf_counter()
            wire.pack(record_to_tree(record))
            packed, spent = time.perf_counter(), time.thread_time()
            link.send(record)
            cpu.append(1000 * (time.thread_time() - spent))
            bare.append(1000 * (packed - begun))
            durations.append(1000 * (time.perf_counter() - packed))
    return {
        "spool_p50_ms": float(np.median(durations)),
        "spool_p99_ms": float(np.quantile(durations, 0.99)),
        "spool_cpu_p99_ms": float(np.quantile(cpu, 0.99)),
        "packing_alone_p99_ms": float(np.quantile(bare, 0.99)),
    }


def waiting(address: str, folder: Path, count: int) -> dict[str, float]:
    """From `LearnerLink.publish` until an actor that looks every millisecond has ``count`` weights, ms."""
    delays: list[float] = []
    with ActorLink(address, "actor", folder / "spool") as link:
        newest = -1
        while len(delays) < count:
            weights = link.weights()
            if weights is not None and weights.version > newest:
                newest = weights.version
                delays.append(1000 * (time.monotonic() - weights.meta["at"]))
            time.sleep(0.001)
    return {"p50_ms": float(np.median(delays)), "p99_ms": float(np.quantile(delays, 0.99))}


def holding(address: str, folder: Path, count: int) -> None:
    """An actor that looks for new weights every millisecond, until killed."""
    with ActorLink(address, "actor", folder / "spool") as link:
        while True:
            link.weights()
            time.sleep(0.001)


def learner(address: str, folder: Path, count: int) -> None:
    """Store what arrives, until killed."""
    with (
        EpisodeStore(folder / "store") as store,
        LearnerLink(address, store.last_of_each(), keys=server_keys(folder)) as link,
    ):
        print("ready", link.address, flush=True)
        while True:
            arrived = link.receive(64, 0.1)
            store.extend(arrived)
            for item in arrived:
                link.ack(item.actor, item.seq)


def publisher(address: str, folder: Path, count: int) -> None:
    """Publish weights five times a second, until killed."""
    with LearnerLink(address) as link:
        print("ready", link.address, flush=True)
        version = 0
        while True:
            version += 1
            link.publish(version, PARAMS, {"at": time.monotonic()})
            time.sleep(0.2)


def push(address: str, folder: Path, count: int) -> None:
    """The raw baseline, in rounds as well: records that are packed already, without numbers, spool or answer."""
    payloads = [wire.pack(record_to_tree(step("actor", index, obs))) for index, obs in enumerate(pictures())]
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(address)
    for size in asked():
        begun = time.perf_counter()
        for number in range(size):
            socket.send(payloads[number % DISTINCT], copy=False)
        socket.send(b"")
        socket.recv()  # everything is written
        print(size / (time.perf_counter() - begun), flush=True)


def pull(address: str, folder: Path, count: int) -> None:
    """Write what comes to one file; answer the end of a series."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.bind(address)
    print("ready", socket.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
    fd = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT, 0o644)
    while True:
        frame = socket.recv(copy=False)
        if len(frame):
            os.write(fd, frame.buffer)
        else:
            socket.send(b"")


ROLES: dict[str, Callable[[str, Path, int], Any]] = {
    role.__name__: role for role in (actor, paced, waiting, holding, learner, publisher, push, pull)
}


def main(role: str, address: str, folder: Path, count: int) -> None:
    """Play one role."""
    figures = ROLES[role](address, folder, count)
    if figures is not None:
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    tyro.cli(main)
