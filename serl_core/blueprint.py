"""What a policy is made of: everything needed to build the networks of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from serl_core.agents.bc import BC, BCConfig, make_bc_policy
from serl_core.agents.policy import Act, Agent
from serl_core.agents.sac import SAC, SACConfig, make_policy, rlpd_preset
from serl_core.config import ConfigError, Observation, Preset, Vision
from serl_core.data.replay import as_frames
from serl_core.envs.robot_env import observation_space
from serl_core.methods import AgentConfig, Switches, agent_config
from serl_core.nets.encoders import Params
from serl_core.nets.frames import view_encoder
from serl_core.nets.once import EncodedOnce
from serl_core.nets.projection import Projection
from serl_core.nets.sight import Sight, as_stored, cropped, through
from serl_core.nets.trunks import SMALL, TRUNKS, FrozenTrunk, load_named
from serl_core.nets.weights import WeightsError
from serl_core.pairs import AnyTask
from serl_core.tasks import load_task
from serl_core.types import Obs

IMITATION = 30.0  # returns lie in [0, 1] and differ little between two actions: less is drowned by the critics' errors

PRESETS: dict[Preset, Callable[[SACConfig, AnyTask], SACConfig]] = {
    # follow the person where the critics agree, never believe in impossible returns, see three steps ahead
    "default": lambda plain, task: replace(plain, imitation=IMITATION, value_bounds=task.returns, n_step=3),
    # RLPD without any of it, at the same cost
    "plain": lambda plain, task: plain,
    # the same with the networks of the paper: ten critics
    "rlpd": lambda plain, task: rlpd_preset(plain),
}
TRAINS: tuple[Vision, ...] = ("trained", "scratch")  # the trunk is one of the networks that learn
VIEWS = 4  # of each frame in replay; more of the 81 shifts cost the learner time and memory


@dataclass(frozen=True)
class Blueprint:
    """Everything needed to build the networks of a run: travels with the weights and with checkpoints."""

    task: str  # name, or path of the task file
    obs: Observation
    agent_config: AgentConfig
    trunk: str = "small"  # one of `serl_core.nets.trunks.TRUNKS`
    weights: Path | None = None  # of the trunk, on this machine; the small one comes with the package
    vision: Vision = "cached"
    projection: Projection | None = None  # of the trunk's channels to fewer
    stack: int = 1  # frames of each camera that the policy sees at once, the last ones of its episode
    cached_views: int = VIEWS  # of each frame, where features are cached; of no concern to whoever acts

    @classmethod
    def for_task(
        cls,
        task: str,
        obs: Observation,
        preset: Preset = "default",
        utd: int = 4,
        trunk: str = "small",
        weights: Path | None = None,
        vision: Vision = "cached",
        switches: Switches | None = None,
    ) -> Blueprint:
        """The networks for a task; by default HIL-SERL's. Raises ConfigError for switches that do not fit."""
        loaded = load_task(task)
        plain = SACConfig(discount=loaded.discount, grasp=loaded.grippers, utd=utd)
        config = PRESETS[preset](plain, loaded)
        config = config if switches is None else agent_config(switches, config)
        return cls(task, obs, config, trunk, weights, vision)

    def to_tree(self) -> dict[str, Any]:
        """As plain values and arrays, for the wire and for checkpoints."""
        trunk: dict[str, Any] = {"name": self.trunk, "vision": self.vision, "digest": "", "stack": self.stack}
        if self.cameras and self.vision not in TRAINS:
            trunk["digest"] = self.frozen_trunk.digest
        if self.projection is not None:
            trunk["projection"] = {name: np.asarray(x) for name, x in vars(self.projection).items()}
        agent = {"kind": "bc" if isinstance(self.agent_config, BCConfig) else "sac", **asdict(self.agent_config)}
        return {"task": self.task, "obs": self.obs, "agent": agent, "trunk": trunk}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], weights: Path | None = None) -> Blueprint:
        """The inverse of `to_tree`, with the trunk's weights on this machine.

        Raises ConfigError if the policy belongs to another version of the networks, or to another trunk.
        """
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in tree["agent"].items()
        }
        try:
            trunk = tree["trunk"]
            fitted = Projection(**trunk["projection"]) if "projection" in trunk else None
            config = {"sac": SACConfig, "bc": BCConfig}[values.pop("kind", "sac")](**values)
            seen = weights, trunk["vision"], fitted, trunk["stack"]
            blueprint = cls(tree["task"], tree["obs"], config, trunk["name"], *seen)
        except (TypeError, KeyError) as error:
            raise ConfigError(f"these weights need another version of the networks: {error}") from error
        blueprint.check_trunk(tree)
        return blueprint

    def check_trunk(self, tree: Mapping[str, Any]) -> None:
        """Raises ConfigError if the networks of another `to_tree` were learnt on other features than these."""
        digest = tree["trunk"]["digest"]
        if self.cameras and digest and self.frozen_trunk.digest != digest:
            raise ConfigError(
                f"this policy was learnt on another image trunk {self.trunk} than {self.trunk_file()}: use the same "
                "file on all machines, the projection.npz that its run began with, and the same version of this package"
            )

    def load_task(self) -> AnyTask:
        """The task itself."""
        return load_task(self.task)

    def raw_example(self) -> dict[str, np.ndarray]:
        """Zeros in the shape of one observation of the environment; needs no robot."""
        space = observation_space(self.load_task(), self.obs)
        return {name: np.zeros(box.shape or (), box.dtype) for name, box in space.items()}

    def example(self) -> dict[str, np.ndarray]:
        """The same as the networks see it: features in the place of frames, unless the trunk is one of them."""
        raw = self.raw_example()
        if not self.cameras or self.vision in TRAINS:
            return raw
        channels, positions = self.frozen_trunk.features
        features = np.zeros((self.stack * channels, positions), np.float16)
        return {name: zeros if name == "state" else features for name, zeros in raw.items()}

    def agent(self) -> Agent:
        """The agent with these networks. Raises ConfigError for a trunk that it cannot train."""
        size = self.load_task().action_dim
        if isinstance(self.agent_config, SACConfig):
            return SAC(self.agent_config, self.example(), size, self.trained_trunk, self._trunk_begins_with())
        if self.trained_trunk is not None:
            raise ConfigError(
                f"--vision {self.vision} needs critics, whose gradients train the trunk: clone with cached"
            )
        return BC(self.agent_config, self.example(), size)

    def act(self) -> Act:
        """The compiled policy of these networks."""
        size = self.load_task().action_dim
        if isinstance(self.agent_config, SACConfig):
            return make_policy(self.agent_config, self.example(), size, self.trained_trunk)
        return make_bc_policy(self.agent_config, self.example(), size)

    def encoder(self, once: EncodedOnce | None = None) -> Callable[[Obs], Obs]:
        """What turns an observation into what the policy acts on: frames become features, ``once`` for all readers."""
        frozen = self.cameras and self.vision not in TRAINS
        return (once or EncodedOnce()).encoder(self.frozen_trunk, self.cameras) if frozen else dict

    def replay_encoder(self, rng: np.random.Generator) -> Callable[[Obs], Obs]:
        """The same for replay: `views` shifted versions of every frame as features, or the frame itself."""
        if self.cameras and self.vision == "cached":
            return view_encoder(self.frozen_trunk, self.cameras, self.views, rng)
        return as_frames

    def sight(self) -> Sight:
        """What the networks see of what replay stores."""
        if not self.cameras or self.vision == "cached":
            return as_stored(self.cameras if self.stack > 1 else ())
        if self.vision in TRAINS:
            return cropped(self.cameras)
        on_cpu = jax.default_backend() == "cpu"
        return through(self.frozen_trunk, self.cameras, jnp.float32 if on_cpu else jnp.bfloat16)

    @property
    def cameras(self) -> tuple[str, ...]:
        """What the policy sees with."""
        return tuple(name for name in self.raw_example() if name != "state")

    @property
    def views(self) -> int:
        """How many versions of a frame replay keeps."""
        return self.cached_views if self.cameras and self.vision == "cached" else 1

    @property
    def trained_trunk(self) -> nn.Module | None:
        """The trunk that learns with the rest, if one does."""
        return TRUNKS[self.trunk].module if self.cameras and self.vision in TRAINS else None

    def _trunk_begins_with(self) -> Params | None:
        """The weights with which a trunk begins that is trained; None from scratch. Raises ConfigError."""
        if self.vision == "scratch" and self.weights is not None:
            raise ConfigError(f"--vision scratch begins with random weights, not with {self.weights}: take trained")
        return self.frozen_trunk.params if self.cameras and self.vision == "trained" else None

    @cached_property
    def frozen_trunk(self) -> FrozenTrunk:
        """The trunk with its weights. Raises ConfigError if there is no such trunk, or its file does not fit."""
        try:
            trunk = load_named(self.trunk, self.trunk_file())
        except (WeightsError, OSError) as error:
            raise ConfigError(str(error)) from error
        return trunk if self.projection is None else trunk.projected(self.projection)

    def trunk_file(self) -> Path:
        """Where the trunk's weights are on this machine. Raises ConfigError if nobody said so."""
        if self.weights is None and self.trunk != "small":
            raise ConfigError(f"the trunk {self.trunk} does not come with the package: give --trunk-weights FILE")
        return self.weights or SMALL
