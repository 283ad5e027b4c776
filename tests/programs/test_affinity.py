"""A program of one thread is kept on the CPU where its faults are answered, and does not see it."""

from pathlib import Path

import pytest

from programs.compare import Stage

PYTHON = Path("/usr/bin/python3")

PROGRAM = """
import os, subprocess

def cpus():
    child = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    return sorted(os.sched_getaffinity(0)), child

table = bytearray(80 << 20)

def touch():
    for at in range(0, len(table), 4096):
        table[at] = (table[at] + 1) & 255

print(cpus())
for _ in range(3):
    touch()
    print(cpus())
last = max(os.sched_getaffinity(0))
os.sched_setaffinity(0, {last})
for _ in range(2):
    touch()
    print(cpus())
print(sum(table[::4096]))
"""


def test_the_program_keeps_its_own_cpus(stage: Stage) -> None:
    if not PYTHON.exists():
        pytest.skip("python3 is missing: apt-get install python3")
    stage.run([str(PYTHON), "-c", PROGRAM], hands_over=False).assert_same_stdout()
