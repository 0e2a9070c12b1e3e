"""No gripper: a bare flange, or a tool that does not move."""

from __future__ import annotations

from robot_servers.interface import Grip


class NoGripper:
    """Satisfies `Gripper`: always open, never moves."""

    def connect(self) -> None: ...

    def close(self) -> None: ...

    def move(self, width: float) -> None: ...

    def width(self) -> float:
        return 1.0

    def grip(self) -> Grip:
        return "none"

    def trouble(self) -> str:
        return ""

    def stop(self) -> None: ...
