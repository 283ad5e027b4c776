"""The live display: where the memory is, at the foot of the terminal, while a program runs.

The program's own output scrolls above it: the lowest lines are taken out of the terminal's scroll region
(DECSTBM), as apt does it. No library is needed, and none would know how to share a terminal with a
program that it does not control. A program that takes the terminal for itself (an editor, a shell's
prompt: anything that turns off line input) gets it whole.
"""

from __future__ import annotations

import os
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TextIO

from megalith.report import HostFigures
from megalith.sizes import format_size

PERIOD_S: Final = 0.5
HOSTS_SHOWN_MAX: Final = 8
_ROWS_LEFT_MIN: Final = 8
"""A terminal in which the program would have fewer lines than this stays as it is."""

_MAPPED, _STOWED, _FREE = "█", "▒", "·"


class LiveDisplay:
    """Bars at the foot of a terminal, as a context manager; nothing at all without one."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._colour = "NO_COLOR" not in os.environ
        self._shown_s = float("-inf")
        self._rows = 0
        """Lines taken from the terminal now."""
        self._height = 0

    @classmethod
    def on_stderr(cls, *, wanted: bool) -> LiveDisplay:
        """A display on standard error, if that is a terminal that can show one."""
        able = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        return cls(sys.stderr if wanted and able else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._leave()

    def show(self, hosts: Sequence[HostFigures]) -> None:
        """Draws the hosts' figures, at most twice a second."""
        now_s = time.monotonic()
        # Heartbeats come every half second or so; a little early is not too early.
        if self._stream is None or now_s - self._shown_s < PERIOD_S * 0.9:
            return
        self._shown_s = now_s
        try:
            self._draw(hosts)
        except OSError:
            # The terminal has gone (a connection was cut); the program need not.
            self._stream, self._rows = None, 0

    def _draw(self, hosts: Sequence[HostFigures]) -> None:
        assert self._stream is not None
        if _terminal_is_taken():
            self._leave()
            return
        size = os.get_terminal_size(self._stream.fileno())
        lines = self.lines(hosts, size.columns, colour=self._colour)
        if size.lines < len(lines) + _ROWS_LEFT_MIN:
            self._leave()
            return
        if (len(lines), size.lines) != (self._rows, self._height):
            self._leave()
            self._enter(len(lines), size.lines)
        top = size.lines - len(lines) + 1
        body = "".join(f"\x1b[{top + n};1H\x1b[2K{line}" for n, line in enumerate(lines))
        self._write(f"\x1b7{body}\x1b8")

    @staticmethod
    def lines(hosts: Sequence[HostFigures], columns: int, *, colour: bool) -> list[str]:
        """One line a host: name, bar, amounts."""
        shown = hosts if len(hosts) <= HOSTS_SHOWN_MAX else hosts[: HOSTS_SHOWN_MAX - 1]
        width = max(len(host.name) for host in shown)
        lines = [_line(host, min(width, 20), columns, colour) for host in shown]
        if rest := hosts[len(shown) :]:
            held, budget = sum(h.held for h in rest), sum(h.budget for h in rest)
            text = f"and {len(rest)} more: {format_size(held)} of {format_size(budget)}"
            lines.append(text[: columns - 1])
        return lines

    def _enter(self, rows: int, height: int) -> None:
        # Scroll what is there out of the way, then keep the program above.
        self._write("\n" * rows + f"\x1b[{rows}A" + f"\x1b7\x1b[1;{height - rows}r\x1b8")
        self._rows, self._height = rows, height

    def _leave(self) -> None:
        if self._rows:
            wipe = "".join(f"\x1b[{self._height - n};1H\x1b[2K" for n in range(self._rows))
            self._write(f"\x1b7\x1b[r{wipe}\x1b8")
            self._rows = 0

    def _write(self, text: str) -> None:
        assert self._stream is not None
        self._stream.write(text)
        self._stream.flush()


def _line(host: HostFigures, width: int, columns: int, colour: bool) -> str:
    faults = host.faults.total
    tail = f" {format_size(host.held):>9} of {format_size(host.budget):<9} {faults:>10,} faults"
    if host.threads is not None:
        tail += f" {host.threads:>4} threads"
    name = f"{host.name[:width]:<{width}} "
    cells = max(0, min(60, columns - 1 - len(name) - len(tail)))
    mapped = min(cells, round(cells * host.mapped / max(1, host.budget)))
    stowed = min(cells - mapped, round(cells * (host.held - host.mapped) / max(1, host.budget)))
    parts = (_MAPPED * mapped, _STOWED * max(0, stowed))
    bar = "".join(parts) + _FREE * (cells - sum(map(len, parts)))
    if len(name) + len(tail) > columns - 1:
        return (name + tail)[: columns - 1]
    return f"{name}\x1b[36m{bar}\x1b[0m{tail}" if colour else f"{name}{bar}{tail}"


def _terminal_is_taken() -> bool:
    """Whether the program has turned off line input: it draws on the terminal by itself."""
    try:
        flags = termios.tcgetattr(0)[3]
    except termios.error:
        return False
    return not flags & termios.ICANON
