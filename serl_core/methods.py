"""The methods a learner knows: which agent learns, from which records, with which reward, and how much of it.

============ ============================================================================================
hil-serl     RLPD on the task's reward, interventions in both partitions (arXiv 2410.21845)
rlif         RLPD with takeovers as the only reward, as the released code does it (arXiv 2311.12996)
hg-dagger    behaviour cloning of demonstrations and of what people did in takeovers (arXiv 1810.02890)
bc           behaviour cloning of the demonstrations alone; ends when that is done
============ ============================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from serl_core.agents.bc import BCConfig
from serl_core.agents.sac import SACConfig, rlpd_preset
from serl_core.config import ConfigError
from serl_core.data.routing import HilSerl, Imitation, Rlif, Routing
from serl_core.data.sampling import Sampling

Method = Literal["hil-serl", "rlif", "hg-dagger", "bc"]
AgentConfig = SACConfig | BCConfig
PRETRAIN: Mapping[Method, int] = {"bc": 10_000, "hg-dagger": 2_000}  # updates on demonstrations before anything acts
RLIF_DISCOUNT = 0.99


class Switches(Protocol):
    """What of the learner's configuration changes a method."""

    @property
    def method(self) -> Method: ...
    @property
    def utd(self) -> int: ...
    @property
    def takeover_penalty(self) -> float: ...
    @property
    def takeover_penalty_steps(self) -> int: ...
    @property
    def demo_age(self) -> int: ...
    @property
    def imitation(self) -> float | None: ...
    @property
    def rlif_expert(self) -> Literal["last", "none", "all"]: ...


@dataclass(frozen=True)
class Recipe:
    """How a learner goes about it. ``pretrain`` updates come first; ``offline``: they are all there is."""

    routing: Routing
    sampling: Sampling
    utd: int
    pretrain: int = 0
    offline: bool = False


def agent_config(switches: Switches, hil_serl: SACConfig) -> AgentConfig:
    """The agent of a method; ``hil_serl`` is what HIL-SERL would learn the task with, by the preset.

    ``imitation`` goes before the preset's; 0 switches off what follows the person where the critics prefer their
    action, of the gripper too.

    RLIF has RLPD's own ten critics and a discount of 0.99, and none of what a preset adds for the task's reward; it
    follows the person only where ``imitation`` is given, which is not part of the released algorithm. Its
    gripper is one more continuous entry of the action, as in the released code: with a discrete critic of its own,
    whose choices differ by less than one takeover in returns of many, it went on being corrected for wrong grips. The
    price: nothing discourages toggling.
    Raises ConfigError for switches that the method does not know.
    """
    _routing(switches)  # what it refuses would fail later, less clearly
    if switches.method in ("hg-dagger", "bc"):
        return BCConfig(grasp=hil_serl.grasp)
    if switches.method == "rlif":
        follow = switches.imitation or 0.0
        bare = replace(hil_serl, discount=RLIF_DISCOUNT, n_step=1, imitation=follow, value_bounds=None, grasp=0)
        return rlpd_preset(bare)
    if switches.imitation is not None:
        hil_serl = replace(hil_serl, imitation=switches.imitation)
    if not switches.takeover_penalty or hil_serl.value_bounds is None:
        return hil_serl
    low, high = hil_serl.value_bounds
    worst = switches.takeover_penalty / (1.0 - hil_serl.discount)  # in every step, for ever
    return replace(hil_serl, value_bounds=(low - worst, high))


def recipe(switches: Switches, config: AgentConfig) -> Recipe:
    """How a method learns with this agent. Raises ConfigError for switches that do not fit."""
    routing = _routing(switches)
    if isinstance(config, BCConfig):
        sampling = Sampling(RLIF_DISCOUNT, config.batch, routing.demo_ratio)  # nothing is bootstrapped
    else:
        sampling = Sampling(config.discount, config.batch, routing.demo_ratio, config.n_step)
    pretrain = PRETRAIN.get(switches.method, 0)
    return Recipe(routing, sampling, switches.utd, pretrain, switches.method == "bc")


def _routing(switches: Switches) -> Routing:
    _check(switches)
    match switches.method:
        case "hil-serl":
            try:
                return HilSerl(switches.takeover_penalty, switches.takeover_penalty_steps, switches.demo_age)
            except ValueError as error:
                raise ConfigError(f"--takeover-penalty, --takeover-penalty-steps, --demo-age: {error}") from error
        case "rlif":
            return Rlif(switches.rlif_expert)
        case method:
            return Imitation(method == "hg-dagger", demo_age=switches.demo_age)


def _check(switches: Switches) -> None:
    """What a method would silently ignore is refused."""
    method = switches.method
    if switches.takeover_penalty and method != "hil-serl":
        raise ConfigError(f"--takeover-penalty changes the task's reward, which --method {method} does not look at")
    if switches.demo_age and method in ("rlif", "bc"):
        raise ConfigError(f"--demo-age is for methods that go on sampling demonstrations, not for --method {method}")
    if switches.imitation and method not in ("hil-serl", "rlif"):
        raise ConfigError(f"--imitation follows the person where critics agree, and --method {method} has none")
    if switches.imitation is not None and not 0.0 <= switches.imitation < math.inf:
        raise ConfigError(f"--imitation {switches.imitation} must be 0 or a positive number")
    if switches.rlif_expert != "last" and method != "rlif":
        raise ConfigError(f"--rlif-expert is for --method rlif, not for --method {method}")
