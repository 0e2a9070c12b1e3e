"""The lossless link between actors and the learner (ZeroMQ, no pickle).

What is promised: a record whose `ActorLink.send` has returned reaches the learner's store exactly
once and in order, through any kill, restart or network failure of either side. The price of a power
loss: at the learner the last second (`serl_core.data.episodes`); at the actor, of the records not yet
stored, what its operating system had not written back: half a minute, or ``spool_sync`` seconds.
Weights reach every actor, newest first; their version never goes back.

- `serl_core.link.actor`: spool on disk, resend until acknowledged, newest weights, the learner's report;
- `serl_core.link.learner`: each record once and in order, acknowledge after storing, publish, report;
- `serl_core.link.protocol`: the messages;  `serl_core.link.spool`: the actor's disk queue.

The actor's side, in short::

    with ActorLink(address, "actor0", run / "spool") as link:
        link.send(record)
        weights = link.weights()
        link.wait_until(lambda report: …, timeout=10.0)

and the learner's::

    with EpisodeStore(run / "episodes") as store, LearnerLink(address, store.last_of_each()) as link:
        arrived = link.receive(64, timeout=0.1)
        store.extend(arrived)
        for item in arrived:
            link.ack(item.actor, item.seq)
"""

from serl_core.link.actor import ActorLink, LinkStatus
from serl_core.link.learner import Delivery, LearnerLink, LearnerStatus
from serl_core.link.protocol import PROTOCOL, LinkError, Weights

__all__ = ["PROTOCOL", "ActorLink", "Delivery", "LearnerLink", "LearnerStatus", "LinkError", "LinkStatus", "Weights"]
