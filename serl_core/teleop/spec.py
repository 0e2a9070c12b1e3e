"""Which device a person uses, as one word on a command line: ``spacemouse:left=1-2,right=1-3,gain=0.5``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

from robot_servers.interface import nearest
from serl_core.config import ConfigError
from serl_core.teleop.pair import HANDS
from serl_core.teleop.shaped import Shape


@dataclass(frozen=True)
class Kind:
    """What may follow the name of a device. ``words``: what can stand alone; ``path``: whether a file may."""

    words: tuple[str, ...] = ()
    options: tuple[str, ...] = ()  # beside those of the shape
    path: bool = False
    pairs: bool = False  # two of them lead two arms
    shape: Mapping[str, float] = field(default_factory=dict)  # what its shape is unless something else is said


KINDS = {
    # a dead band above the drift of a worn cap; half of the range at most for keys, which know no half-way
    "spacemouse": Kind(("ask",), ("port", "close", "open", "clutch", *HANDS), pairs=True, shape={"deadband": 0.05}),
    "keyboard": Kind(("display", "terminal"), shape={"gain": 0.5}),
    "gamepad": Kind((), HANDS, path=True, pairs=True, shape={"deadband": 0.1}),
}
HELP = (
    "spacemouse, keyboard or gamepad:PATH, as for --operator, with options behind it: spacemouse:port=1-2,gain=0.5. "
    "All: gain=0.5 of the full range, deadband=0.05 within which a push is none, frame=tcp or base, turn=DEGREES to "
    "where the person looks. SpaceMouse: port=PORT if there are several, close=, open=, clutch=NAME of buttons; for "
    "two arms left=PORT,right=PORT, or ask. Gamepad: for two arms left=PATH,right=PATH. Keyboard: the keys of the "
    "terminal where there is one; keyboard:display takes those of its window, which tell of several at once and of "
    "letting go, but also of what is typed into other tabs and panes; keyboard:terminal never takes these"
)
EXAMPLES = "spacemouse, spacemouse:left=1-2,right=1-3, keyboard, gamepad:/dev/input/event5, keyboard:frame=base,turn=90"


@dataclass(frozen=True)
class DeviceSpec:
    """A device as it was asked for. ``word``: what stood alone ("" if nothing); ``options``: the device's own."""

    kind: str
    word: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    shape: Shape = field(default_factory=Shape)

    @property
    def paired(self) -> bool:
        """Whether two devices were asked for, one for each hand."""
        return self.word == "ask" or any(hand in self.options for hand in HANDS)


def parse_spec(text: str, arms: int = 1) -> DeviceSpec:
    """``KIND[:ITEM,ITEM…]`` with items ``key=value`` or a single word, for a task of so many arms.

    Opens nothing. Raises `ConfigError` in one line for whatever cannot be meant.
    """
    name, _, rest = text.strip().partition(":")
    if name not in KINDS:
        raise ConfigError(f'unknown input device "{name}"{nearest(name, KINDS)} (for example {EXAMPLES})')
    kind = KINDS[name]
    word, options = "", {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, given, value = item.partition("=")
        if given:
            _check_option(name, kind, key, value, options)
            options[key] = value
        elif word:
            raise ConfigError(f'{name}: "{word}" and "{item}" cannot both be meant')
        else:
            word = _checked_word(name, kind, item)
    shape = _shape(name, kind, options)
    spec = DeviceSpec(name, word, {key: value for key, value in options.items() if key in kind.options}, shape)
    _check_hands(spec, kind, arms)
    return spec


def _check_option(name: str, kind: Kind, key: str, value: str, options: Mapping[str, str]) -> None:
    known = (*kind.options, *SHAPING)
    if key not in known:
        raise ConfigError(f'{name}: unknown option "{key}"{nearest(key, known)}')
    if key in options:
        raise ConfigError(f'{name}: "{key}" is given twice')
    if not value:
        raise ConfigError(f'{name}: "{key}" needs a value')


def _checked_word(name: str, kind: Kind, word: str) -> str:
    if word in kind.words or (kind.path and word.startswith("/")):
        return word
    known = (*kind.words, *(f"{option}=…" for option in (*kind.options, *SHAPING)))
    extra = ", or the path of a device" if kind.path else ""
    raise ConfigError(f'{name}: "{word}" is not understood{nearest(word, known)}{extra}')


def _frame(value: str) -> str:
    if value not in ("tcp", "base"):
        raise ConfigError(f'frame "{value}"{nearest(value, ("tcp", "base"))}')
    return value


SHAPING: Mapping[str, Callable[[str], str | float]] = {
    entry.name: _frame if entry.name == "frame" else float for entry in fields(Shape)
}


def _shape(name: str, kind: Kind, options: Mapping[str, str]) -> Shape:
    values: dict[str, str | float] = dict(kind.shape)
    for key in SHAPING.keys() & options.keys():
        try:
            values[key] = SHAPING[key](options[key])
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
        except ValueError as error:
            raise ConfigError(f'{name}: {key} "{options[key]}" is not a number') from error
    try:
        return Shape(**values)  # pyright: ignore[reportArgumentType]  # the table above says which is what
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _check_hands(spec: DeviceSpec, kind: Kind, arms: int) -> None:
    missing = [hand for hand in HANDS if hand not in spec.options]
    if arms == 1 and spec.paired:
        raise ConfigError(f"{spec.kind}: one arm is led with one hand: leave out left=, right= and ask")
    if arms == 2 and not kind.pairs:
        raise ConfigError(f"{spec.kind}: two arms need one device for each hand: use two SpaceMice or two gamepads")
    if arms == 2 and spec.word != "ask" and missing:
        ask = " or say spacemouse:ask" if spec.kind == "spacemouse" else ""
        raise ConfigError(
            f"{spec.kind}: two arms need left=… and right=…, {' and '.join(missing)} missing: "
            f"`serl teleop list` shows what is connected{ask}"
        )
    if arms == 2 and ("port" in spec.options or spec.word.startswith("/")):
        raise ConfigError(f"{spec.kind}: two arms need left=… and right=… and nothing else to say which is which")
    if arms == 2 and spec.options.get("left", "l") == spec.options.get("right", "r"):
        raise ConfigError(f"{spec.kind}: left and right are the same device, {spec.options['left']}")
