"""Amounts of memory as people write them. All units are binary: ``1G`` is ``1GiB`` is 2**30 bytes."""

from __future__ import annotations

import re
from typing import Final, NewType

from megalith.exceptions import SizeError

ByteCount = NewType("ByteCount", int)

PAGE_BYTES: Final = 4096
BUDGET_BYTES_MIN: Final = ByteCount(1 << 20)
BUDGET_BYTES_MAX: Final = ByteCount(1 << 46)
"""The space of a program is not much larger than this, so neither is a useful budget."""

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE: Final = re.compile(r"([0-9]{1,100}(?:\.[0-9]{1,100})?)\s*([kmgt]?)(?:ib)?", re.IGNORECASE)
"""No number of more digits is an amount of memory, and Python refuses to read one of some thousand."""


def parse_size(text: str) -> ByteCount:
    """``512M``, ``2G``, ``1.5GiB``, ``2T`` or plain bytes, as a count of bytes.

    Decimal units (``2GB``) are refused rather than guessed at.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[2] == "" and text.strip().lower().endswith("ib")):
        raise SizeError(f"{text!r} is not a size; write it like 512M, 2G, 1.5GiB or 2T (binary units)")
    number, unit = match[1], match[2].lower()
    if unit == "" and "." in number:
        raise SizeError(f"{text!r} is not a whole number of bytes")
    return ByteCount(int(float(number) * _UNITS[unit]) if "." in number else int(number) * _UNITS[unit])


def parse_budget(text: str | int) -> ByteCount:
    """A size that can be a host's budget, rounded down to whole pages."""
    size = parse_size(text) if isinstance(text, str) else ByteCount(text)
    if not BUDGET_BYTES_MIN <= size <= BUDGET_BYTES_MAX:
        low, high = format_size(BUDGET_BYTES_MIN), format_size(BUDGET_BYTES_MAX)
        raise SizeError(f"{text} is out of range: a host's memory is between {low} and {high}")
    return ByteCount(size - size % PAGE_BYTES)


def format_size(size: int) -> str:
    """Three digits and a binary unit, such as ``1.50 GiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 999.5:
            return f"{size} B" if unit == "B" else f"{_three_digits(value)} {unit}"
        value /= 1024
    return f"{_three_digits(value)} TiB"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
