"""What a check may come to, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn

from rich.table import Table
from rich.text import Text

Outcome = Literal["pass", "fail", "not applicable"]
COLOURS: dict[Outcome, str] = {"pass": "green", "fail": "bold red", "not applicable": "dim"}


class Violation(Exception):
    """The server breaks the protocol: what was seen, and what to do about it."""

    def __init__(self, seen: str, advice: str) -> None:
        super().__init__(seen)
        self.advice = advice


class NotApplicable(Exception):
    """This robot has nothing to check here; the text says why."""


@dataclass(frozen=True)
class Result:
    """One line of the table. ``advice`` says what to do, and is empty unless the check failed."""

    name: str
    sentence: str
    result: Outcome
    seen: str
    advice: str = ""
    seconds: float = 0.0


def expect(holds: bool | Any, seen: str, advice: str) -> None:
    """Raises `Violation` unless ``holds``."""
    if not holds:
        fail(seen, advice)


def fail(seen: str, advice: str) -> NoReturn:
    """Raises `Violation`."""
    raise Violation(seen, advice)


def holds(results: Sequence[Result]) -> bool:
    """Whether every applicable check passed."""
    return all(result.result != "fail" for result in results)


def as_json(address: str, robot: str, farthest: float, results: Sequence[Result]) -> dict[str, Any]:
    """What ``--json`` prints; ``farthest`` is how far the arm was seen from where it was found, m along one axis."""
    return {
        "address": address,
        "robot": robot,
        "farthest": farthest,
        "holds": holds(results),
        "checks": [asdict(result) for result in results],
    }


def as_table(results: Sequence[Result]) -> Table:
    """What a person reads."""
    table = Table(title_justify="left", padding=(0, 1))
    for column, ratio in (("check", 3), ("result", 2), ("what was seen", 12), ("what to do", 6)):
        table.add_column(column, ratio=ratio, overflow="fold")
    for result in results:
        colour = COLOURS[result.result]
        table.add_row(result.name, Text(result.result, style=colour), Text(result.seen), Text(result.advice))
    return table
