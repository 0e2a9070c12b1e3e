"""A classifier's curves as pictures within a page: inline SVG, nothing is loaded from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serl_core.judging.figures import told_classes

WIDTH, HEIGHT = 320, 270  # of a picture, pixels
LEFT, TOP, SIDE = 46, 24, 200  # of the unit square in it
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
NAMES = {"held_out": "without suspected frames", "as_labelled": "every label at its word"}

STYLE = """
.curves svg { width: 320px; margin-right: 1em; font: 11px system-ui, sans-serif }
.curves text { fill: #444 } .curves .grid { stroke: #ddd } .curves .ideal { stroke: #999; stroke-dasharray: 2 3 }
.curves .held_out { color: #204a87 } .curves .as_labelled { color: #a40000 }
.curves polyline { fill: none; stroke: currentColor; stroke-width: 1.8 }
.curves circle, .curves text[class] { fill: currentColor }
"""


@dataclass(frozen=True)
class Dot:
    """A point in the unit square, and what a person reads who points at it."""

    x: float
    y: float
    text: str
    radius: float = 3.5  # pixels


@dataclass(frozen=True)
class Line:
    """Points in the unit square, joined, and some of them marked. ``which``: of `NAMES`."""

    which: str
    x: Sequence[float]
    y: Sequence[float]
    dots: Sequence[Dot] = ()


def curves(report: Mapping[str, Any]) -> str:
    """Precision over recall and reliability of each class that a person is told of; a report of train or of eval."""
    return "".join(_of_class(name, report["classes"][name]) for name in told_classes(report))


def _of_class(name: str, found: Mapping[str, Any]) -> str:
    whichever = [which for which in NAMES if which in found]
    if len(whichever) == 2 and found["held_out"] == found["as_labelled"]:  # nothing was suspected
        whichever = ["as_labelled"]
    precision = [_precision_recall(which, found[which], found["curves"][which]) for which in whichever]
    reliability = [_reliability(which, found["curves"][which]) for which in whichever]
    title = f'class "{name}"'
    return (
        f'<section class="curves">{chart(f"{title}: precision over recall", ("recall", "precision"), precision)}'
        f"{chart(f'{title}: reliability', ('probability', 'share that shows it'), reliability, ideal=True)}</section>"
    )


def _precision_recall(which: str, found: Mapping[str, Any], drawn: Mapping[str, Any]) -> Line:
    points = drawn["precision_recall"]
    text = f"threshold {found['threshold']:.3f}: precision {found['precision']:.1%}, recall {found['recall']:.1%}"
    dots = [Dot(found["recall"], found["precision"], text)] if found["successes"] else []
    return Line(which, points["recall"], points["precision"], dots)


def _reliability(which: str, drawn: Mapping[str, Any]) -> Line:
    bins = drawn["reliability"]
    rows = list(zip(bins["probability"], bins["share"], bins["frames"], strict=True))
    dots = [Dot(x, y, f"{count} frames at {x:.1%}: {y:.1%} show it") for x, y, count in rows]
    return Line(which, bins["probability"], bins["share"], dots)


def chart(title: str, axes: tuple[str, str], lines: Sequence[Line], ideal: bool = False) -> str:
    """The unit square with these lines in it, named if there are several; ``ideal`` draws its diagonal."""
    across, up = map(html.escape, axes)
    legend = [
        f'<text class="{line.which}" x="{LEFT}" y="{HEIGHT - 4 - 13 * n}">● {NAMES[line.which]}</text>'
        for n, line in enumerate(lines if len(lines) > 1 else ())
    ]
    parts = [
        *(_grid(tick) for tick in TICKS),
        f'<line class="ideal" {_ends(0, 0, 1, 1)}/>' if ideal else "",
        *(_drawn(line) for line in lines),
        f'<text x="{LEFT}" y="14">{html.escape(title)}</text>',
        f'<text x="{LEFT + SIDE + 6}" y="{TOP + SIDE + 4}">{across}</text>',
        f'<text x="{LEFT - 34}" y="{TOP + SIDE / 2}" transform="rotate(-90 {LEFT - 34} {TOP + SIDE / 2})" '
        f'text-anchor="middle">{up}</text>',
        *legend,
    ]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'


def _drawn(line: Line) -> str:
    points = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
    dots = (
        f'<circle class="{line.which}" cx="{_x(dot.x):.1f}" cy="{_y(dot.y):.1f}" r="{dot.radius}">'
        f"<title>{html.escape(dot.text)}</title></circle>"
        for dot in line.dots
    )
    return f'<polyline class="{line.which}" points="{points}"/>{"".join(dots)}'


def _grid(tick: float) -> str:
    return (
        f'<line class="grid" {_ends(0, tick, 1, tick)}/><line class="grid" {_ends(tick, 0, tick, 1)}/>'
        f'<text x="{LEFT - 4}" y="{_y(tick) + 4:.0f}" text-anchor="end">{tick:g}</text>'
        f'<text x="{_x(tick):.0f}" y="{TOP + SIDE + 14}" text-anchor="middle">{tick:g}</text>'
    )


def _ends(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'x1="{_x(x1):.0f}" y1="{_y(y1):.0f}" x2="{_x(x2):.0f}" y2="{_y(y2):.0f}"'


def _x(value: float) -> float:
    return LEFT + SIDE * value


def _y(value: float) -> float:
    return TOP + SIDE * (1 - value)
