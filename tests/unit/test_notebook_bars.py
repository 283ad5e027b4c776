"""What a notebook shows of a machine."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from megalith.notebook import machine_html
from megalith.report import HostFigures

MIB = 1 << 20


def widths(html: str) -> list[str]:
    """Of the coloured parts of all bars, in order."""
    tree = ElementTree.fromstring(html.replace("&ensp;", " "))
    styles = [found.get("style", "") for found in tree.iter("div")]
    return [style.split("width:")[1].split(";")[0] for style in styles if "inline-block" in style]


def test_bars_are_as_long_as_what_is_held() -> None:
    hosts = [
        HostFigures("a", 64 * MIB, held=32 * MIB, mapped=16 * MIB, stowed=16 * MIB),
        HostFigures("b", 64 * MIB, held=0),
        HostFigures("c", 64 * MIB, held=70 * MIB, mapped=48 * MIB, stowed=22 * MIB),
    ]
    html = machine_html("three", hosts)
    assert widths(html) == ["25.00%", "25.00%", "0.00%", "0.00%", "75.00%", "25.00%"]
    assert "32.0 MiB of 64.0 MiB" in html


def test_names_are_text() -> None:
    html = machine_html("<b>", [HostFigures("<script>", MIB)])
    assert "<script>" not in html
    assert "&lt;b&gt;" in html
