from __future__ import annotations

import threading
from pathlib import Path

from link_ends import eventually, free_address
from link_records import step

from serl_core.actor import Recorder
from serl_core.transport import ActorLink, LearnerLink


def test_without_a_learner_the_actor_acts_on_and_says_so(tmp_path: Path) -> None:
    """Guards against an absence that nobody notices, and against an arm that stops for it unasked."""
    address, said = free_address(), list[str]()
    with ActorLink(address, "actor", tmp_path, away_after=0.2) as link:
        recorder = Recorder(link, None, stop=lambda: False, say=said.append)
        recorder(step(link.session, 0, 0))
        recorder(step(link.session, 0, 1))
        assert len(said) == 1 and said[0].startswith("learner away for") and "acting on with weights -1" in said[0]
        with LearnerLink(address):
            assert link.wait_connected(30.0)
            recorder(step(link.session, 0, 2))
        assert said[1:] == ["the learner is back"]


def test_told_to_hold_it_takes_no_step_until_the_learner_is_back(tmp_path: Path) -> None:
    """Guards against an arm that moves with old weights although it was told to hold."""
    address, said = free_address(), list[str]()
    with ActorLink(address, "actor", tmp_path, away_after=0.2) as link:
        recorder = Recorder(link, None, stop=lambda: False, hold=True, say=said.append)
        thread = threading.Thread(target=recorder, args=(step(link.session, 0, 0),))
        thread.start()
        assert eventually(lambda: bool(said))
        assert "the arm holds" in said[0]
        thread.join(0.5)
        assert thread.is_alive()
        with LearnerLink(address):
            thread.join(30.0)
        assert not thread.is_alive() and said[1:] == ["the learner is back"]


def test_an_actor_that_holds_can_be_stopped(tmp_path: Path) -> None:
    """Guards against a Ctrl-C that waits for a learner."""
    stopped = threading.Event()
    with ActorLink(free_address(), "actor", tmp_path) as link:
        recorder = Recorder(link, None, stop=stopped.is_set, hold=True, say=lambda text: stopped.set())
        recorder(step(link.session, 0, 0))
    assert stopped.is_set()
