"""An actor or a learner as a process of its own, for tests that kill it.

python link_peer.py actor ADDRESS RUN_DIR COUNT      counts from RUN_DIR/count on, one number per record
python link_peer.py learner ADDRESS RUN_DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from link_records import step

from serl_core.data.episodes import EpisodeStore
from serl_core.transport import ActorLink, LearnerLink


def actor(address: str, run: Path, count: int) -> None:
    journal = run / "sent"
    with ActorLink(address, "actor", run / "spool", away_after=0.5) as link, journal.open("ab", buffering=0) as file:
        for _ in range(count):
            number = link.send(step(link.session, 0, 0))
            file.write(f"{link.session} {number}\n".encode())
        link.wait_drained(60.0)


def learner(address: str, run: Path) -> None:
    with EpisodeStore(run / "episodes") as store, LearnerLink(address, store.last_of_each()) as link:
        while True:
            for item in link.receive(16, 0.1):
                store.append(item.record, item.actor, item.seq, item.packed)
                link.ack(item.actor, item.seq)


if __name__ == "__main__":
    if sys.argv[1] == "actor":
        actor(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        learner(sys.argv[2], Path(sys.argv[3]))
