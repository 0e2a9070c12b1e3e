"""What `serl learner --method` makes of the same records."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from learner_parts import demonstrations, episode, feed, learner, leaves, size_of

from serl_core import methods
from serl_core.agents.bc import BCConfig
from serl_core.agents.sac import SACConfig
from serl_core.blueprint import Blueprint
from serl_core.config import ConfigError
from serl_core.data.routing import HilSerl, Imitation, Rlif
from serl_core.methods import agent_config, recipe
from serl_core.policies import CheckpointPolicy

HIL = SACConfig(discount=0.98, imitation=30.0, n_step=3, value_bounds=(0.0, 1.0), grasp=1)


@dataclass(frozen=True)
class Switched:
    method: str = "hil-serl"
    utd: int = 4
    takeover_penalty: float = 0.0
    takeover_penalty_steps: int = 1
    demo_age: int = 0
    imitation: float | None = None
    rlif_expert: str = "last"


def made(**switches):
    """Agent and recipe of these switches."""
    chosen = Switched(**switches)
    config = agent_config(chosen, HIL)  # type: ignore[arg-type]
    return config, recipe(chosen, config)  # type: ignore[arg-type]


# ── what each one is ──


def test_hil_serl_is_what_it_was() -> None:
    """Guards the default: without a switch nothing differs from before there were methods."""
    config, how = made()
    assert config == HIL and how.routing == HilSerl() and (how.sampling.demo_ratio, how.sampling.n_step) == (0.5, 3)


def test_rlif_is_the_released_algorithm() -> None:
    """Guards against RLIF with the tricks of another reward: ten critics, 0.99, one buffer, no person followed."""
    config, how = made(method="rlif")
    assert isinstance(config, SACConfig) and isinstance(how.routing, Rlif)
    assert (config.critics, config.critic_subset, config.discount, config.n_step) == (10, 2, 0.99, 1)
    assert config.imitation == 0.0 and config.value_bounds is None and config.grasp == 0
    assert (how.sampling.demo_ratio, how.sampling.discount, how.pretrain) == (0.0, 0.99, 0)


@pytest.mark.parametrize(("method", "corrected"), [("hg-dagger", True), ("bc", False)])
def test_imitation_learns_from_people_only(method, corrected) -> None:
    """Guards the baselines: whole batches of what people did, with and without their corrections."""
    config, how = made(method=method)
    assert config == BCConfig(grasp=1) and how.routing == Imitation(corrected) and how.sampling.demo_ratio == 1.0
    assert how.pretrain > 0 and how.offline == (method == "bc")


def test_a_penalty_widens_what_returns_can_be() -> None:
    """Guards against targets clipped at 0, under which a penalty teaches nothing beyond one step."""
    config, how = made(takeover_penalty=0.02, takeover_penalty_steps=3)
    assert how.routing == HilSerl(0.02, 3)
    assert isinstance(config, SACConfig) and config.value_bounds == pytest.approx((-1.0, 1.0))


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_regression_to_the_person_has_a_switch_of_its_own(weight) -> None:
    """Guards a study of this one part: with a preset, n-step windows and bounded returns would change with it."""
    config, how = made(imitation=weight)
    assert config == replace(HIL, imitation=weight) and how == made()[1]


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_rlif_follows_the_person_only_where_that_is_asked_for(weight) -> None:
    """Guards the released algorithm as the default, and a switch that changes nothing else of it."""
    (config, how), (bare, released) = made(method="rlif", imitation=weight), made(method="rlif")
    assert config == replace(bare, imitation=weight) and how == released


@pytest.mark.parametrize(
    "switches",
    [
        {"method": "rlif", "takeover_penalty": 0.1},
        {"method": "bc", "demo_age": 100},
        {"rlif_expert": "all"},
        {"takeover_penalty": -0.1},
        {"demo_age": -1},
        {"method": "hg-dagger", "imitation": 30.0},
        {"method": "bc", "imitation": 1.0},
        {"imitation": -1.0},
        {"imitation": float("nan")},
        {"imitation": float("inf")},
    ],
    ids=str,
)
def test_what_would_be_ignored_is_refused(switches) -> None:
    """Guards against a switch that somebody set and that did nothing."""
    with pytest.raises(ConfigError, match="--"):
        made(**switches)


def test_networks_of_a_clone_travel() -> None:
    """Guards actor and evaluation: they build the policy from what the learner sent."""
    switched = Blueprint.for_task("peg_insertion", "state", switches=Switched(imitation=0.0))  # type: ignore[arg-type]
    default = Blueprint.for_task("peg_insertion", "state").agent_config
    assert isinstance(default, SACConfig) and default.imitation > 0
    assert Blueprint.from_tree(switched.to_tree()).agent_config == replace(default, imitation=0.0)
    blueprint = Blueprint.for_task("peg_insertion", "state", switches=Switched("hg-dagger"))  # type: ignore[arg-type]
    assert Blueprint.from_tree(blueprint.to_tree()) == blueprint
    tree = Blueprint.for_task("peg_insertion", "state").to_tree()
    del tree["agent"]["kind"]  # of a run before there were methods
    assert isinstance(Blueprint.from_tree(tree).agent_config, SACConfig)


# ── in a learner ──


@pytest.fixture
def few(monkeypatch) -> None:
    """A test needs no trained clone."""
    monkeypatch.setattr(methods, "PRETRAIN", {"bc": 8, "hg-dagger": 4})


@pytest.mark.parametrize(("method", "online", "demos"), [("rlif", 17, 10), ("hg-dagger", 9, 14)])
def test_each_method_learns_from_its_own_share_of_the_same_records(tmp_path, few, method, online, demos) -> None:
    """Guards the wiring: records go to the routing, updates follow the transitions, and weights are published."""
    size = size_of()
    demonstrations(tmp_path / "demos", size)
    with learner(tmp_path, method=method, env_steps=9) as learnt:
        feed(learnt, episode(0, "ppooppoop", size))
        one, link = learnt
        assert (one.replay.size("online"), one.replay.size("demos")) == (online, demos)
        assert one.grad_steps == one.recipe.pretrain + 4 and link.published  # 9 transitions, training after 5
        assert all(np.isfinite(leaf).all() for leaf in leaves(one.state))


def test_cloning_ends_by_itself_and_can_be_evaluated(tmp_path, few) -> None:
    """Guards `serl learner --method bc`: no actor is needed, and the checkpoint holds a policy that acts."""
    size = size_of()
    demonstrations(tmp_path / "demos", size)
    with learner(tmp_path, method="bc") as (one, _):
        one.learn(lambda: False)
        policy = CheckpointPolicy(one.checkpoints.latest())
    action = policy({"state": np.zeros(size, np.float32)}).action
    assert action.shape == (3,) and np.isfinite(action).all()


def test_cloning_nothing_is_refused(tmp_path) -> None:
    """Guards against an hour of updates on an empty replay."""
    with learner(tmp_path, method="bc") as (one, _), pytest.raises(ConfigError, match="begins with demonstrations"):
        one.learn(lambda: False)


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path) -> None:
    """Guards resuming, within a takeover: rewards patched after the fact are the same when read from the store."""
    size = size_of()
    records = [record for number in range(4) for record in episode(number, "ppooppop", size)]
    states = []
    for name, parts in (("whole", [records]), ("parted", [records[:22], records[22:]])):
        demonstrations(tmp_path / name / "demos", size)
        for part, some in enumerate(parts):
            with learner(tmp_path / name, resume=part > 0, method="rlif") as learnt:
                feed(learnt, some)
                last = learnt[0]
        states.append((leaves(last.state), last.grad_steps, _contents(last)))
    assert states[0][1:] == states[1][1:]
    assert all(map(np.array_equal, states[0][0], states[1][0]))


def _contents(one) -> list:
    """What replay would give now, whatever the order of its sets."""
    spec = replace(one.recipe.sampling, n_step=1)
    found = []
    for partition in ("online", "demos"):
        got = one.replay.gather(np.sort(one.replay.slots(partition)), spec)
        found.append((partition, got["reward"].tolist(), got["discount"].tolist(), got["obs"]["state"].tolist()))
    return found
