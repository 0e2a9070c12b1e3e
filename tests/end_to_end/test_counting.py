"""From the arm's cycle to the learner's replay, over real sockets: every frame carries the count of cycles."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from robot_servers.client import RobotClient
from robot_servers.drivers.fake import HOME, LIMITS, FakeDriver, count_image, image_count
from robot_servers.guarded import GuardedRobot
from robot_servers.server import Server
from serl_core.clock import LockstepClock
from serl_core.config import Expert, Goal, StartPose, Task
from serl_core.data.episodes import EpisodeStore
from serl_core.data.replay import Replay
from serl_core.data.sampling import Sampling
from serl_core.envs.robot_env import RobotEnv, observation_space
from serl_core.rollout import Decision, Identity, rollout
from serl_core.transport import ActorLink, LearnerLink
from serl_core.types import EpisodeStart, Obs, Record, Step

EPISODES, STEPS, CYCLES = 6, 12, 10  # cycles: of the arm, per step
COUNT = Task(
    name="count",
    scene="",
    max_steps=STEPS,
    start=StartPose(HOME, noise=(0.0, 0.0, 0.0)),
    limits=LIMITS,
    expert=Expert(lambda state, truth: Goal(state.pose, 1.0), lambda state, truth: 0.0),
    privileged=lambda state, truth: np.zeros(0),
    privileged_dim=0,
    axes=("x",),
    step_translation=1e-4,
    gripper=False,
    cameras=("front",),
)


def counted(obs: Obs) -> int:
    """The count in a frame; asserts that the frame is whole."""
    number = image_count(obs["front"])
    assert np.array_equal(obs["front"], count_image(number, 128, 128))
    return number


def counting(obs: Obs) -> dict[str, np.ndarray]:
    """What replay keeps of an observation: its number."""
    return {"count": np.array(counted(obs), np.int32)}


def mark(number: int) -> np.ndarray:
    """An action that tells which frame it answers."""
    return np.array([number % 997 / 997], np.float32)


class Agent:
    """Answers every frame with its mark, and numbers its decisions."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, obs: Obs) -> Decision:
        self.seen.append(counted(obs))
        return Decision(mark(self.seen[-1]), version=len(self.seen))


class ActorSide:
    """Sends what the rollout tells; `restart` is the end of one actor process and the start of the next."""

    def __init__(self, address: str, spool: Path) -> None:
        self._where = (address, "arm", spool)
        self.link = ActorLink(*self._where, away_after=0.3).connect()

    def restart(self) -> None:
        self.link.close()
        self.link = ActorLink(*self._where, away_after=0.3).connect()

    def __call__(self, record: Record) -> None:
        self.link.send(record)


class LearnerSide:
    """Stores and inserts; `restart` loses what was received and not yet stored, as a kill would."""

    def __init__(self, folder: Path) -> None:
        self.store = EpisodeStore(folder)
        self.open("tcp://127.0.0.1:*")

    def open(self, address: str) -> None:
        self.store.open()
        self.link = LearnerLink(address, self.store.last_of_each()).bind()
        spaces = observation_space(COUNT, "pixels")
        example = {name: np.zeros(box.shape or (), box.dtype) for name, box in spaces.items()}
        self.replay = Replay(1000, example, COUNT.action_dim, encode=counting)
        for record in self.store.records():
            self.replay.insert(record)

    def close(self) -> None:
        self.link.close()
        self.store.close()

    def restart(self) -> None:
        assert self.link.receive(64, timeout=5.0)
        self.close()
        self.open(self.link.address)

    def take(self, timeout: float = 0.0) -> None:
        for item in self.link.receive(64, timeout):
            self.store.append(item.record, item.actor, item.seq, item.packed, item.crc)
            self.replay.insert(item.record)
            self.link.ack(item.actor, item.seq)


@contextlib.contextmanager
def served_arm() -> Iterator[RobotClient]:
    robot = GuardedRobot(FakeDriver(cameras=("front",)))
    robot.connect()
    with Server(robot, "tcp://127.0.0.1:*") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with RobotClient(server.address) as client:
                yield client
        finally:
            server.stop()
            thread.join()
            robot.close()


@pytest.mark.parametrize(
    "interruptions",
    [{}, {19: "actor", 48: "actor"}, {19: "learner", 48: "learner"}, {19: "actor", 33: "learner", 34: "actor"}],
    ids=["undisturbed", "actor", "learner", "both"],
)
def test_nothing_is_lost_repeated_or_reordered(interruptions, tmp_path):
    """Guards the whole way from a cycle of the arm to replay, also over restarts of either side amid an episode."""
    agent, learner = Agent(), LearnerSide(tmp_path / "episodes")
    actor = ActorSide(learner.link.address, tmp_path / "spool")
    records = count(1)

    def disturb(record: Record) -> None:
        number = next(records)
        if number in interruptions:
            {"actor": actor.restart, "learner": learner.restart}[interruptions[number]]()
        elif number % 5 == 0:  # meanwhile a few records are under way
            learner.take()

    with served_arm() as robot, contextlib.closing(learner), contextlib.ExitStack() as stack:
        stack.callback(lambda: actor.link.close())
        env = RobotEnv(robot, COUNT, LockstepClock(1.0 / COUNT.control_hz, robot.advance), "pixels")
        rollout(env, agent, [actor, disturb], identity=Identity("arm"), seeds=range(EPISODES), stop=lambda: False)
        deadline = time.monotonic() + 60.0
        while actor.link.learner_lag():
            assert time.monotonic() < deadline
            learner.take(timeout=0.05)
        assert learner.link.status().lost == 0
    check_store(list(learner.store.records()), agent)
    check_replay(learner.replay, agent)


def check_store(records: list[Record], agent: Agent) -> None:
    """Episodes, steps, decisions and cycles follow each other without a gap."""
    assert len(records) == EPISODES * (STEPS + 1)
    acted_on, decisions, before = [], count(1), 0
    for number, record in enumerate(records):
        episode, position = divmod(number, STEPS + 1)
        assert record.episode == episode
        if isinstance(record, EpisodeStart):
            assert position == 0
            assert counted(record.obs) > before
            before = counted(record.obs)
        else:
            check_step(record, position - 1, before)
            assert record.policy_version == next(decisions)
            acted_on.append(before)
            before += CYCLES
    assert acted_on == agent.seen


def check_step(step: Step, index: int, before: int) -> None:
    """One step further: its action answers the frame before it, its time is that of the frame it led to."""
    assert step.step == index
    assert counted(step.next_obs) == before + CYCLES
    assert step.time == pytest.approx((before + CYCLES) / 100.0)
    assert np.array_equal(step.action, mark(before))
    assert step.truncated == (index == STEPS - 1)


def check_replay(replay: Replay, agent: Agent) -> None:
    """What is learnt from pairs each frame with the action that answered it and with the frame one step later."""
    batch = replay.gather(replay.slots("online"), Sampling(0.9))
    seen, led_to = batch["obs"]["count"], batch["next_obs"]["count"]
    assert sorted(seen) == agent.seen
    assert np.array_equal(led_to - seen, np.full(EPISODES * STEPS, CYCLES))
    assert np.array_equal(batch["action"], np.stack([mark(number) for number in seen]))
