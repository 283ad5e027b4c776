"""Running a program as it is, and what it took."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megalith.exceptions import MegalithError
from megalith.processes import has_ended, kill_family
from megalith.sizes import ByteCount


@dataclass(frozen=True, slots=True)
class Measured:
    """One native run."""

    wall_s: float
    peak: ByteCount
    """The most memory it had at any time (ru_maxrss). Never less than what this process itself has, because
    the kernel counts from before the exec."""
    returncode: int | None
    """``None`` if it was stopped at its time limit."""


def measure(argv: Sequence[str], *, log: Path, environment: dict[str, str], limit_s: float | None = None) -> Measured:
    """Runs ``argv`` with its output in ``log``, and ends it after ``limit_s``."""
    started_s = time.monotonic()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        pid = os.posix_spawnp(
            argv[0],
            tuple(argv),
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)],
        )
    finally:
        os.close(output)
    pidfd = os.pidfd_open(pid)
    ended = False
    try:
        ended = has_ended(pidfd, 1e6 if limit_s is None else limit_s)
    finally:
        os.close(pidfd)
        if not ended:
            kill_family({pid})
        _, status, usage = os.wait4(pid, 0)
    wall_s = time.monotonic() - started_s
    peak = ByteCount(usage.ru_maxrss * 1024)
    return Measured(wall_s, peak, os.waitstatus_to_exitcode(status) if ended else None)


def require(measured: Measured, argv: Sequence[str], log: Path) -> Measured:
    """``measured``, if the program did its work."""
    if measured.returncode != 0:
        raise MegalithError(f"{argv[0]} ended with {measured.returncode}; its output is in {log}")
    return measured
