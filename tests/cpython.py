"""CPython's own tests, to be run on what has the interfaces of its standard library.

They come from the directory that ``MEGALITH_CPYTHON_TESTS`` names, from the ``test`` package of this very Python where
it has one, or from Debian's ``libpython3.x-testsuite``.
"""

from __future__ import annotations

import atexit
import functools
import importlib
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
        f"no {name} here: this Python comes without it; "
        "apt-get install libpython3.11-testsuite, or set MEGALITH_CPYTHON_TESTS"
    )


def make_importable(suite: Path) -> None:
    """Makes ``test`` a package of this suite, of others that were asked for, and of what they need of this Python.

    For workers, too; until this process ends. Skips the module that asks if this Python has no ``test.support``.
    """
    support = Path(os.__file__).parent / "test" / "support"
    if not support.exists():
        pytest.skip(f"this Python has no test.support ({support})", allow_module_level=True)
    (_package(support) / suite.name).symlink_to(suite)
    importlib.invalidate_caches()


@functools.cache
def _package(support: Path) -> Path:
    """One for all suites: what is pickled by name must be found by it."""
    place = Path(tempfile.mkdtemp(prefix="cpython-suite-"))
    atexit.register(shutil.rmtree, place)
    package = place / "test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "support").symlink_to(support)
    sys.path.insert(0, str(place))
    for name in [name for name in sys.modules if name == "test" or name.startswith("test.")]:
        del sys.modules[name]
    return package
