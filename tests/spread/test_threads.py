"""Threads, locks, signals, faults and memory, case by case: the same output and exit code as natively.

The cases are in `threads/`; each checks what it does, and prints little.
"""

import re
import signal
import subprocess
from pathlib import Path

import pytest

from spread.machine import AWAY, NATIVE, THREE, TWO, WANDERING, Machine, by_signal, run

SOURCES = sorted(Path(__file__).with_name("threads").glob("*.c"))
CASES = [name for source in SOURCES for name in re.findall(r'\{"([a-z0-9-]+)", \w+\}', source.read_text())]

EXITS = {
    "exit-worker": 7,
    "exit-group-worker": 7,
    "die-abort": by_signal(signal.SIGABRT),
    "die-division": by_signal(signal.SIGFPE),
    "die-segv": by_signal(signal.SIGSEGV),
    "die-ill": by_signal(signal.SIGILL),
    "die-term": by_signal(signal.SIGTERM),
}
OUTPUT = {
    "exit-worker": "exiting\n",
    "exit-group-worker": "exiting\n",
    "die-abort": "aborting\n",
    "die-division": "dividing\n",
    "die-segv": "touching\n",
    "die-ill": "trapping\n",
    "die-term": "killing\n",
    "main-leaves": "main leaves\nlast thread\n",
}
SETTLE_MS = {"wandering": "50"}

each_case = pytest.mark.parametrize("case", CASES)


def on(*machines: Machine) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("machine", machines, ids=lambda machine: machine.name, indirect=True)


def check(machine: Machine, mark: str, directory: Path, threads: str, case: str, seconds_max: float) -> None:
    settle = SETTLE_MS.get(machine.name, "0")
    ended = run(machine, [threads, case, settle], directory=directory, mark=mark, timeout=seconds_max)
    assert ended.returncode == EXITS.get(case, 0), (ended.stdout, ended.said)
    assert ended.stdout.decode() == OUTPUT.get(case, f"{case}: ok\n"), ended.said
    if not machine.native:
        assert ended.away_faults > 0, "no thread was away: it proves nothing"


@each_case
@on(NATIVE, THREE)
def test_case(machine: Machine, mark: str, directory: Path, threads: str, case: str) -> None:
    check(machine, mark, directory, threads, case, seconds_max=60)


@pytest.mark.slow
@each_case
@on(TWO, AWAY, WANDERING)
def test_case_elsewhere(machine: Machine, mark: str, directory: Path, threads: str, case: str) -> None:
    check(machine, mark, directory, threads, case, seconds_max=180)


def test_all_cases_are_run(threads: str) -> None:
    listed = subprocess.run([threads, "--list"], capture_output=True, text=True, check=True, timeout=10).stdout
    assert sorted(listed.split()) == sorted(CASES)
