"""Measuring on virtual machines: CPUs kept awake, steal time shown, what is compared interleaved.

An idle virtual CPU halts and the hypervisor takes it away, so every wake-up would cost milliseconds at the tail.
Spinners of the lowest priority (SCHED_IDLE) prevent that and give way to any other thread. That priority counts only
among the threads of a session, and sessions share CPUs equally (sched(7), "autogroup"): so spinners have sessions of
their own, and these the lowest priority too. Without that, each takes half of its CPU.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

_SPIN = ["setpriv", "--pdeathsig", "KILL", "--", "chrt", "--idle", "0", "sh", "-c", "while :; do :; done"]
_NICE_MAX = 19


@contextmanager
def awake_cpus() -> Iterator[None]:
    """Keeps all CPUs from halting."""
    spinners = [subprocess.Popen(_SPIN, start_new_session=True) for _ in range(os.cpu_count() or 1)]
    try:
        for spinner in spinners:
            _humble(Path("/proc", str(spinner.pid), "autogroup"))
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


class Steal:
    """The share of CPU time that the hypervisor gave to others since this was made."""

    def __init__(self) -> None:
        self._ticks, self._begin = _steal_ticks(), time.monotonic()

    def percent(self) -> float:
        """Of the time of all CPUs, until now."""
        seconds = (_steal_ticks() - self._ticks) / os.sysconf("SC_CLK_TCK")
        return 100 * seconds / ((time.monotonic() - self._begin) * (os.cpu_count() or 1))


def interleaved(ways: Mapping[str, Callable[[], float | None]], rounds: int) -> dict[str, float | None]:
    """Does every way once a round, in turn; the median of each. `None` (it gave up) ends a way."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    gave_up: set[str] = set()
    for _ in range(rounds):
        for name, way in ways.items():
            if name in gave_up:
                continue
            seconds = way()
            if seconds is None:
                gave_up.add(name)
            else:
                taken[name].append(seconds)
    return {name: None if name in gave_up else median(values) for name, values in taken.items()}


def _humble(autogroup: Path) -> None:
    """Gives a session the lowest priority."""
    if autogroup.exists():  # else the kernel does not group by session, and SCHED_IDLE is enough
        autogroup.write_text(str(_NICE_MAX), encoding="ascii")


def _steal_ticks() -> int:
    return int(Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[8])
