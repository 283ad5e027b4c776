"""Checks what the project depends on, without a network (`make audit`).

The Rust half is cargo-deny's matter, by `deny.toml`: licences, sources, what is banned; and RustSec's advisories if
a copy of them is here (`cargo deny fetch db` makes or renews one, with a network). The Python half is checked in the
environment that runs this: each requirement of `scripts` and `docs` is pinned and installed as pinned, what is
installed fits together, licences are known ones; and PyPA's advisories if a copy of them is here (`advisories.py`).
What is not checked is said.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import advisories

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = [ROOT / "scripts" / "requirements.txt", ROOT / "docs" / "requirements.txt"]
LICENSES = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0",
    "Unlicense",
}  # fmt: skip
"""SPDX names, and "BSD" as older metadata has it, of what our tools may be under. The wheel has none of them in it."""
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
    "Apache 2.0": "Apache-2.0",
}
STALE_DAYS = 30


def normal(name: str) -> str:
    """A distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def rustsec() -> Path | None:
    """The copy of RustSec's advisories that cargo-deny keeps, if there is one."""
    cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    found = sorted((cargo / "advisory-dbs").glob("*/.git"), key=lambda at: at.stat().st_mtime)
    return found[-1].parent if found else None


def age(database: Path, renew: str) -> str:
    """How old the newest advisory of a database is, and how to renew it if that is old."""
    shown = subprocess.run(
        ["git", "-C", database, "log", "-1", "--format=%ct"], capture_output=True, text=True, timeout=60, check=True
    )
    days = int((time.time() - int(shown.stdout)) // 86400)
    return f"as of {days} days ago" + (f" (STALE: {renew})" if days > STALE_DAYS else "")


def rust() -> bool:
    """cargo-deny's judgement; what it finds goes to standard error."""
    if shutil.which("cargo-deny") is None:
        print("audit: cargo-deny is missing: cargo install --locked cargo-deny", file=sys.stderr)
        return False
    checks = ["bans", "licenses", "sources"]
    database = rustsec()
    if database is None:
        print("audit: no copy of RustSec's advisories: NOT CHECKED (cargo deny fetch db)")
    else:
        checks.append("advisories")
        print(f"audit: RustSec's advisories {age(database, 'cargo deny fetch db')}")
    command = ["cargo-deny", "--offline", "--locked", "check", *checks]
    return subprocess.run(command, cwd=ROOT, timeout=300, check=False).returncode == 0


def pins(text: str) -> tuple[dict[str, str], list[str]]:
    """The versions a requirements file pins, by name, and its lines that pin none."""
    pinned, loose = {}, []
    for line in text.splitlines():
        words = line.split("#", 1)[0].strip()
        if not words:
            continue
        if match := re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)", words):
            pinned[normal(match[1])] = match[2]
        else:
            loose.append(words)
    return pinned, loose


def licenses(metadata: dict[str, list[str]]) -> set[str]:
    """The licences a distribution names, as SPDX names where it uses those or a classifier has one."""
    if expression := metadata.get("License-Expression"):
        return set(re.findall(r"[A-Za-z0-9.+-]+", expression[0])) - {"OR", "AND", "WITH"}
    marks = [mark.rsplit(" :: ", 1)[-1] for mark in metadata.get("Classifier", []) if mark.startswith("License ::")]
    if named := {CLASSIFIERS.get(mark, mark) for mark in marks if mark != "OSI Approved"}:
        return named
    words = [word.splitlines()[0] for word in metadata.get("License", []) if word]
    return {CLASSIFIERS.get(word, word) for word in words}


def needed(roots: list[str]) -> dict[str, Distribution]:
    """The distributions that these names bring with them, themselves included, as far as they are installed."""
    found: dict[str, Distribution] = {}
    waiting = list(roots)
    while waiting:
        name = normal(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        lines = (line for line in found[name].requires or [] if "extra ==" not in line)
        waiting.extend(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in lines)
    return found


def python() -> list[str]:
    """What is wrong with the Python half's requirements here, a line each."""
    pinned, wrong = pins("\n".join(path.read_text() for path in REQUIREMENTS))
    wrong = [f"{line}: not pinned" for line in wrong]
    present = needed(list(pinned))
    for name, version in pinned.items():
        if name not in present:
            wrong.append(f"{name}: not installed")
        elif present[name].version != version:
            wrong.append(f"{name}: {present[name].version} is installed, {version} is pinned")
    for name, found in sorted(present.items()):
        keys = ("License-Expression", "Classifier", "License")
        said = {key: found.metadata.get_all(key) or [] for key in keys}
        under = licenses(said)
        # "A OR B" is fine with one of them; "A AND B" is so rare among tools that it may be looked at.
        if not under & LICENSES:
            wrong.append(f"{name}: licence {' '.join(sorted(under)) or 'unknown'}")
    fits = subprocess.run(
        [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if fits.returncode != 0:
        wrong += fits.stdout.splitlines() or fits.stderr.splitlines()
    print(f"audit: {len(present)} Python packages: pins, fit and licences checked")
    return wrong + known_weaknesses(present)


def known_weaknesses(present: dict[str, Distribution]) -> list[str]:
    """What PyPA's advisories have against what is installed, a line each."""
    copy = advisories.database()
    if copy is None:
        print("audit: no copy of PyPA's advisories: NOT CHECKED (git clone pypa/advisory-database from GitHub to it)")
        return []
    print(f"audit: PyPA's advisories {age(copy, f'git -C {copy} pull')}")
    return [line for name, found in sorted(present.items()) for line in advisories.of(copy, name, found.version)]


def main() -> int:
    """0 if all that could be checked is as it should be."""
    sound = rust()
    wrong = python()
    for line in wrong:
        print(f"audit: {line}", file=sys.stderr)
    return 0 if sound and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
