"""What a notebook shows of a machine: a bar for each host (``_repr_html_``, as Jupyter asks for it)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from megalith.report import HostFigures
from megalith.sizes import format_size

_WIDTH: Final = "16em"
_MAPPED, _STOWED = "#3b7dd8", "#9cc0ee"
"""Blues that can be read on white and on black."""


def machine_html(title: str, hosts: Sequence[HostFigures]) -> str:
    """A table of the hosts: of each a bar of its budget, filled by what it holds, and the amounts.

    ``title`` is text, not HTML.
    """
    rows = "".join(_row(host) for host in hosts)
    legend = f"{_swatch(_MAPPED)} mapped&ensp;{_swatch(_STOWED)} stowed"
    return f"<div><div>{escape(title)}</div><table>{rows}</table><small>{legend}</small></div>"


def _row(host: HostFigures) -> str:
    budget = max(1, host.budget)
    # What is held may be more than what is mapped and stowed: slots that are on their way.
    mapped = min(1.0, host.mapped / budget)
    stowed = min(1.0 - mapped, max(0, host.held - host.mapped) / budget)
    bar = (
        f'<div style="width:{_WIDTH};border:1px solid #888;line-height:0" role="img" '
        f'aria-label="{host.held / budget:.0%} of its budget">{_part(mapped, _MAPPED)}{_part(stowed, _STOWED)}</div>'
    )
    amounts = f"{format_size(host.held)} of {format_size(host.budget)}"
    return (
        f'<tr><td style="text-align:left">{escape(host.name)}</td><td>{bar}</td>'
        f'<td style="text-align:right">{amounts}</td></tr>'
    )


def _part(share: float, colour: str) -> str:
    return f'<div style="display:inline-block;height:1em;width:{share:.2%};background:{colour}"></div>'


def _swatch(colour: str) -> str:
    return f'<span style="color:{colour}">&#9632;</span>'
