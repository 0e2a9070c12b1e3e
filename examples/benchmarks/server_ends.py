"""The other processes of the server's benchmark: a bare ZeroMQ echo with a publisher beside it, and the observers."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Literal

import tyro
import zmq

OBSERVERS = 20  # of the robot server, and as many of the echo
STATES = 500  # messages per s that the echo's publisher sends, as the server does
STATE_BYTES = 1200
READS = 20  # times per s that an observer looks


@dataclass(frozen=True)
class Config:
    """One process; it runs until it is killed."""

    role: Literal["echo", "observers"]
    addresses: tuple[str, ...] = ()  # what the observers subscribe to


def echo() -> None:
    """Sends back what comes, and publishes states that nobody made; prints both addresses."""
    context = zmq.Context()
    router, states = context.socket(zmq.ROUTER), context.socket(zmq.PUB)
    router.bind("tcp://127.0.0.1:*")
    states.bind("tcp://127.0.0.1:*")
    print(router.get_string(zmq.LAST_ENDPOINT), states.get_string(zmq.LAST_ENDPOINT), flush=True)
    due = time.monotonic()
    while True:
        if router.poll(1):
            router.send_multipart(router.recv_multipart())
        while time.monotonic() >= due:
            states.send(bytes(STATE_BYTES))
            due += 1.0 / STATES


def observers(addresses: tuple[str, ...]) -> None:
    """``OBSERVERS`` of each address, all read in turns."""
    context = zmq.Context()
    sockets = []
    for address in addresses * OBSERVERS:
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.CONFLATE, 1)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(address)
        sockets.append(socket)
    print("ready", flush=True)
    while True:
        for socket in sockets:
            if socket.poll(0):
                socket.recv()
        time.sleep(1.0 / READS)


def main(config: Config) -> int:
    """Run one role."""
    echo() if config.role == "echo" else observers(config.addresses)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
