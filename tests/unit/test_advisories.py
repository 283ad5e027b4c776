"""Which versions an advisory is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import advisories
import pytest

FIXED = {"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.10"}]}]}
TWICE = {
    "ranges": [
        {
            "type": "ECOSYSTEM",
            "events": [{"introduced": "3.0"}, {"fixed": "3.1"}, {"introduced": "4.0"}, {"last_affected": "4.2"}],
        }
    ]
}
COMMITS = {"ranges": [{"type": "GIT", "events": [{"introduced": "0"}, {"fixed": "abc"}]}]}


@pytest.mark.parametrize(
    ("affected", "version", "is_about"),
    [
        (FIXED, "2.9", True),
        (FIXED, "2.10", False),
        (FIXED, "2.10rc1", True),
        (TWICE, "2.9", False),
        (TWICE, "3.0.5", True),
        (TWICE, "3.1", False),
        (TWICE, "4.2", True),
        (TWICE, "4.2.1", False),
        (COMMITS, "1.0", False),
        ({"versions": ["1.5", "1.6"]}, "1.6", True),
        ({"versions": ["1.5", "1.6"]}, "1.7", False),
    ],
)
def test_versions(affected: dict[str, Any], version: str, is_about: bool) -> None:
    assert advisories.affects({"affected": [affected]}, version) is is_about
    assert not advisories.affects({"affected": [affected], "withdrawn": "2024-01-01T00:00:00Z"}, version)


def test_a_copy_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGALITH_PYPA_ADVISORIES", str(tmp_path))
    assert advisories.database() is None
    place = tmp_path / "vulns" / "some-name"
    place.mkdir(parents=True)
    (place / "PYSEC-2024-1.yaml").write_text(
        "id: PYSEC-2024-1\ndetails: |\n  Reads what\n  it must not.\naliases: [CVE-2024-1]\naffected:\n"
        "- ranges:\n  - type: ECOSYSTEM\n    events:\n    - introduced: '0'\n    - fixed: '1.2'\n"
    )
    copy = advisories.database()
    assert copy == tmp_path
    assert list(advisories.of(copy, "some-name", "1.1")) == [
        "some-name 1.1: PYSEC-2024-1 (CVE-2024-1): Reads what it must not."
    ]
    assert not list(advisories.of(copy, "some-name", "1.2"))
    assert not list(advisories.of(copy, "other", "1.1"))
