"""What flows from the actor to the learner: episodes, step by step.

An episode is one `EpisodeStart` (its first observation) and then one `Step` per environment step.
A step carries only the observation it *led to*: each observation travels and is stored once, and
``obs``/``next_obs`` pairs are rebuilt from neighbours, so that they cannot come apart. What a person
says of an episode afterwards, a `Judgement`, takes the same way and changes none of its records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

Obs: TypeAlias = Mapping[str, npt.NDArray[Any]]  # "state" (n,) float32; one (H, W, 3) uint8 per camera
Who = Literal["policy", "operator", "nobody"]  # "nobody": the arm stands still until the operator is back
Source = Literal["demo", "online"]
Verdict = Literal["success", "failure", "pending", "discarded"]  # on an episode, see `serl_core.data.labels`
Wrong = Literal["", "false_success", "missed_success"]  # how a judge was wrong; "": it was not, or nobody says
DEMONSTRATOR = "demo"  # the actor session of recorded demonstrations
SILENCE = "silence"  # `Judgement.who` of a question to a person, and of what follows where they do not answer it


@dataclass(frozen=True)
class EpisodeStart:
    """The first record of an episode.

    ``actor`` names the actor session and ``episode`` counts up within it: together they are unique.
    ``source`` is "demo" for recorded demonstrations. ``meta`` holds whatever else should be kept:
    task, seed, robot metadata.
    """

    actor: str
    episode: int
    obs: Obs
    source: Source = "online"
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One environment step.

    ============== ============== ============================================================
    field          shape, dtype   meaning
    ============== ============== ============================================================
    action         (A,) float32   what was handed to the environment, in [−1, 1] (the operator's
                                  during a takeover); replay learns from this one
    proposal       (A,) float32   what the policy wanted
    target         (7,) float64   the TCP target the guard really sent (m, quaternion, base frame);
                                  of two arms (14,), left then right, each in its own base frame
    bent           bool           the guard changed the command
    bends          list           of it: [limit, value asked for, bound] of every limit that did (SI units)
    next_obs       see `Obs`      the observation this step led to
    reward         float          task reward only; without the gripper penalty
    grasp_penalty  float          ≤ 0, for toggles of the grippers
    terminated     bool           success or failure: no future. Never true for a time limit
    truncated      bool           time limit or abort: the future exists, it was not recorded
    success        bool           the judge's verdict on the state this step led to
    ago            int            of a success that was confirmed late: how many steps before this one it began
    who            str            "policy", "operator", or "nobody" while the device is lost (action 0)
    takeover       int            number of the takeover within the session, −1 outside of one; steps of
                                  nobody belong to the takeover, see `led_to_takeover` for the step before it
    policy_version int            version of the weights behind ``proposal``; −1 before the first
    time           float          s, robot server clock (of two arms the left one's), of ``next_obs``
    aborted        bool           the command was refused or the robot failed: what the action leads to
                                  is unknown, ``next_obs`` is the observation before it; the last
                                  step of its episode; replay leaves it out
    ============== ============== ============================================================
    """

    actor: str
    episode: int
    step: int
    action: npt.NDArray[np.float32]
    proposal: npt.NDArray[np.float32]
    target: npt.NDArray[np.float64]
    bent: bool
    next_obs: Obs
    reward: float
    grasp_penalty: float
    terminated: bool
    truncated: bool
    success: bool
    who: Who
    takeover: int
    policy_version: int
    time: float
    aborted: bool = False
    bends: list[list[Any]] = field(default_factory=list)
    ago: int = 0


Record: TypeAlias = EpisodeStart | Step


@dataclass(frozen=True)
class Judgement:
    """What a person says of an episode after it was recorded; the store makes a label of it, the records stay.

    ``step`` is the step that led to success, −1 for every other verdict; ``who`` says so, ``wall_time`` when (s since
    1970); ``wrong`` how the judge was wrong about the step ``wrong_step``, −1 if it was not. Raises ValueError where
    these do not fit each other.
    """

    actor: str
    episode: int
    verdict: Verdict
    step: int
    who: str
    wall_time: float
    wrong: Wrong = ""
    wrong_step: int = -1

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"verdict {self.verdict!r:.40} is none of {', '.join(get_args(Verdict))}")
        if (self.step >= 0) != (self.verdict == "success") or not math.isfinite(self.wall_time):
            raise ValueError(f"{self!r:.200}: a success has a step, nothing else has, and the time is a number")
        check_wrong(self.wrong, self.wrong_step)


def check_wrong(wrong: str, step: int) -> None:
    """Raises ValueError unless a mistake has the step it was made about, and nothing else has one."""
    if wrong not in get_args(Wrong) or (step >= 0) != bool(wrong):
        raise ValueError(
            f"wrong {wrong!r:.40} about step {step}: one of {get_args(Wrong)[1:]} with its step, or neither"
        )


Message: TypeAlias = Record | Judgement  # what an actor sends


def led_to_takeover(before: Step | None, step: Step) -> bool:
    """Whether ``before`` is the policy's step that made somebody take over in ``step``, the next of its episode.

    Derived and not stored, because ``before`` is long on its way when it shows. A takeover that is there from the
    first step (``before`` is None), or follows another at once, was led to by no step of the policy. Demonstrations
    have no policy: not to be asked about them. Raises ValueError if the steps are no neighbours.
    """
    if before is None:
        return False
    if (before.actor, before.episode, before.step + 1) != (step.actor, step.episode, step.step):
        raise ValueError(
            f"step {step.step} of episode {step.episode} of {step.actor} does not follow step {before.step} of "
            f"episode {before.episode} of {before.actor}"
        )
    return before.who == "policy" and before.takeover < 0 <= step.takeover


def _fields(kind: type[Message]) -> tuple[set[str], set[str]]:
    """The names of all fields, and of those without a default."""
    known = kind.__dataclass_fields__
    needed = {name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING}
    return set(known), needed


_KINDS: dict[str, type[Message]] = {"EpisodeStart": EpisodeStart, "Step": Step, "Judgement": Judgement}
_TYPES: dict[type, tuple[str, ...]] = {
    str: ("actor", "source", "who", "verdict", "wrong"),
    int: ("episode", "step", "takeover", "policy_version", "ago", "wrong_step"),
    bool: ("bent", "terminated", "truncated", "success", "aborted"),
    float: ("reward", "grasp_penalty", "time", "wall_time"),
    list: ("bends",),
    dict: ("obs", "next_obs", "meta"),
    np.ndarray: ("action", "proposal", "target"),
}
_TYPE_OF = {name: kind for kind, names in _TYPES.items() for name in names}
_FIELDS = {kind: _fields(kind) for kind in _KINDS.values()}


def record_to_tree(record: Message) -> dict[str, Any]:
    """A record as a tree of dicts, plain values and arrays, for the wire and the store."""
    tree = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return {"kind": type(record).__name__, **tree}


def record_from_tree(tree: Mapping[str, Any]) -> Message:
    """The inverse of `record_to_tree`. Raises ValueError naming what is missing, unknown or of the wrong type.

    Fields with a default may be missing: records outlive the version that wrote them.
    """
    kind = _KINDS.get(str(tree.get("kind")))
    if kind is None:
        raise ValueError(f"record of unknown kind {tree.get('kind')!r}; known: {', '.join(_KINDS)}")
    fields = {name: value for name, value in tree.items() if name != "kind"}
    known, needed = _FIELDS[kind]
    wrong = (fields.keys() - known) | (needed - fields.keys())
    if wrong:
        raise ValueError(f"{kind.__name__} record: missing or unknown fields {sorted(wrong)}")
    for name, value in fields.items():
        if type(value) is not _TYPE_OF[name] or type(value) is dict:  # most fit: no call
            _check_type(kind, name, value)
    return kind(**fields)


def _check_type(kind: type[Message], name: str, value: Any) -> None:
    wanted = _TYPE_OF[name]
    fits = type(value) is wanted or (wanted is float and type(value) is int)
    if name in ("obs", "next_obs") and isinstance(value, dict):
        fits, wanted = all(isinstance(entry, np.ndarray) for entry in value.values()), np.ndarray
    if not fits:
        raise ValueError(f"{kind.__name__} record: {name} is {value!r:.40}, not {wanted.__name__}")
