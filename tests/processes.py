"""Finding and ending what a test started, however deep: every process carries a mark in its environment.

The mark is inherited over fork and exec and cannot collide with anything else on the machine, so "nothing is
left" can be asked of /proc, and cleaning up never touches a process that is not ours.
"""

import os
import signal
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from megalith.processes import children

MARK = "MEGALITH_TEST_MARK"


def new_mark() -> str:
    """A value for `MARK` that no other process has."""
    return uuid.uuid4().hex


def environment(mark: str, **more: str) -> dict[str, str]:
    """This process's environment with the mark, and `more`."""
    return {**os.environ, MARK: mark, **more}


def marked(mark: str) -> list[int]:
    """Process ids that carry the mark; zombies, which have no memory left, are not among them."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted in _environment_of(entry).split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def _environment_of(process: Path) -> bytes:
    """Reads the environment; it is empty for a moment in the middle of an exec, which is waited out."""
    for _ in range(20):
        if found := process.joinpath("environ").read_bytes():
            return found
        process.joinpath("exe").readlink()  # a zombie or a kernel thread has none: OSError
        time.sleep(0.005)
    return b""


def bodies(directories: Iterable[Path]) -> list[int]:
    """Body processes that agents with these directories have started; their environment is not the program's."""
    places = set(directories)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = entry.joinpath("environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        sockets = [os.fsdecode(v.partition(b"=")[2]) for v in variables if v.startswith(b"MEGALITH_CLIENT_SOCKET=")]
        is_body = any(v.startswith(b"MEGALITH_BODY=") for v in variables)
        if is_body and any(Path(socket).parent in places for socket in sockets):
            found.append(int(entry.name))
    return found


def names(pids: list[int]) -> list[str]:
    """`pid command line` of each process that still runs, for a message."""
    shown = []
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        shown.append(f"{pid} {command.strip()}")
    return shown


def left_after(mark: str, seconds: float) -> list[str]:
    """Waits up to `seconds` for every marked process to end; what still runs then, for a message."""
    end = time.monotonic() + seconds
    while (pids := marked(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    return names(pids)


def end_all(mark: str, seconds: float = 10) -> None:
    """Kills marked processes until none is left."""
    end = time.monotonic() + seconds
    while pids := marked(mark):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > end:
            raise TimeoutError(f"cannot be killed: {names(pids)}")
        time.sleep(0.02)


def agents() -> set[int]:
    """Agents that this process has started. (It may have others' workers, too: loky keeps its own.)"""
    return {pid for pid in children(os.getpid()) if any("-m megalith agent" in name for name in names([pid]))}
