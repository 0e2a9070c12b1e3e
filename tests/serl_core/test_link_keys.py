"""The learner link with CURVE keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from link_ends import eventually
from link_records import start

from robot_servers.keys import load_client_keys, load_server_keys, make_keys
from serl_core.data.episodes import EpisodeStore
from serl_core.transport import ActorLink, LearnerLink, LinkError

LOOPBACK = "tcp://127.0.0.1:*"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_records_and_weights_pass_with_keys(folder: Path, tmp_path: Path) -> None:
    """Guards against a secured link that loses what it carries, in either direction."""
    with (
        LearnerLink(LOOPBACK, keys=load_server_keys(folder)) as learner,
        ActorLink(learner.address, "actor", tmp_path / "spool", keys=load_client_keys(folder)) as actor,
    ):
        learner.publish(1, {})
        actor.send(start(actor.session, 0))
        (delivery,) = learner.receive(1, timeout=20.0)
        learner.ack(delivery.actor, delivery.seq)
        assert actor.wait_drained(20.0) and actor.wait_weights(1, 20.0)


def test_no_secret_gets_into_a_run(folder: Path, tmp_path: Path) -> None:
    """Guards against keys in files that everybody on the machine can read, and that are copied and shared."""
    run = tmp_path / "run"
    keys = load_server_keys(folder)
    with (
        EpisodeStore(run / "episodes") as store,
        LearnerLink(LOOPBACK, keys=keys) as learner,
        ActorLink(learner.address, "actor", run / "spool", keys=load_client_keys(folder)) as actor,
    ):
        actor.send(start(actor.session, 0))
        (item,) = learner.receive(1, timeout=20.0)
        store.append(item.record, item.actor, item.seq, item.packed, item.crc)
        written = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    secrets = [line.strip() for path in folder.rglob("*.key") for line in path.read_bytes().splitlines()]
    assert len(written) > 100 and len(secrets) > 1
    assert not [secret for secret in secrets if secret in written]


def test_an_actor_without_keys_is_not_let_in_and_loses_nothing(folder: Path, tmp_path: Path) -> None:
    """Guards against a stranger's data in the store, and against an actor that throws away what it cannot deliver."""
    with LearnerLink(LOOPBACK, keys=load_server_keys(folder)) as learner:
        with ActorLink(learner.address, "actor", tmp_path / "spool", away_after=0.3) as actor:
            actor.send(start(actor.session, 0))
            assert not actor.wait_drained(1.5)
            assert eventually(lambda: "one side uses keys" in actor.status().text) and actor.learner_lag() == 1
        with ActorLink(learner.address, "actor", tmp_path / "spool", keys=load_client_keys(folder)):
            assert len(learner.receive(1, timeout=20.0)) == 1


def test_a_routable_learner_needs_keys(folder: Path, tmp_path: Path) -> None:
    """Guards against a link that others on the network read and write."""
    with pytest.raises(LinkError, match="without keys"):
        LearnerLink("tcp://0.0.0.0:*")
    with pytest.raises(LinkError, match="without keys"):
        ActorLink("tcp://10.0.0.2:5557", "actor", tmp_path / "spool")
    LearnerLink("tcp://0.0.0.0:*", keys=load_server_keys(folder))
