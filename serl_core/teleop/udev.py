"""What to tell somebody whose account may not use a device of a Linux computer."""

from __future__ import annotations

RULES = "/etc/udev/rules.d/70-serl.rules"  # a number below 73: later, "uaccess" has no effect


def hidraw_rule(vendor: int, product: int) -> str:
    """The udev rule for a HID device by its USB numbers; it holds for Bluetooth too."""
    return f'KERNEL=="hidraw*", KERNELS=="*:{vendor:04X}:{product:04X}.*", {_ACCESS}'


def input_rule(vendor: int, product: int) -> str:
    """The udev rule for an input device (evdev) by its USB numbers."""
    return (
        f'SUBSYSTEM=="input", KERNEL=="event*", ATTRS{{id/vendor}}=="{vendor:04x}", '
        f'ATTRS{{id/product}}=="{product:04x}", {_ACCESS}'
    )


def advice(rule: str) -> str:
    """How to put a rule into force, in one line."""
    return (
        f"as root write the line  {rule}  into {RULES}, run `udevadm control --reload && udevadm trigger`, "
        "and use it at that computer's own screen or as a member of the group plugdev"
    )


_ACCESS = 'MODE="0660", GROUP="plugdev", TAG+="uaccess"'
