"""The machines that a program is run on: this computer as it is, and hosts over which its threads spread."""

import json
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, final

import cli
import processes


@final
@dataclass(frozen=True)
class Machine:
    """`hosts` on this computer (0: none, the program runs natively), and where its threads go."""

    name: str
    hosts: int = 0
    options: tuple[str, ...] = ()

    @property
    def native(self) -> bool:
        return self.hosts == 0

    def words(self, memory: str, report: Path) -> list[str]:
        """What stands before the program on its command line; `memory` is the budget of each host."""
        if self.native:
            return []
        words = cli.local(self.hosts, memory, report=report)
        return cli.command(*words[:-1], *self.options, "--")


NATIVE = Machine("native")
TWO = Machine("two", 2, ("--threads-on", "host1,host2"))
THREE = Machine("three", 3, ("--spread",))
AWAY = Machine("away", 2, ("--threads-on", "host2"))
"""All threads but the first are on the other host: they share its CPUs as natively, and call home."""

WANDERING = Machine("wandering", 3, ("--spread", "--policy", "megalith.scheduler:Random"))
"""Threads are moved to a random host every few milliseconds."""


@dataclass(frozen=True)
class Ended:
    """How a program ended; one that died of a signal has 128 and its number, as in a shell."""

    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float
    away_faults: int
    """Page faults on hosts that are not home: without threads there, none."""

    @property
    def said(self) -> str:
        """The end of what stands on stderr, for a message."""
        return self.stderr.decode(errors="replace")[-3000:]


def run(
    machine: Machine,
    argv: Sequence[str],
    *,
    directory: Path,
    mark: str,
    memory: str = "256M",
    env: Mapping[str, str] | None = None,
    stdin: Path | None = None,
    timeout: float = 120,
    before: Sequence[str] = (),
) -> Ended:
    """Runs a program to its end in `directory`. One that does not end in time is killed: TimeoutError."""
    report = directory.with_name(directory.name + ".report.json")
    report.unlink(missing_ok=True)
    process = start(
        machine, argv, directory=directory, mark=mark, memory=memory, env=env, stdin=stdin, report=report, before=before
    )
    begin = time.monotonic()
    outcome = cli.finish(process, begin=begin, timeout=timeout)
    code = outcome.returncode if outcome.returncode >= 0 else 128 - outcome.returncode
    return Ended(code, outcome.stdout, outcome.stderr, outcome.seconds, _away_faults(report))


def start(
    machine: Machine,
    argv: Sequence[str],
    *,
    directory: Path,
    mark: str,
    memory: str,
    report: Path,
    env: Mapping[str, str] | None = None,
    stdin: Path | None = None,
    before: Sequence[str] = (),
) -> "subprocess.Popen[bytes]":
    """Starts a program whose output goes to pipes. `before` are words before everything, such as `unshare`'s."""
    source: IO[bytes] | int = stdin.open("rb") if stdin else subprocess.DEVNULL
    try:
        return subprocess.Popen(
            [*before, *machine.words(memory, report), *argv],
            cwd=directory,
            env=processes.environment(mark, **{"LC_ALL": "C", **(env or {})}),
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    finally:
        if not isinstance(source, int):
            source.close()


def by_signal(number: signal.Signals) -> int:
    """The exit code of what died of a signal."""
    return 128 + number


def _away_faults(report: Path) -> int:
    if not report.exists():
        return 0
    hosts = json.loads(report.read_text(encoding="utf-8"))["hosts"]
    return sum(sum(host["faults"].values()) for host in hosts[1:])
