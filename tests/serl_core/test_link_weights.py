from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from link_ends import actor, eventually, fake_learner, next_ping, welcome
from link_records import start

from examples.benchmarks.ports import free_address
from robot_servers import wire
from serl_core.link import protocol
from serl_core.transport import LearnerLink, LinkError


def params(version: int) -> dict[str, dict[str, np.ndarray]]:
    return {"dense": {"kernel": np.full((50, 50), version, np.float32)}}


def test_a_late_actor_jumps_to_the_newest_weights(tmp_path: Path) -> None:
    """Guards against bug 5: a late or slow actor works through old versions, or waits for the next one."""
    address = free_address()
    with LearnerLink(address) as end:
        for version in range(1, 50):
            end.publish(version, params(version), {"step": version})
        with actor(address, tmp_path) as link:
            assert link.weights() is None
            assert link.wait_weights(49, 10.0)
            weights = link.weights()
    assert weights is not None and weights.version == 49 and weights.meta == {"step": 49}
    np.testing.assert_array_equal(weights.params["dense"]["kernel"], params(49)["dense"]["kernel"])


def test_the_version_never_goes_back(tmp_path: Path) -> None:
    """Guards against bug 5: a learner that starts over makes the actor act with older weights."""
    address = free_address()
    with actor(address, tmp_path) as link:
        with LearnerLink(address) as end:
            end.publish(7, params(7))
            assert link.wait_weights(7, 10.0)
            with pytest.raises(LinkError, match="versions must rise"):
                end.publish(7, params(7))
        with LearnerLink(address) as end:
            end.publish(3, params(3))
            assert eventually(lambda: bool(end.status().actors))
            assert not link.wait_weights(8, 0.3)
            assert link.status().weights_version == 7
            end.publish(8, params(8))
            assert link.wait_weights(8, 10.0)


def test_damaged_and_older_weights_are_refused(tmp_path: Path) -> None:
    """Guards against acting with weights that changed on the way; they are asked for again."""
    with fake_learner() as (router, address), actor(address, tmp_path) as link:
        ident = welcome(router)
        frames = wire.encode({"params": params(1), "meta": {}})
        for version, crc in ((1, 0), (2, protocol.checksum(frames)), (1, protocol.checksum(frames))):
            head = protocol.message(protocol.WEIGHTS, version=version, crc=crc)
            router.send_multipart([ident, *head, *frames])
            assert eventually(lambda version=version: next_ping(router).get("got") == version)
        assert link.status().weights_version == 2


def test_a_report_wakes_the_waiting_actor(tmp_path: Path) -> None:
    """Guards against a lockstep brake that sleeps through the learner's progress."""
    address = free_address()
    with LearnerLink(address) as end, actor(address, tmp_path) as link:
        assert not link.wait_until(lambda report: report.get("granted", 0) >= 1, 0.05)
        for granted in range(1, 200):
            end.report({"granted": granted})
            assert link.wait_until(lambda report, granted=granted: report.get("granted", 0) >= granted, 5.0)
        assert link.status().report == {"granted": 199}


def test_a_late_actor_hears_the_last_report(tmp_path: Path) -> None:
    """Guards against an actor that waits for a report which was sent before it came."""
    address = free_address()
    with LearnerLink(address) as end:
        end.report({"granted": 5})
        with actor(address, tmp_path) as link:
            assert link.wait_until(lambda report: report.get("granted") == 5, 5.0)


def test_the_state_of_the_link_is_visible(tmp_path: Path) -> None:
    """Guards against a robot that goes on for hours while nobody notices that the learner is gone."""
    address = free_address()
    with actor(address, tmp_path) as link:
        with LearnerLink(address):
            assert eventually(lambda: link.status().text == "connected")
        assert eventually(lambda: not link.status().connected)
        assert link.status().text.startswith("learner away for ")
        link.send(start(link.session, 0))
        assert link.status().unacked == 1
