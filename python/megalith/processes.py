"""Processes, as the kernel shows them in /proc: who descends from whom, and how to end them all.

A process that loses its parent is given to the nearest ancestor that is a *subreaper* (prctl(2)). The
command line is one while it runs a program, so what the program leaves behind can be found and ended.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37
_PF_EXITING: Final = 0x4
"""Of a process's flags in its ``stat`` (linux/sched.h)."""


def _prctl(option: int, argument: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def is_subreaper() -> bool:
    """Whether orphaned descendants of this process become its children."""
    answer = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return answer.value != 0


def set_subreaper(on: bool) -> None:
    """Makes this process the one that adopts its orphaned descendants, or no longer."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(int(on)))


def die_with_parent(signum: int) -> None:
    """Has the kernel send ``signum`` to this process when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signum))


def _parents() -> dict[int, int]:
    """Parent of every process that still runs (zombies do not)."""
    found: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text(errors="replace")
        except OSError:
            continue  # It ended meanwhile.
        # pid (comm) state ppid …: the name may hold spaces and brackets, so count from its last bracket.
        state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
        if state not in "ZX":
            found[int(entry)] = int(parent)
    return found


def children(pid: int) -> set[int]:
    """Running children of ``pid``."""
    return {child for child, parent in _parents().items() if parent == pid}


def family(roots: Iterable[int]) -> set[int]:
    """The running processes among ``roots`` and all that descend from them."""
    parents = _parents()
    found = {pid for pid in roots if pid in parents}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return found


def kill_family(roots: Iterable[int]) -> set[int]:
    """Ends ``roots`` and all that descend from them, at once; returns whom.

    They are stopped first, until no new one appears, so that none can fork its way out.
    """
    roots = set(roots)
    stopped: set[int] = set()
    while new := family(roots | stopped) - stopped:
        for pid in new:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return stopped


def reap(pids: Iterable[int], timeout_s: float) -> None:
    """Collects those of ``pids`` that are our children as they end, for at most ``timeout_s``."""
    left = set(pids)
    deadline = time.monotonic() + timeout_s
    while True:
        for pid in list(left):
            try:
                done, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                # Not ours yet: its parent has to end first. Gone altogether: nothing to collect.
                if not Path("/proc", str(pid)).exists():
                    left.discard(pid)
            else:
                if done:
                    left.discard(pid)
        if not left or time.monotonic() >= deadline:
            return
        time.sleep(0.005)


def is_ending(pid: int) -> bool:
    """Whether a process is on its way out or gone: it closes its files before its children get another parent."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text(errors="replace")
    except OSError:
        return True
    # state ppid pgrp session tty_nr tpgid flags …, after the name's last bracket.
    return int(stat[stat.rindex(")") + 2 :].split()[6]) & _PF_EXITING != 0


def name_of(pid: int) -> str:
    """The command of a process, for people."""
    try:
        return Path("/proc", str(pid), "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def has_ended(pidfd: int, timeout_s: float) -> bool:
    """Whether the process of ``pidfd`` ends within ``timeout_s``."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0, round(timeout_s * 1000))))
