"""One row of the study: a method on a task, under an expert, a rule of takeovers and a seed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from examples.benchmarks.rlif_tasks import StudyTask, TaskName, World, opened, study_task
from examples.benchmarks.rlif_training import EVALUATION_SEEDS, Recipe, Trainee, demonstrate, score, successful, train
from serl_core.agents.bc import BC, BCConfig, make_bc_policy
from serl_core.agents.sac import SAC, SACConfig, make_policy, rlpd_preset
from serl_core.data.replay import Replay
from serl_core.data.routing import HilSerl, Imitation, Rlif, Routing
from serl_core.data.sampling import Sampling
from serl_core.helping import Yardstick
from serl_core.methods import RLIF_DISCOUNT
from serl_core.summary import Tally
from serl_core.teleop.conditions import Always, AtRandom, Intervening, Level, Never, Rule, ValueGap

Method = Literal["rlif", "hg-dagger", "bc", "rlpd"]
RuleName = Literal["value-gap", "random-30", "random-50", "random-85", "none"]
RATES: Mapping[RuleName, float] = {"random-30": 0.3, "random-50": 0.5, "random-85": 0.85}


@dataclass(frozen=True)
class Terms:
    """What is the same for every row. Frozen before the reported seeds were run."""

    steps: int = 10_000  # of training, takeovers included
    random_steps: int = 5_000  # the same under takeovers at random, which are reported and not judged
    demonstrations: int | None = None  # successful episodes of the good expert; None: as many as the task says
    episodes: int = 100  # of the final evaluation, alone
    delay: float = 2.5  # steps: the expert takes over where the policy's action costs as much as waiting so long
    utd: int = 4  # critic updates per step of RLIF and RLPD; cloning makes one of its own
    batch: int = 128
    hidden: tuple[int, ...] = (128, 128)  # of critics and actor: enough for these states, and a quarter of the time
    temperature: float = 0.01  # at the start; 1.0, as released, needs more steps than these to cool down
    entropy: float = 2.0  # target entropy, −nats per entry of the action
    pretrain: int = 2_000  # updates of cloning on the demonstrations before the first step


@dataclass(frozen=True)
class Job:
    """Which row."""

    task: TaskName
    method: Method
    expert: Level
    rule: RuleName
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """What names the row in the CSV."""
        return self.task, self.method, self.expert, self.rule, str(self.seed)


def measure(job: Job, terms: Terms, yardstick: Yardstick | None) -> dict[str, Any]:
    """Train, evaluate, and return the figures of the row. ``yardstick`` is needed for takeovers by the value gap."""
    begun, cpu = time.monotonic(), time.process_time()
    task = study_task(job.task)
    budget = terms.random_steps if job.rule in RATES else terms.steps
    rng = np.random.default_rng([job.seed, 3])
    with opened(job.task) as world:
        demonstrations = demonstrated(world, task, terms, job.seed)
        replay = Replay(budget * 2 + 10_000, task.example(), task.action_dim, dict, routing=routing_of(job.method))
        for record in demonstrations:
            replay.insert(record)
        steps_shown = replay.size("demos")
        trainee = Trainee(recipe_of(job.method, task, terms), replay, job.seed)
        steps = 0 if job.method == "bc" else budget
        rule = rule_of(job, task.discount**terms.delay, yardstick, rng)
        env = Intervening(world.env, world.expert(job.expert, rng), rule)
        training = train(env, trainee, steps, job.seed) if steps else Tally()
        result = score(world.env, trainee.final_policy(), terms.episodes, EVALUATION_SEEDS)
    return {
        **dict(zip(("task", "method", "expert", "rule", "seed"), job.key, strict=True)),
        "score": result.successes / len(result.episodes),
        **result.evaluation(),
        "demo_steps": steps_shown,
        "env_steps": training.steps,
        "intervention_steps": training.operator_steps,
        "interventions": len(training.takeovers),
        "share_last_quarter": share_of_operator(training, 0.75),
        "updates": trainee.updates,
        "achieved_utd": trainee.limiter.achieved_utd,
        "reference": "" if yardstick is None else yardstick.digest,
        "wall_s": round(time.monotonic() - begun, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
    }


def demonstrated(world: World, task: StudyTask, terms: Terms, seed: int) -> list[Any]:
    """The demonstrations of a task and seed: successful episodes, as `serl record` keeps them."""
    expert = world.expert("good", np.random.default_rng([seed, 2]))
    wanted = task.demonstrations if terms.demonstrations is None else terms.demonstrations
    return successful(demonstrate(Intervening(world.env, expert, Always()), task.action_dim, wanted, seed))


def share_of_operator(tally: Tally, since: float) -> float:
    """The expert's share of the steps of all episodes that ended after a share ``since`` of the training."""
    late = [episode for episode in tally.episodes if episode.total_steps > since * tally.steps]
    steps = sum(episode.steps for episode in late)
    return round(sum(episode.operator_steps for episode in late) / steps, 4) if steps else 0.0


def rule_of(job: Job, share: float, yardstick: Yardstick | None, rng: np.random.Generator) -> Rule:
    """When the expert takes over: by the value gap, below this ``share`` of the reference's value.

    Raises ValueError without the reference agent that the value gap needs.
    """
    if job.rule == "none":
        return Never()
    if job.rule in RATES:
        return AtRandom(RATES[job.rule], rng)
    if yardstick is None:
        raise ValueError("takeovers by the value gap need a reference agent")
    return ValueGap(yardstick.agent.values, rng, share)


def routing_of(method: Method) -> Routing:
    """What a method makes of the records."""
    match method:
        case "rlif":
            return Rlif()
        case "rlpd":
            return HilSerl()
        case _:
            return Imitation(corrected=method == "hg-dagger")


def recipe_of(method: Method, task: StudyTask, terms: Terms) -> Recipe:
    """Agent and sampling of a method on a task."""
    example, size = task.example(), task.action_dim
    routing = routing_of(method)
    if method in ("hg-dagger", "bc"):
        cloning = BCConfig(hidden=(256, 256), dropout=0.0, grasp=task.grippers, batch=terms.batch)
        sampling = Sampling(0.99, terms.batch, routing.demo_ratio)
        act = make_bc_policy(cloning, example, size)
        return Recipe(
            BC(cloning, example, size), act, sampling, utd=1, pretrain=terms.pretrain * (5 if method == "bc" else 1)
        )
    config = sac_of(method, task, terms)
    sampling = Sampling(config.discount, terms.batch, routing.demo_ratio)
    return Recipe(SAC(config, example, size), make_policy(config, example, size), sampling, terms.utd)


def sac_of(method: Method, task: StudyTask, terms: Terms) -> SACConfig:
    """RLPD's ten critics, the gripper one more entry of the action; for RLIF with its own discount."""
    discount = task.discount if method == "rlpd" else RLIF_DISCOUNT
    config = rlpd_preset(SACConfig(discount=discount, hidden=terms.hidden, batch=terms.batch))
    return replace(config, init_temperature=terms.temperature, target_entropy=-terms.entropy * task.action_dim)
