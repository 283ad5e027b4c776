"""CPython's own tests, to be run on what has the interfaces of its standard library.

They come from the directory that ``MEGALITH_CPYTHON_TESTS`` names, from the ``test`` package of this very Python where
it has one, or from Debian's ``libpython3.x-testsuite``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest


def find(name: str) -> Path | None:
    """A module of the ``test`` package, or the package that later versions have in its place."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    places = [Path(os.__file__).parent / "test", Path("/usr/lib") / version / "test"]
    if named := os.environ.get("MEGALITH_CPYTHON_TESTS"):
        places.insert(0, Path(named))
    found = (place / variant for place in places for variant in (f"{name}.py", name))
    return next((path for path in found if path.exists()), None)


def missing(name: str) -> str:
    """Why it cannot be run."""
    return (
        f"no {name} here: this Python comes without it; apt install libpython3-testsuite, or set MEGALITH_CPYTHON_TESTS"
    )


def make_importable(suite: Path) -> Path:
    """Makes ``test`` a package of the suite and of what it needs of this Python, also for workers.

    Returns what :func:`forget` takes away. Skips the module that asks if this Python has no ``test.support``.
    """
    support = Path(os.__file__).parent / "test" / "support"
    if not support.exists():
        pytest.skip(f"this Python has no test.support ({support})", allow_module_level=True)
    place = Path(tempfile.mkdtemp(prefix="cpython-suite-"))
    package = place / "test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "support").symlink_to(support)
    (package / suite.name).symlink_to(suite)
    sys.path.insert(0, str(place))
    _forget_modules()
    return place


def forget(place: Path) -> None:
    """Takes it off the import path."""
    sys.path.remove(str(place))
    _forget_modules()
    shutil.rmtree(place)


def _forget_modules() -> None:
    for name in [name for name in sys.modules if name == "test" or name.startswith("test.")]:
        del sys.modules[name]
