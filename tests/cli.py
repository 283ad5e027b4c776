"""The `megalith` command of the running interpreter, and what its runs leave to look at."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, final

EXIT_LOST = 120
EXIT_CANNOT_START = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
EXIT_MEMORY = 137


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def complaint(self) -> list[str]:
        """What stands on stderr, line by line, without empty ones."""
        return [line for line in self.stderr.decode(errors="replace").splitlines() if line.strip()]


@final
class Report:
    """The figures that `--report FILE` wrote."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        data = json.loads(self.text)
        self.hosts: list[dict[str, Any]] = data["hosts"]

    def total(self, key: str) -> int:
        """The sum of a counter over all hosts."""
        return sum(int(host[key]) for host in self.hosts)

    def faults(self, kind: str) -> int:
        """The sum of the faults of a kind over all hosts."""
        return sum(int(host["faults"][kind]) for host in self.hosts)


def command(*arguments: str) -> list[str]:
    """The words that start the command line with `arguments` (-P: the working directory holds no modules)."""
    return [sys.executable, "-P", "-m", "megalith", *arguments]


def start(
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Starts the command line; its output goes to pipes."""
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=dict(env) if env is not None else None,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=new_session,
    )


def finish(process: subprocess.Popen[bytes], *, begin: float, timeout: float) -> Outcome:
    """Waits for the end. A run that does not end in time is killed, and what it said is in the error."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            _, stderr = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:  # a descendant holds the pipe
            stderr = b"(its pipes are still open)"
        raise TimeoutError(f"no end after {timeout} s; stderr: {stderr.decode(errors='replace')}") from None
    return Outcome(process.returncode, stdout, stderr, time.monotonic() - begin)


def run(
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    timeout: float = 120,
) -> Outcome:
    """Runs the command line to its end."""
    begin = time.monotonic()
    return finish(start(*arguments, cwd=cwd, env=env, stdin=stdin), begin=begin, timeout=timeout)


def local(hosts: int, memory: str, *, report: Path | None = None) -> list[str]:
    """The words from `run` up to the program, for hosts that are processes on this machine."""
    words = ["run", "--quiet", "--local", str(hosts), "--memory-per-host", memory]
    if report is not None:
        words += ["--report", str(report)]
    return [*words, "--"]
