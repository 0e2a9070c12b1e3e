"""A person corrects the judge while it trains: from a page in a browser to the learner's store."""

from __future__ import annotations

from observed import labels, steps, wait_for
from phone import Phone

from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import HardExample, hard_examples

COMPILING = 240.0  # s


def test_verdicts_reach_the_learners_store_once(start, tmp_path):
    """Guards the whole chain of real processes: page, actor, judge, spool, learner, label; and STOP past the loop."""
    run_dir = tmp_path / "run"
    server = start("server", "mujoco", "--port", 0, "--truth-port", 0, "--clock", "lockstep")
    robot, _, truth = server.ready(60.0)
    learner = start("learner", "--run-dir", run_dir, "--address", "tcp://127.0.0.1:*", "--lockstep", "--utd", 1)
    (link,) = learner.ready(60.0)
    actor = start(
        *("actor", "--run-dir", run_dir, "--robot", robot, "--truth", truth, "--learner", link),
        *("--console", "page:0", "--who", "anna"),
    )
    phone = Phone(actor)
    wait_for(lambda: len(steps(run_dir)) > 5, COMPILING)

    phone.ask("say", "missed_success")
    wait_for(lambda: len(labels(run_dir)) == 1, 60.0)
    (missed,) = labels(run_dir)
    assert (missed.verdict, missed.source, missed.who, missed.wrong) == ("success", "person", "anna", "missed_success")
    ended = [one for one in steps(run_dir) if (one.episode, one.step) == (missed.episode, missed.step)]
    assert [(one.success, one.terminated) for one in ended] == [(True, True)]
    newest = EpisodeStore(run_dir / "episodes").labels.newest()
    assert hard_examples(newest) == [HardExample(missed.actor, missed.episode, missed.step, "missed_success")]
    assert "advice" in phone.ask("status")["status"]

    assert phone.ask("say", "stop") == {"said": "stop"}
    wait_for(lambda: "STOP by page" in server.log.read_text(), 60.0)
    assert len(labels(run_dir)) == 1
    actor._process.kill()  # it waits for somebody to recover the robot
