"""What a notebook shows of a machine, and of an array's place: a bar for each host (``_repr_html_``)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from megalith.report import HostFigures
from megalith.sizes import format_size

_WIDTH: Final = "16em"
_FULL, _LIGHT = "#3b7dd8", "#9cc0ee"
"""Blues that can be read on white and on black."""


def machine_html(title: str, hosts: Sequence[HostFigures]) -> str:
    """A table of the hosts: of each a bar of its budget, filled by what it holds, and the amounts.

    ``title`` is text, not HTML.
    """
    rows = "".join(_row(host) for host in hosts)
    legend = f"{_swatch(_FULL)} mapped&ensp;{_swatch(_LIGHT)} stowed"
    return f"<div><div>{escape(title)}</div><table>{rows}</table><small>{legend}</small></div>"


def located_html(rows: Sequence[tuple[str, int, int]], total: int) -> str:
    """A table of the hosts (name, bytes owned, bytes of copies): of each a bar, which is full at ``total`` bytes."""
    shown = "".join(
        _line(name, (owned / max(1, total), copies / max(1, total)), _owned(owned, copies))
        for name, owned, copies in rows
    )
    legend = f"{_swatch(_FULL)} owned&ensp;{_swatch(_LIGHT)} copies"
    return f"<div><table>{shown}</table><small>{legend}</small></div>"


def _owned(owned: int, copies: int) -> str:
    return format_size(owned) + (f", copies of {format_size(copies)}" if copies else "")


def _row(host: HostFigures) -> str:
    budget = max(1, host.budget)
    # What is held may be more than what is mapped and stowed: slots that are on their way.
    shares = host.mapped / budget, max(0, host.held - host.mapped) / budget
    return _line(host.name, shares, f"{format_size(host.held)} of {format_size(host.budget)}")


def _line(name: str, shares: tuple[float, float], amounts: str) -> str:
    first = min(1.0, shares[0])
    second = min(1.0 - first, shares[1])
    bar = (
        f'<div style="width:{_WIDTH};border:1px solid #888;line-height:0" role="img" '
        f'aria-label="{first + second:.0%}">{_part(first, _FULL)}{_part(second, _LIGHT)}</div>'
    )
    return (
        f'<tr><td style="text-align:left">{escape(name)}</td><td>{bar}</td>'
        f'<td style="text-align:right">{amounts}</td></tr>'
    )


def _part(share: float, colour: str) -> str:
    return f'<div style="display:inline-block;height:1em;width:{share:.2%};background:{colour}"></div>'


def _swatch(colour: str) -> str:
    return f'<span style="color:{colour}">&#9632;</span>'
