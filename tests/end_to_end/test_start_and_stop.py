"""Commands alone: what they need to start, what they say when it is missing, and what a stop leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from observed import alive, complaint, descendants, episodes, stored, wait_for

from examples.benchmarks.ports import free_ports
from serl_core import metrics
from serl_core.checkpoint import Checkpoints
from serl_core.envs.robot_env import observation_space
from serl_core.tasks import load_task
from serl_core.transport import ActorLink
from serl_core.types import EpisodeStart, Step

TASK = load_task("pick_cube")
COMPILING = 240.0  # s


def newest(run_dir: Path) -> dict:
    """The newest complete checkpoint."""
    checkpoints = Checkpoints(run_dir / "checkpoints")
    path = checkpoints.latest()
    assert path is not None
    return checkpoints.load(path)


def send_episode(link: ActorLink, number: int, length: int) -> None:
    """An episode of noise, as an actor would send it."""
    rng = np.random.default_rng(number)
    size = observation_space(TASK, "state")["state"].shape

    def obs() -> dict[str, np.ndarray]:
        return {"state": rng.normal(size=size).astype(np.float32)}

    link.send(EpisodeStart(link.session, number, obs()))
    for index in range(length):
        action = rng.uniform(-1.0, 1.0, TASK.action_dim).astype(np.float32)
        step = Step(
            actor=link.session, episode=number, step=index, action=action, proposal=action, target=np.zeros(7),
            bent=False, next_obs=obs(), reward=0.0, grasp_penalty=0.0, terminated=False, truncated=index == length - 1,
            success=False, who="policy", takeover=-1, policy_version=1, time=0.1 * index,
        )  # fmt: skip
        link.send(step)


def learn_from(address: str, spool: Path, length: int, updates: int) -> None:
    """Give the learner at ``address`` an episode, and wait until it has done so many updates in all."""
    with ActorLink(address, "noise", spool) as link:
        assert link.wait_weights(1, COMPILING)
        send_episode(link, 0, length)
        assert link.wait_until(lambda report: report["grad_steps"] == updates, COMPILING)
        assert link.wait_drained(60.0)


def test_the_learner_needs_nothing_but_its_task(start, tmp_path):
    """Guards against a learner that opens a robot, a camera or a server to find out what its data look like."""
    learner = start("learner", "--run-dir", tmp_path / "run", "--address", "tcp://127.0.0.1:*")
    (address,) = learner.ready(60.0)
    with ActorLink(address, "early", tmp_path / "spool") as link:
        assert link.wait_weights(1, 60.0)
    learner.stop()
    learner.check()
    assert newest(tmp_path / "run")["grad_steps"] == 0


def test_a_stopped_learner_goes_on_where_it_was(start, tmp_path):
    """Guards against a stop that costs the networks, the count of updates, or the order of the versions."""
    run_dir, found = tmp_path / "run", []
    for flags, length, updates in (((), 120, 20), (("--resume",), 30, 50)):  # the first 100 are not learnt from
        learner = start(
            "learner", "--run-dir", run_dir, "--address", "tcp://127.0.0.1:*", "--lockstep", "--utd", 1, *flags
        )
        learn_from(learner.ready(60.0)[0], tmp_path / "spool", length, updates)
        learner.stop()
        learner.check()
        figures = json.loads((run_dir / "learner.json").read_text())
        saved = newest(run_dir)
        assert all(figures[name] == saved[name] for name in ("grad_steps", "version"))
        found.append((figures["env_steps"], figures["grad_steps"], saved["version"]))
    assert [numbers[:2] for numbers in found] == [(120, 20), (150, 50)]
    assert found[1][2] > found[0][2]


def test_without_a_robot_server_the_actor_says_how_to_start_one(tmp_path):
    """Guards against an actor that waits for ever."""
    (port,) = free_ports(1)
    said = complaint("actor", "--run-dir", tmp_path, "--robot", f"tcp://127.0.0.1:{port}")
    assert f"no robot server answers at tcp://127.0.0.1:{port} within 5 s" in said
    assert "start one with" in said


def test_in_another_scene_the_actor_names_the_right_one(start, tmp_path):
    """Guards against a policy that acts in a scene it was not made for."""
    server = start("server", "fake", "--scene", "peg_insertion", "--port", 0, "--clock", "lockstep")
    said = complaint("actor", "--run-dir", tmp_path, "--robot", server.ready(60.0)[0])
    assert "start it with --scene pick_cube" in said


def test_ctrl_c_ends_every_process_and_keeps_the_run(start, tmp_path):
    """Guards against processes that outlive their demo, and against a stop that costs episodes or the networks."""
    run_dir = tmp_path / "run"
    demo = start("demo", "--obs", "state", "--run-dir", run_dir, "--demos", 3)

    def training() -> bool:
        demo.check()
        return any(row["grad_steps"] for row in metrics.read(run_dir / "metrics" / "learner.jsonl"))

    wait_for(training, COMPILING)
    pid = demo._process.pid
    family = descendants(pid)
    assert len(family) >= 3  # server, learner, actor
    os.kill(pid, signal.SIGINT)
    wait_for(lambda: not alive({pid, *family}), 20.0)
    assert demo._process.wait() == 130
    steps = sum(len(steps) for _, steps in episodes(run_dir))
    assert newest(run_dir)["limiter"]["stored"] == steps > 100


def test_an_actor_stopped_without_its_learner_keeps_what_it_did(start, tmp_path):
    """Guards against a Ctrl-C that waits for a learner that is gone, and against losing what was on its way."""
    run_dir, (port,) = tmp_path / "run", free_ports(1)
    server = start("server", "mujoco", "--port", 0, "--truth-port", 0, "--clock", "lockstep")
    robot, _, truth = server.ready(60.0)
    link = f"tcp://127.0.0.1:{port}"
    act = ("actor", "--run-dir", run_dir, "--robot", robot, "--truth", truth, "--learner", link)
    learn = ("learner", "--run-dir", run_dir, "--address", link, "--lockstep")

    learner, actor = start(*learn), start(*act)
    wait_for(lambda: len(stored(run_dir)) > 10, COMPILING)
    learner._process.kill()
    actor._process.send_signal(signal.SIGINT)
    actor.wait(20.0)

    start(*learn, "--resume").ready(60.0)
    start(*act, "--env-steps", 10).wait(COMPILING)
    sessions = [first.actor for first, _ in episodes(run_dir)]
    assert len(set(sessions)) == 2
    assert len(episodes(run_dir)[-1][1]) == 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_server_ends_cleanly(start, number):
    """Guards against a traceback, or a port that stays taken, after Ctrl-C."""
    server = start("server", "fake", "--port", 0)
    server.ready(60.0)
    server._process.send_signal(number)
    try:
        server.wait(20.0)
    except subprocess.TimeoutExpired:
        pytest.fail("the server did not end")
    assert len(server.output().splitlines()) == 1
