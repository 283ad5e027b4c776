"""The site that `make docs` has made: it opens from files, without a server or a network."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).resolve().parents[2] / "build" / "docs"


class Page(HTMLParser):
    """What a page refers to, and the places in it that can be referred to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if place := found.get("id"):
            self.places.add(place)
        target = found.get("src") or found.get("href")
        is_style = tag == "link" and "stylesheet" in (found.get("rel") or "")
        if target and (is_style or tag in {"img", "script", "source"}):
            self.loads.append(target)
        elif target and tag == "a":
            self.links.append(target)


@pytest.fixture(scope="module")
def site() -> dict[Path, Page]:
    if not (SITE / "index.html").exists():
        if os.environ.get("CI") == "true":
            pytest.fail("there is no site; try: make docs")
        pytest.skip("there is no site; try: make docs")
    return {path: Page(path) for path in sorted(SITE.rglob("*.html"))}


def test_nothing_comes_from_elsewhere(site: dict[Path, Page]) -> None:
    for path, page in site.items():
        for target in page.loads:
            parts = urlsplit(target)
            assert not parts.scheme, f"{path.name} loads {target}"
            assert not parts.netloc, f"{path.name} loads {target}"
            assert (path.parent / unquote(parts.path)).is_file(), f"{path.name} loads {target}, which is not there"


def test_links_lead_somewhere(site: dict[Path, Page]) -> None:
    followed = 0
    for path, page in site.items():
        for target in page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert to.is_file(), f"{path.name} links to {target}, which is not there"
            if parts.fragment and to in site and to.name != "search.html":
                assert unquote(parts.fragment) in site[to].places, f"{path.name} links to {target}: no such place"
            followed += 1
    assert followed > 100


def test_the_reference_is_complete(site: dict[Path, Page]) -> None:
    import megalith

    places = site[SITE / "reference" / "api.html"].places
    for name in megalith.__all__:
        if not name.startswith("__"):
            assert {f"megalith.{name}", f"megalith.exceptions.{name}"} & places, f"{name} is not in the reference"
    commands = (SITE / "reference" / "cli.html").read_text(encoding="utf-8")
    for command in ("run", "agent", "init", "token", "doctor", "demo"):
        assert f"megalith {command}" in commands
