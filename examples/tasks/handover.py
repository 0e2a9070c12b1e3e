"""Two arms: the left one takes a bar from the table, the right one takes it over in the air, the left one lets go."""

from __future__ import annotations

import numpy as np

from robot_servers.interface import Array, Compliance, Limits, RobotState
from serl_core.config import AXES, Goal, StartPose, Task, Truth
from serl_core.envs.frames import point_in_tcp_frame
from serl_core.pairs import PairExpert, PairTask, States

DOWN = (1.0, 0.0, 0.0, 0.0)  # both hands point at the table; each pose is in its own arm's base frame
CATCH = 0.03  # m from a grip at which closing fingers still catch the bar …
PADS = 0.02  # … unless they are further above it, and close on nothing
HOVER = 0.06  # m above a grip while not yet above it
GRASPED = 0.55  # opening of the gripper around the bar, with a margin
MEET = np.array([0.415, 0.0, 0.15])  # m, where the left hand offers the bar: then its middle is half-way
NEAR_MEETING = 0.03  # m from there at which the right hand comes
WAIT = np.array([0.415, 0.0, 0.22])  # m, where the right hand waits: above its end of the offered bar …
WAITING = 0.1  # m, about what is then left until it has it
GRIP = 0.04  # m of motion that closing or opening a gripper counts for
AWAY = 0.07  # m by which the left hand leaves the bar; success is 5 cm
LIFTED = 0.3  # m, more than is left of the way once the left hand holds the bar where it was


def grips(truth: Truth) -> tuple[Array, Array]:
    """Where either hand takes the bar (3,) m, each in its own arm's base frame."""
    return truth["left"]["left_grip"][:3], truth["right"]["right_grip"][:3]


def holds(truth: Truth) -> tuple[bool, bool]:
    """Whether the left, and the right fingers have closed around the bar, wherever along it."""
    return bool(truth["left"]["left_holds"]), bool(truth["right"]["right_holds"])


def towards(position: Array, gripper: float) -> Goal:
    """A way-point with the hand pointing down."""
    return Goal(np.concatenate([position, DOWN]), gripper)


def catches(tcp: Array, grip: Array) -> bool:
    """Whether fingers that close at ``tcp`` (3,) m will hold the bar."""
    return bool(np.linalg.norm(tcp - grip) < CATCH and tcp[2] - grip[2] < PADS)


def approach(state: RobotState, grip: Array) -> Goal:
    """Above the grip, down along a funnel, close; fingers that close already and will catch the bar go on.

    Those that close just above it are opened there: on the way down they would push it.
    """
    tcp = state.pose[:3]
    aside = float(np.linalg.norm(tcp[:2] - grip[:2]))
    if aside < 0.012 and abs(tcp[2] - grip[2]) < 0.012:
        return towards(grip, 0.0)
    if state.gripper < 0.9 and np.linalg.norm(tcp - grip) < CATCH:
        return towards(tcp, 0.0 if catches(tcp, grip) else 1.0)
    height = grip[2] + min(HOVER, 3.0 * max(0.0, aside - 0.008))
    if tcp[2] < height - 0.02 and aside > 0.02:  # too low beside the bar: sideways would push it away
        return towards(np.array([*tcp[:2], height]), 1.0)
    return towards(np.array([*grip[:2], height]), 1.0)


def leave(state: RobotState, grip: Array) -> Goal:
    """Open, then up and away from the bar."""
    if state.gripper < 0.8:
        return towards(state.pose[:3], 1.0)
    return towards(grip + np.array([0.0, 0.0, AWAY + 0.03]), 1.0)


def goals(states: States, truth: Truth) -> tuple[Goal, Goal]:
    """The left hand takes and offers the bar, the right one comes to take it, the left one leaves."""
    left, right = states
    left_grip, right_grip = grips(truth)
    left_holds, right_holds = holds(truth)
    waiting = towards(WAIT, 1.0)
    if right_holds:
        return leave(left, left_grip), towards(right.pose[:3], 0.0)
    if not left_holds:
        return approach(left, left_grip), waiting
    offered = float(np.linalg.norm(left_grip - MEET)) < NEAR_MEETING
    brought = MEET + left.pose[:3] - left_grip  # the bar gets there, wherever along it the hand holds it
    return towards(brought, 0.0), approach(right, right_grip) if offered else waiting


def reach(state: RobotState, grip: Array) -> float:
    """Metres left until the fingers, which do not yet hold the bar, do so at its grip."""
    way = float(np.linalg.norm(state.pose[:3] - grip))
    will_hold = catches(state.pose[:3], grip)
    closing = (state.gripper - GRASPED) / 0.5 if will_hold else 1.0 + (1.0 - state.gripper)
    return way + GRIP * max(0.0, closing)


def distance(states: States, truth: Truth) -> float:
    """Metres left, of one hand after the other: take, offer, take over, leave."""
    left, right = states
    left_grip, right_grip = grips(truth)
    left_holds, right_holds = holds(truth)
    leaving = GRIP + AWAY
    if right_holds:
        gone = float(np.linalg.norm(left.pose[:3] - left_grip))
        return GRIP * max(0.0, 0.8 - left.gripper) + max(0.0, AWAY - gone)
    if not left_holds:
        return reach(left, left_grip) + LIFTED + leaving
    offering = float(np.linalg.norm(left_grip - MEET))
    taking = min(reach(right, right_grip), float(np.linalg.norm(right.pose[:3] - WAIT)) + WAITING)
    return min(LIFTED, offering + taking) + leaving


def privileged(states: States, truth: Truth) -> Array:
    """The bar (10,): its grips (3,) m, each seen from its hand, the right one from the left hand too, and its height.

    All but the height are in TCP frames; the left arm's base frame serves for both.
    """
    left, right = states
    left_grip, right_grip = grips(truth)
    return np.concatenate(
        [
            point_in_tcp_frame(left.pose, left_grip),
            point_in_tcp_frame(right.pose, right_grip),
            point_in_tcp_frame(left.pose, truth["left"]["right_grip"][:3]),
            truth["left"]["bar"][2:3],
        ]
    )


def half(arm: str, start: StartPose, lowest: float, cameras: tuple[str, ...]) -> Task:
    """What one arm may do. Below ``lowest`` m it must not reach: only the left one can take the bar from the table."""
    clip = (0.02, 0.02, 0.02)
    wide = (0.03, 0.03, 0.03)
    return Task(
        name=f"handover/{arm}",
        scene=f"handover/{arm}",
        max_steps=150,
        start=start,
        limits=Limits((0.26, -0.15, lowest), (0.56, 0.15, 0.4), step=0.07, speed=1.0, acceleration=13.0),
        axes=AXES,
        step_translation=0.035,
        step_rotation=0.05,
        cameras=cameras,
        compliance=Compliance(translational_clip=clip, translational_clip_neg=clip),
        reset_compliance=Compliance(
            rotational_stiffness=250.0, rotational_damping=9.0, translational_clip=wide, translational_clip_neg=wide
        ),
    )


NOISE = (0.02, 0.02, 0.02)
TASK = PairTask(
    name="handover",
    scene="handover",
    max_steps=150,
    left=half("left", StartPose((0.38, 0.0, 0.12, *DOWN), NOISE), 0.012, ("front", "wrist")),
    right=half("right", StartPose((0.38, 0.0, 0.22, *DOWN), NOISE), 0.1, ("wrist",)),
    expert=PairExpert(goals, distance),
    privileged=privileged,
    privileged_dim=10,
    discount=0.98,
)
