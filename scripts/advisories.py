"""Known weaknesses of Python packages, from a copy of PyPA's advisories, without a network.

The copy is a clone of the repository pypa/advisory-database on GitHub, whose files are of the OSV schema
(https://ossf.github.io/osv-schema/). It is looked for where ``MEGALITH_PYPA_ADVISORIES`` says, or in
``~/.cache/megalith/pypa-advisories``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version


def database() -> Path | None:
    """The copy, if there is one."""
    said = os.environ.get("MEGALITH_PYPA_ADVISORIES")
    found = Path(said) if said else Path.home() / ".cache" / "megalith" / "pypa-advisories"
    return found if (found / "vulns").is_dir() else None


def affects(advisory: Mapping[str, Any], version: str) -> bool:
    """Whether an advisory, not withdrawn, is about a version of its package: by range, or by name."""
    if "withdrawn" in advisory:
        return False
    for affected in advisory.get("affected", ()):
        if version in {str(named) for named in affected.get("versions", ())}:
            return True
        for spans in affected.get("ranges", ()):
            if spans["type"] == "ECOSYSTEM" and _within(spans["events"], Version(version)):
                return True
    return False


def _within(events: list[dict[str, Any]], version: Version) -> bool:
    """The schema's rule: the last event that is not after the version decides."""
    inside = False
    for event in sorted(events, key=lambda event: _place(next(iter(event.values())))):
        ((kind, at),) = event.items()
        if kind == "introduced" and version >= _place(at):
            inside = True
        elif (kind == "fixed" and version >= _place(at)) or (kind == "last_affected" and version > _place(at)):
            inside = False
    return inside


def _place(at: object) -> Version:
    try:
        return Version(str(at))
    except InvalidVersion:
        # A name of long ago, which no version of today is before.
        return Version("0")


def of(copy: Path, name: str, version: str) -> Iterator[str]:
    """What a copy has against a version of a package: a line each.

    ``name`` is as the index compares names. Raises OSError or ``yaml.YAMLError`` for a copy that cannot be read.
    """
    for path in sorted((copy / "vulns" / name).glob("*.yaml")):
        advisory = yaml.safe_load(path.read_text())
        if affects(advisory, version):
            known_as = ", ".join(map(str, advisory.get("aliases", ())))
            yield f"{name} {version}: {advisory['id']} ({known_as}): {_first_line(advisory)}"


def _first_line(advisory: Mapping[str, Any]) -> str:
    text = str(advisory.get("summary") or advisory.get("details") or "").strip()
    return " ".join(text.split())[:120]
