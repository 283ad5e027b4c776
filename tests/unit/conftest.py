"""The command line on fake agents; and a core for what is imported here, where the real one is not built."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from cli_driver import FAKE, HERE, Cli

if find_spec("megalith._core") is None:
    sys.path.insert(0, str(FAKE))
    import fake_core

    sys.modules["megalith._core"] = fake_core


@pytest.fixture(scope="session")
def fake_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "fake-runtime"
    subprocess.run(["cc", "-O1", "-o", path, HERE / "fake_runtime.c"], check=True)
    return path


@pytest.fixture
def cli(fake_runtime: Path, tmp_path: Path) -> Cli:
    return Cli(fake_runtime, tmp_path)


@pytest.fixture
def agent(cli: Cli) -> Iterator[Callable[..., str]]:
    """Starts agents that outlive runs; returns their addresses."""
    processes = []

    def start(name: str, *words: str, address: str = "127.0.0.1:0") -> str:
        if address.endswith(":0"):
            words = ("--dir", str(cli.home / name), *words)
        process = cli.popen(
            "agent", "--name", name, "--listen", address, "--memory", "64M", *words, stdout=subprocess.DEVNULL
        )
        processes.append(process)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert f"{name} listens on " in line, line
        return line.split(" on ")[1].split(" with ")[0]

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=10)
