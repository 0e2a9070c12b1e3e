"""The ends of the test of a lossy network: ``python lossy_ends.py ROLE ADDRESS FOLDER COUNT``."""

from __future__ import annotations

import sys
from pathlib import Path

from examples.benchmarks.records import DISTINCT, pictures, step
from examples.benchmarks.transport_ends import client_keys, learner
from serl_core.transport import ActorLink


def actor(address: str, folder: Path, count: int) -> None:
    """Send numbered records; end when all of them are stored."""
    observations = pictures()
    with ActorLink(address, "actor", folder / "spool", keys=client_keys(folder)) as link:
        for number in range(count):
            link.send(step(link.session, number, observations[number % DISTINCT]))
        if not link.wait_drained(120.0):
            sys.exit(f"{link.learner_lag()} records were not stored within 120 s")


if __name__ == "__main__":
    role, where, folder, count = sys.argv[1:]
    {"actor": actor, "learner": learner}[role](where, Path(folder), int(count))
