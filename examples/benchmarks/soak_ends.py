"""The ends of a soak: ``python -m examples.benchmarks.soak_ends ROLE …``, each to be killed.

The actor drives a robot server with the loop of ``serl actor`` and notes the number of a record in FOLDER/sent once
its spooling has returned. The learner notes in FOLDER/arrived when it stored the first record of its life, and of
each episode when that was begun.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from examples.benchmarks.soak_phases import note
from examples.benchmarks.transport_ends import client_keys, server_keys
from robot_servers.drivers.fake import HOME, LIMITS, count_image, image_count
from robot_servers.interface import RobotError
from serl_core.checkpoint import Checkpoints
from serl_core.config import StartPose, Task
from serl_core.data.episodes import EpisodeStore
from serl_core.data.replay import Replay, as_frames
from serl_core.data.sampling import Sampling
from serl_core.envs.robot_env import observation_space
from serl_core.outage import OutlivesServer
from serl_core.rollout import Decision, Identity, rollout
from serl_core.session import Session, connected, make_env
from serl_core.transport import ActorLink, LearnerLink
from serl_core.types import EpisodeStart, Judgement, Message, Obs, Record

CAMERAS = ("front", "wrist")
TASK = Task(
    name="soak",
    scene="",
    max_steps=50,
    start=StartPose(HOME, noise=(0.0, 0.0, 0.0)),
    limits=LIMITS,
    axes=("x", "y", "z"),
    step_translation=1e-3,
    gripper=False,
    cameras=CAMERAS,
)
CHECKPOINT_EVERY = 200  # updates
PARAMS = {"dense": np.zeros((500, 500), np.float32)}
PATIENCE = 120.0  # s

log = logging.getLogger(__name__)


def number_of(record: Record) -> int:
    """The number that the actor gave it."""
    return record.meta["number"] if isinstance(record, EpisodeStart) else record.policy_version


def is_whole(record: Record) -> bool:
    """Whether its pictures are as the robot made them."""
    obs = record.obs if isinstance(record, EpisodeStart) else record.next_obs
    return all(np.array_equal(obs[name], count_image(image_count(obs[name]), 128, 128)) for name in CAMERAS)


class Journal:
    """Numbers the records, spools them at ``rate`` per second at most, and notes those whose spooling returned."""

    def __init__(self, link: ActorLink, folder: Path, rate: float) -> None:
        self._link, self._period = link, 1.0 / rate
        self._file = (folder / "sent").open("ab", buffering=0)
        self._number = 0
        self._due = time.monotonic()
        self._newest = -1

    def __call__(self, record: Record) -> None:
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due = max(self._due + self._period, time.monotonic() - 1.0)
        self._number += 1
        if isinstance(record, EpisodeStart):
            record = replace(record, meta={"number": self._number, "begun": time.monotonic()})
        else:
            record = replace(record, policy_version=self._number)
        self._file.write(f"{self._link.session} {self._link.send(record)}\n".encode())
        weights = self._link.weights()
        self._newest, older = (weights.version if weights else -1), self._newest
        if self._newest < older:
            sys.exit(f"weights {self._newest} after weights {older}")


def reached(stack: contextlib.ExitStack, robot: str) -> Session:
    """The robot, as soon as its server is there and nobody else's. Raises RobotError if that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return stack.enter_context(connected(TASK, "pixels", robot))
        except RobotError as error:
            log.info("%s", error)
            if time.monotonic() > deadline:
                raise


def actor(address: str, robot: str, folder: Path, rate: float) -> None:
    """Drive the robot and spool what happens, until killed."""
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(
            ActorLink(address, "actor", folder / "spool", away_after=0.5, keys=client_keys(folder))
        )
        note(folder, "actor", "the spool is open")
        session = reached(stack, robot)
        note(folder, "actor", "the robot is its own")
        log.info("session %s has the robot", link.session)
        env: gym.Env[Any, Any] = make_env(session, TASK, "pixels", None, 0)
        env = OutlivesServer(env, [session.robot], stop=lambda: False)
        rng = np.random.default_rng(0)

        def policy(obs: Obs) -> Decision:
            return Decision(rng.uniform(-1.0, 1.0, TASK.action_dim).astype(np.float32))

        rollout(env, policy, [Journal(link, folder, rate)], identity=Identity(link.session), seeds=count())


def drain(address: str, robot: str, folder: Path, rate: float) -> None:
    """Wait until everything that actors left in the spool is stored."""
    with ActorLink(address, "actor", folder / "spool", keys=client_keys(folder)) as link:
        if not link.wait_drained(PATIENCE):
            sys.exit(f"{link.learner_lag()} records were not stored within {PATIENCE:.0f} s")


def learner(address: str, robot: str, folder: Path, rate: float) -> None:
    """Store, replay, sample, publish and checkpoint until killed; go on from the newest checkpoint."""
    checkpoints = Checkpoints(folder / "checkpoints")
    latest = checkpoints.latest()
    updates = checkpoints.load(latest)["updates"] if latest else 0
    spaces = observation_space(TASK, "pixels")
    example = {name: np.zeros(box.shape or (), box.dtype) for name, box in spaces.items()}
    replay = Replay(2000, example, TASK.action_dim, as_frames)
    alone = True
    with (
        EpisodeStore(folder / "episodes") as store,
        LearnerLink(address, store.last_of_each(), keys=server_keys(folder)) as link,
        (folder / "arrived").open("ab", buffering=0) as journal,
    ):
        note(folder, "learner", "the store is open")
        log.info("the learner listens")
        while True:
            arrived = link.receive(64, 0.05)
            store.extend(arrived)
            for item in arrived:
                link.ack(item.actor, item.seq)
                if alone:
                    journal.write(f"{time.monotonic()} life\n".encode())
                    alone = False
                if isinstance(item.record, EpisodeStart):
                    journal.write(f"{time.monotonic()} {item.record.meta['begun']}\n".encode())
                learn_from(replay, item.record)
            if replay.size("online"):
                replay.gather(np.resize(replay.slots("online"), 32), Sampling(0.97))
                updates += 1
                if updates % CHECKPOINT_EVERY == 0:
                    checkpoints.save(updates, {"updates": updates})
                    link.publish(time.time_ns(), PARAMS)


def learn_from(replay: Replay, record: Message) -> None:
    """Into replay, unless it belongs to an episode that began before this life of the learner."""
    if isinstance(record, Judgement):
        return
    try:
        replay.insert(record)
    except ValueError as error:
        if "no start of this episode" not in str(error):
            raise


def main(role: str, address: str, robot: str, folder: Path, rate: float) -> None:
    """Play one role."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s.%(msecs)03d %(message)s", datefmt="%H:%M:%S")
    log.info("%s starts", role)
    note(folder, role, "started, all imported")
    {"actor": actor, "drain": drain, "learner": learner}[role](address, robot, folder, rate)


if __name__ == "__main__":
    tyro.cli(main)
