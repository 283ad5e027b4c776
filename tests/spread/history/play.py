"""Makes histories: runs `history.c` on a machine whose hosts have little memory, and are slow now and then."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import processes
from spread.conftest import HERE, build
from spread.history.checker import Operation, read_log
from spread.machine import Machine, run

PAGES = 3
WORDS = 4
"""Of each page."""


@dataclass(frozen=True)
class Recorded:
    """A history, and on which other hosts' account."""

    operations: list[Operation]
    away_faults: int
    pauses: int
    seconds: float


def build_history(directory: Path) -> str:
    """Builds `history.c`."""
    return build([HERE / "history" / "history.c"], directory / "history", "-O2")


def record(
    machine: Machine,
    binary: str,
    *,
    directory: Path,
    mark: str,
    seed: int,
    threads: int,
    operations: int,
    ballast_mib: int,
    memory: str,
    timeout: float = 300,
) -> Recorded:
    """Runs `threads` threads with `operations` operations each; hosts, if any, are paused at random meanwhile."""
    words = [threads, operations, PAGES, WORDS, ballast_mib, seed]
    with _slow_hosts(machine, mark, directory, Random(seed)) as pauses:
        ended = run(
            machine,
            [binary, *map(str, words)],
            directory=directory,
            mark=mark,
            memory=memory,
            env={"TMPDIR": str(directory)},
            timeout=timeout,
        )
    if ended.returncode != 0:
        raise RuntimeError(f"history ended with {ended.returncode}: {ended.said}")
    log = read_log(ended.stdout)
    if len(log) != threads * operations:
        raise RuntimeError(f"{len(log)} operations were logged, not {threads * operations}")
    return Recorded(log, ended.away_faults, len(pauses), ended.seconds)


@contextmanager
def _slow_hosts(machine: Machine, mark: str, directory: Path, random: Random) -> Iterator[list[float]]:
    """Meanwhile agents and body processes stand still for some milliseconds at a time; yields for how long each."""
    pauses: list[float] = []
    if machine.native:
        yield pauses
        return
    ended = threading.Event()

    def pause() -> None:
        while not ended.wait(random.uniform(0.02, 0.2)):
            homes = [path for path in directory.glob("megalith-*/host*") if path.is_dir()]
            agents = [pid for pid in processes.marked(mark) if _is_agent(pid)]
            if victims := [*agents, *processes.bodies(homes)]:
                pauses.append(_pause(random.choice(victims), random.uniform(0.001, 0.06)))

    thread = threading.Thread(target=pause, name="slow-hosts")
    thread.start()
    try:
        yield pauses
    finally:
        ended.set()
        thread.join()


def _is_agent(pid: int) -> bool:
    try:
        return b"agent" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _pause(pid: int, seconds: float) -> float:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return 0.0
    try:
        signal.pidfd_send_signal(handle, signal.SIGSTOP)
        time.sleep(seconds)
    except ProcessLookupError:
        return 0.0
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGCONT)
        os.close(handle)
    return seconds
