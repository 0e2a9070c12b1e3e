"""Two identical SpaceMice: a person says which is the left one by moving it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from serl_core.teleop.device import DeviceError
from serl_core.teleop.hidraw import Opener, find_nodes, open_node
from serl_core.teleop.pair import HANDS
from serl_core.teleop.reader import PERIOD, Reader
from serl_core.teleop.spacemouse import SpaceMouse, load, mice_of

PUSHED, STILL = 0.3, 0.1  # |twist| from which a cap is pushed, and below which it is not
PATIENCE = 60.0  # s for a person to do it


def tell_apart(
    say: Callable[[str], object] | None = None,
    root: Path = Path("/"),
    opener: Opener = open_node,
    now: Callable[[], float] = time.monotonic,
) -> Mapping[str, str]:
    """The ports of two SpaceMice by hand, "left" and "right". Raises `DeviceError` if there are not two, or nobody
    moves one of them."""
    say = say or _print
    ports = list(mice_of(load(), find_nodes(root)))
    if len(ports) != 2:
        raise DeviceError(f"two arms need two SpaceMice, {len(ports)} connected ({', '.join(ports) or 'none'})")
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(Reader(SpaceMouse(port, root=root, opener=opener), now)) for port in ports]
        say("move the LEFT SpaceMouse now")
        left = _moved(readers, now)
    found = dict(zip(HANDS, (ports[left], ports[1 - left]), strict=True))
    say(f"thank you; next time: spacemouse:left={found['left']},right={found['right']}")
    return found


def _moved(readers: list[Reader], now: Callable[[], float]) -> int:
    """The number of the one that is pushed while the other rests."""
    deadline = now() + PATIENCE
    while now() < deadline:
        first, second = (float(np.linalg.norm(reader.read().twist)) for reader in readers)
        if max(first, second) > PUSHED and min(first, second) < STILL:
            return int(second > first)
        time.sleep(PERIOD)
    raise DeviceError(f"neither SpaceMouse was moved alone within {PATIENCE:g} s; spacemouse:left=PORT,right=PORT")


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
