"""What every test of a failure needs: a victim program, and a look at what is left."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from programs.native import need


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program of `programs.c`, built."""
    binary = tmp_path_factory.mktemp("victim") / "victim"
    source = Path(__file__).with_name("programs.c")
    subprocess.run(
        [need("gcc", "gcc"), "-O1", "-Wall", "-Werror", "-pthread", str(source), "-o", str(binary)],
        check=True,
        timeout=60,
    )
    return str(binary)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A short path for TMPDIR, in which nothing may be left."""
    directory = Path(tempfile.mkdtemp(prefix="mgl-scratch-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
