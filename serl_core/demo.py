"""``serl demo``: the whole loop on a simulated arm, as the real processes: record, train, evaluate."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Literal

from serl_core import metrics
from serl_core.config import START_AFTER, ConfigError, Observation, Preset
from serl_core.data.episodes import EpisodeStore
from serl_core.franka_sim import launch as franka_sim
from serl_core.processes import Child, children, serl
from serl_core.progress import Progress, progress
from serl_core.simulated import server_options
from serl_core.summary import Tally, read_json, write_json
from serl_core.tasks import load_task

LEARNER_FINISHES = 120.0  # s for the last updates; lockstep never leaves it more than 20 transitions behind
# Of the learner: in real time everything else comes first. A simulated arm waits for it, and so does who watches.
NICE = {"simulated": 0, "franka-sim": 19}
RECENT = 20  # episodes behind the rates shown while it trains


@dataclass(frozen=True)
class Config:
    """Record demonstrations, train with interventions, evaluate: everything on a simulated arm."""

    task: str = "pick_cube"  # task by name, or the path of a task file
    obs: Observation = "pixels"  # what the policy sees: the cameras' "pixels", or "state" with the scene's truth
    robot: Literal["simulated", "franka-sim"] = "simulated"  # "franka-sim": the real libfranka, in real time
    seed: int = 0
    run_dir: Path | None = None  # where everything goes; default: runs/TASK-OBS-DATE
    env_steps: int | None = None  # steps of training; default: 6 000 from pixels, 5 000 from state
    eval_episodes: int = 100  # episodes of the final evaluation
    demos: int = 20  # demonstrations to record first
    demo_steps: int = 0  # record on until this many demonstration steps are kept
    operator: Literal["scripted", "none"] = "scripted"  # who corrects the policy while it learns
    preset: Preset = "default"  # "plain": RLPD without our additions; "rlpd": that with the paper's ten critics
    utd: int | None = None  # critic updates per step; default: 2 from pixels, 4 from state
    trunk: str = "small"  # frozen image trunk: small, resnet10, resnet18
    trunk_weights: Path | None = None  # its weights; the small one comes with the package


BUDGETS = {"pixels": (6_000, 2), "state": (5_000, 4)}  # steps of training, critic updates per step
FRAMES_PER_STEP, ROOM = 2, 10_000  # of replay: each step has one frame, each episode one more; demonstrations


def budget(config: Config) -> tuple[int, int]:
    """Steps of training, and critic updates per step."""
    steps, utd = BUDGETS[config.obs]
    return (steps if config.env_steps is None else config.env_steps), (utd if config.utd is None else config.utd)


class Demo:
    """The processes of one demo, started in order; `run` is the story."""

    def __init__(self, config: Config, run_dir: Path, running: list[Child]) -> None:
        self.config = config
        self.run_dir = run_dir
        self._running = running
        self.env_steps, self.utd = budget(config)
        self._common = ("--task", config.task, "--obs", config.obs, "--seed", config.seed)
        self._weights = () if config.trunk_weights is None else ("--trunk-weights", config.trunk_weights)

    def start(self, name: str, *arguments: str | int | Path) -> Child:
        """Start ``serl NAME …`` with its log in the run directory."""
        child = Child(name, serl(name, *arguments), self.run_dir / "logs" / f"{name}.log")
        self._running.append(child)
        return child

    def run(self) -> dict[str, object]:
        """Serve, record, train, evaluate; returns the summary."""
        begun = time.monotonic()
        robot = self.serve()
        demonstrations = self.record(robot)
        self.train(robot)
        self.evaluate(robot)
        return {**self.summary(), **demonstrations, "wall_s": round(time.monotonic() - begun, 1)}

    def serve(self) -> tuple[str | Path, ...]:
        """Start the simulated arm; returns the options that lead to it."""
        task = load_task(self.config.task)
        if self.config.robot == "franka-sim":
            return self.serve_franka()
        server = self.start("server", "mujoco", *server_options(task, self.config.obs))
        robot, _, truth = server.ready(timeout=60.0)
        return ("--robot", robot, "--truth", truth)

    def serve_franka(self) -> tuple[str | Path, ...]:
        """Start an emulated Franka, and the server that would serve a real one; no ground truth."""
        emulator = franka_sim.start(self.run_dir / "logs" / "franka-sim.log")
        self._running.append(emulator)
        (address,) = emulator.ready(franka_sim.STARTS)
        real = ("--address", address, "--tool", "franka-hand", "--waive-realtime", "--task", self.config.task)
        server = self.start("server", "franka", *real, "--port", 0)
        return ("--robot", server.ready(timeout=60.0)[0])

    def record(self, robot: tuple[str | Path, ...]) -> dict[str, int]:
        """Record the demonstrations."""
        out = self.run_dir / "demos"
        config = self.config
        child = self.start(
            "record", "--out", out, *self._common, *robot, "--episodes", config.demos, "--steps", config.demo_steps
        )
        with progress("recording demonstrations", config.demos) as bar:
            while child.running():
                bar.update(min(len(metrics.read(out / "metrics.jsonl")), config.demos))  # more if --demo-steps asks
                time.sleep(0.2)
        child.wait()
        kept = metrics.read(out / "metrics.jsonl")
        return {"demos": len(kept), "demo_steps": int(sum(line["steps"] for line in kept))}

    def train(self, robot: tuple[str | Path, ...]) -> None:
        """Learner and actor side by side until the steps are done and learnt from."""
        config = self.config
        if self.trained():
            return
        common = ("--run-dir", self.run_dir, "--env-steps", self.env_steps, "--resume", *self._common)
        pace = ("--lockstep",) if config.robot == "simulated" else ()  # a real arm waits for nobody
        settings = (*pace, "--preset", config.preset, "--utd", self.utd, "--trunk", config.trunk, *self._weights)
        room = ("--capacity", FRAMES_PER_STEP * self.env_steps + ROOM)
        place = ("--address", "tcp://127.0.0.1:*", "--nice", NICE[config.robot])
        learner = self.start("learner", *common, *settings, *room, *place)
        (address,) = learner.ready(timeout=120.0)
        actor = self.start(
            "actor", *common, *robot, "--learner", address, "--operator", config.operator, *self._weights
        )
        with progress("training (steps)", self.env_steps) as bar:
            while actor.running():
                actor.check()
                learner.check()
                self.show(bar)
                time.sleep(0.5)
        actor.wait()
        learner.wait(LEARNER_FINISHES)

    def trained(self) -> bool:
        """Whether an earlier call has done all the steps already."""
        figures = self.run_dir / "learner.json"
        return figures.exists() and read_json(figures)["env_steps"] >= self.env_steps

    def show(self, bar: Progress) -> None:
        """Success and intervention rates of the last episodes."""
        episodes = metrics.read(self.run_dir / "metrics" / "actor.jsonl")
        if not episodes:
            return
        recent = episodes[-RECENT:]
        alone = [line for line in recent if not line["operator_steps"]]
        success = sum(bool(line["success"]) for line in alone)
        helped = sum(line["operator_steps"] for line in recent) / sum(line["steps"] for line in recent)
        note = f"last {len(recent)} episodes: {success} alone and successful, operator drove {helped:.0%} of the steps"
        bar.update(int(episodes[-1]["total_steps"]), note)

    def evaluate(self, robot: tuple[str | Path, ...]) -> None:
        """Evaluate the final checkpoint, alone."""
        child = self.start("eval", self.run_dir, "--episodes", self.config.eval_episodes, *robot, *self._weights)
        with progress("evaluating", self.config.eval_episodes) as bar:
            while child.running():
                bar.update(len(metrics.read(self.run_dir / "metrics" / "eval.jsonl")))
                time.sleep(0.2)
        child.wait()
        print(child.output().strip().splitlines()[-1], flush=True)

    def summary(self) -> dict[str, object]:
        """What the processes report, put together."""
        learner, tally = read_json(self.run_dir / "learner.json"), Tally()
        for record in EpisodeStore(self.run_dir / "episodes").records():
            tally(record)
        ages = [row["weight_age_steps"] for row in metrics.read(self.run_dir / "metrics" / "actor.jsonl")]
        return {
            "task": self.config.task,
            "obs": self.config.obs,
            "robot": self.config.robot,
            "seed": self.config.seed,
            "operator": self.config.operator,
            "preset": self.config.preset,
            "env_steps": tally.steps,
            "grad_steps": learner["grad_steps"],
            "achieved_utd": learner["achieved_utd"],
            "intervention_steps": tally.operator_steps,
            "interventions": len(tally.takeovers),
            "weight_age_steps_median": median(ages) if ages else None,
            "eval": read_json(self.run_dir / "eval.json"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        }


def with_pixels_if_possible(config: Config) -> Config:
    """The same configuration, from state where no picture can be rendered; says which package would help."""
    from robot_servers.cameras.simulated import RenderingUnavailable, choose_backend

    if config.obs == "pixels":
        try:
            choose_backend(os.environ.get("MUJOCO_GL", "").lower())
        except RenderingUnavailable as error:
            print(f"{error}; going on from state, without pixels", flush=True)
            return replace(config, obs="state")
    return config


def check_same(config: Config, run_dir: Path) -> None:
    """Note what the demo in ``run_dir`` is. Raises ConfigError if it is finished, or was begun as something else."""
    if (run_dir / "summary.json").exists():
        raise ConfigError(f"{run_dir} holds a finished run: choose another --run-dir, or delete it")
    mine = {name: value for name, value in asdict(config).items() if name != "run_dir"}
    path = run_dir / "demo.json"
    for name, value in (read_json(path) if path.exists() else mine).items():
        if mine[name] != value:
            raise ConfigError(f"{run_dir} was begun with {name} {value}, not {mine[name]}: give the same options")
    write_json(path, mine)


def main(config: Config) -> int:
    """Run the demo, or go on with one that was stopped; 0 only if training ran and the evaluation finished."""
    task, config = load_task(config.task), with_pixels_if_possible(config)
    if config.robot == "franka-sim" and (task.goals is None or config.obs != "state"):
        raise ConfigError("the emulated Franka has neither objects nor cameras: choose --task reach --obs state")
    if budget(config)[0] <= START_AFTER:
        raise ConfigError(f"--env-steps {config.env_steps}: training starts after {START_AFTER} steps, so ask for more")
    run_dir = config.run_dir or Path("runs") / f"{task.name}-{config.obs}-{datetime.now():%Y%m%d-%H%M%S}"
    check_same(config, run_dir)
    print(f"{task.name} from {config.obs}; everything goes to {run_dir}", flush=True)
    with children() as running:
        try:
            summary = Demo(config, run_dir, running).run()
        except KeyboardInterrupt:
            print(f"stopped; the same command with --run-dir {run_dir} goes on where it was", flush=True)
            raise
    write_json(run_dir / "summary.json", summary)
    print(f"summary: {run_dir / 'summary.json'}; evaluate again with: serl eval {run_dir} --episodes 100")
    return 0
