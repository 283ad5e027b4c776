"""The command line, run as a user runs it, on fake agents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
FAKE = HERE / "fake"
PACKAGE = HERE.parent.parent / "python"

sys.path.insert(0, str(FAKE))


@pytest.fixture(scope="session")
def fake_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "fake-runtime"
    subprocess.run(["cc", "-O1", "-o", path, HERE / "fake_runtime.c"], check=True)
    return path


class Cli:
    """Runs ``megalith`` with the fake core, and looks after what it leaves behind."""

    def __init__(self, runtime: Path, home: Path) -> None:
        self.home = home
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{FAKE}:{PACKAGE}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "FAKE_RUNTIME": str(runtime),
            "TMPDIR": str(home / "tmp"),
            "XDG_RUNTIME_DIR": str(home / "xdg"),
            "LC_ALL": "C.UTF-8",
        }
        (home / "tmp").mkdir()
        (home / "xdg").mkdir(mode=0o700)

    def popen(self, *words: str, wish: dict[str, Any] | None = None, **options: Any) -> subprocess.Popen[str]:
        environment = self.environment | {"FAKE": json.dumps(wish or {})}
        command = [sys.executable, "-P", "-m", "megalith", *words]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
        return subprocess.Popen(command, text=True, env=environment, **options)

    def __call__(
        self, *words: str, wish: dict[str, Any] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        with self.popen(*words, wish=wish, **options) as process:
            try:
                out, err = process.communicate(timeout=60)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def leftovers(self) -> list[str]:
        """Agents and directories of local hosts that are still there."""
        found = [str(path) for path in (self.home / "tmp").iterdir()]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environ = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if f"TMPDIR={self.home / 'tmp'}".encode() in environ.split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found


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
