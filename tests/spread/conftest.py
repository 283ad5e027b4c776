"""What the tests of spread mode share. Those marked slow run where MEGALITH_SLOW is set, and say so elsewhere."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from programs.native import need
from spread.machine import Machine

HERE = Path(__file__).parent
SLOW = "MEGALITH_SLOW"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"slow: takes minutes; runs where {SLOW}=1 is set")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(SLOW):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason=f"takes minutes: set {SLOW}=1"))


@pytest.fixture(scope="session")
def litmus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program of `litmus.c`, built."""
    return build([HERE / "litmus.c"], tmp_path_factory.mktemp("litmus") / "litmus", "-O2")


@pytest.fixture(scope="session")
def threads(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program of `threads/`, built."""
    sources = sorted(HERE.joinpath("threads").glob("*.c"))
    return build(sources, tmp_path_factory.mktemp("threads") / "threads", "-O1", "-g")


def build(
    sources: list[Path],
    binary: Path,
    *options: str,
    compiler: str = "gcc",
    standard: str = "gnu17",
    libraries: Sequence[str] = (),
) -> str:
    """Builds a C program, or with another compiler and standard a C++ program."""
    words = [need(compiler, compiler), f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pthread", *options]
    subprocess.run([*words, *map(str, sources), "-o", str(binary), *libraries], check=True, timeout=120)
    return str(binary)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Machine:
    """The machine that the test is parametrised with; it is skipped where that is not built."""
    found = request.param
    assert isinstance(found, Machine)
    if not found.native:
        request.getfixturevalue("megalith")
    return found


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path (sockets are made in it) with room for large files, and beside it for what is told of a run."""
    made = Path(tempfile.mkdtemp(prefix="mgl-spread-"))
    inner = made / "run"
    inner.mkdir()
    try:
        yield inner
    finally:
        shutil.rmtree(made, ignore_errors=True)
