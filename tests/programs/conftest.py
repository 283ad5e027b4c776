"""What every comparison of a program with itself needs."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from programs.compare import Stage


@pytest.fixture
def stage(megalith: None, mark: str) -> Iterator[Stage]:
    """A short path (sockets are made in it) with room for large files."""
    directory = Path(tempfile.mkdtemp(prefix="mgl-program-"))
    try:
        yield Stage(directory, mark, {"LC_ALL": "C"})
    finally:
        shutil.rmtree(directory, ignore_errors=True)
