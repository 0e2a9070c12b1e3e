"""The classifier's confident mistakes as one page: pictures, where they come from, and how to correct a wrong label."""

from __future__ import annotations

import base64
import html
import shlex
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serl_core.judging import plots
from serl_core.judging.encoded import Examples, Place
from serl_core.judging.labelled import Recorded

Images = Mapping[str, npt.NDArray[np.uint8]]  # by camera: (H, W, 3)

STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222 }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(22em, 1fr)); gap: 1em }
article { border: 1px solid #ccc; border-radius: 6px; padding: .8em }
figure { display: inline-block; margin: 0 .4em .4em 0 } img { width: 160px; image-rendering: pixelated }
figcaption, small { color: #666 } code { display: block; overflow-x: auto; background: #f4f4f4; padding: .4em }
b.wrong { color: #a40000 }
"""


@dataclass(frozen=True)
class Mistake:
    """A frame whose label the classifier contradicts; ``probability`` is what it gives the class that it believes in.

    ``suspected``: training took the label for a wrong one, and left the frame out.
    """

    place: Place
    labelled: str
    believed: str
    probability: float
    suspected: bool = False


def mistakes(
    examples: Examples,
    probabilities: npt.NDArray[np.float64],
    classes: tuple[str, ...],
    suspected: npt.NDArray[np.bool_] | None = None,
) -> list[Mistake]:
    """All of them, suspected frames (N,) first, then the most confident, by probabilities (N, classes)."""
    rows = np.arange(len(examples.labels))
    doubted = np.zeros(len(rows), np.bool_) if suspected is None else suspected
    against = probabilities.copy()
    against[rows, examples.labels] = 0.0
    believed, surest = against.argmax(axis=1), against.max(axis=1)
    wrong = np.flatnonzero(doubted | (probabilities.argmax(axis=1) != examples.labels))
    return [
        Mistake(
            examples.places[n], classes[examples.labels[n]], classes[believed[n]], float(surest[n]), bool(doubted[n])
        )
        for n in wrong[np.lexsort((-surest[wrong], ~doubted[wrong]))]
    ]


def pictures(found: Sequence[Mistake], episodes: Iterable[Recorded], cameras: Sequence[str]) -> dict[Place, Images]:
    """What the cameras saw at each of these places."""
    wanted: dict[tuple[str, str, int], list[Place]] = {}
    for place in {mistake.place for mistake in found}:
        wanted.setdefault((str(place.folder), place.actor, place.episode), []).append(place)
    seen: dict[Place, Images] = {}
    for episode in episodes:
        for place in wanted.get((str(episode.folder), episode.actor, episode.episode), ()):
            obs = episode.frames[place.step + 1]
            seen[place] = {name: np.array(obs[name]) for name in cameras}
    return seen


def page(title: str, text: str, found: Sequence[Mistake], seen: Mapping[Place, Images], curves: str = "") -> str:
    """A page that needs nothing else: pictures are inside; ``curves`` are markup (`serl_core.judging.plots`)."""
    cards = "".join(_card(mistake, seen[mistake.place]) for mistake in found)
    head = f"<title>{html.escape(title)}</title><style>{STYLE}{plots.STYLE}</style>"
    about = f"<h1>{html.escape(title)}</h1><p>{html.escape(text)}</p>"
    body = cards or "<p>There is none: the classifier agrees with every label.</p>"
    return f'<!doctype html><html lang="en"><meta charset="utf-8">{head}{about}{curves}<main>{body}</main></html>\n'


def _card(mistake: Mistake, images: Images) -> str:
    place = mistake.place
    shown = "".join(
        f'<figure><img alt="{html.escape(name)}" src="{data_uri(image)}"><figcaption>{html.escape(name)}'
        "</figcaption></figure>"
        for name, image in images.items()
    )
    where = html.escape(f"episode {place.episode} of {place.actor}, step {place.step}, {place.folder}")
    said = (
        f'labelled <b>{html.escape(mistake.labelled)}</b>, seems to be <b class="wrong">'
        f"{html.escape(mistake.believed)}</b> ({mistake.probability:.1%})"
        f"{'; suspected, and left out of training' if mistake.suspected else ''}"
    )
    return f"<article>{shown}<p>{said}<br><small>{where}</small></p><p>{_advice(mistake)}</p></article>"


def _advice(mistake: Mistake) -> str:
    """How to say that the label is wrong: a command of ``serl label``, and what exactly it does."""
    place, found = mistake.place, mistake.believed == "success" and mistake.place.step >= 0
    if place.by != "folder" and found:
        kept = "every other frame keeps its label" if place.by == "kind" else "the success begins here, none before it"
        return _command(place, "success", f"If this frame shows a success ({kept})", f" --step {place.step}")
    if place.by == "verdict" and mistake.labelled == "success":
        return _command(place, "failure", "If no frame of the episode shows a success")
    either = (
        "move it to the folder of its class, or leave all of it out" if place.by == "folder" else "leave all of it out"
    )
    return _command(
        place, "discarded", f"No command corrects this frame alone. If the recording is not to be used, {either}"
    )


def _command(place: Place, verdict: str, when: str, options: str = "") -> str:
    who = f"--actor {shlex.quote(place.actor)} --episode {place.episode}"
    command = f"serl label {shlex.quote(str(place.folder))} {verdict} {who}{options}"
    return f"{when}: <code>{html.escape(command)}</code> and train again."


def data_uri(image: npt.NDArray[np.uint8]) -> str:
    """An image (H, W, 3) as a PNG within a page."""
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """An image (H, W, 3) as the bytes of a PNG (https://www.w3.org/TR/png-3): 8 bit RGB, rows unfiltered."""
    height, width = image.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, width * 3)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, *zip(*parts, strict=True)))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
