"""Unmodified programs from Python, with subprocess's manners."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import megalith

MIB = 1 << 20


@pytest.fixture(scope="module")
def machine() -> Iterator[megalith.Machine]:
    with megalith.machine(hosts=2, memory_per_host="64M") as made:
        yield made


def test_it_is_as_subprocess(machine: megalith.Machine, tmp_path: Path) -> None:
    done = machine.run(["sort", "-n"], input="30\n4\n", capture_output=True, text=True)
    assert (done.args, done.returncode, done.stdout, done.stderr) == (["sort", "-n"], 0, "4\n30\n", "")
    assert machine.run(["false"]).returncode == 1
    with open(tmp_path / "out", "wb") as out:
        machine.run(["pwd"], stdout=out, cwd=tmp_path, check=True)
    assert (tmp_path / "out").read_text() == f"{tmp_path}\n"
    done = machine.run(["/usr/bin/env"], env={"A": "1"}, capture_output=True, text=True)
    assert "A=1" in done.stdout.split()
    assert "HOME" not in done.stdout


def test_its_memory_is_that_of_all_hosts(machine: megalith.Machine) -> None:
    code = f"b = bytearray({90 * MIB}); b[::4096] = b'1' * len(b[::4096]); print(sum(b[::4096]))"
    done = machine.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 90 * MIB // 4096 * ord("1")


def test_what_subprocess_raises(machine: megalith.Machine) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        machine.run(["ls", "/nowhere"], check=True, capture_output=True, text=True)
    assert failed.value.returncode == 2
    assert "/nowhere" in failed.value.stderr
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired) as late:
        machine.run(["sleep", "77"], timeout=2)
    assert late.value.cmd == ["sleep", "77"]
    assert time.monotonic() - began < 15
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        machine.run(["no-such-program"])
    with pytest.raises(PermissionError, match="/etc/passwd"):
        machine.run(["/etc/passwd"])
    with pytest.raises(ValueError, match="no shell"):
        machine.run("ls")
    with pytest.raises(ValueError, match="expand, spread, auto"):
        machine.run(["ls"], threads="most")  # type: ignore[arg-type]


def test_a_signal_is_a_negative_status(machine: megalith.Machine) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert machine.run([sys.executable, "-c", code]).returncode == -15


def test_more_than_all_hosts_have(machine: megalith.Machine) -> None:
    code = f"""
import mmap, os
noreserve = 0x4000
memory = mmap.mmap(-1, {200 * MIB}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | noreserve)
for at in range(0, len(memory), 4096):
    memory[at : at + 4096] = os.urandom(4096)
"""
    with pytest.raises(megalith.MemoryExhausted) as exhausted:
        machine.run([sys.executable, "-c", code], capture_output=True)
    assert exhausted.value.report.ended_by == "memory exhausted"
    assert [host.name for host in exhausted.value.report.hosts] == list(machine.hosts)
    assert machine.run(["true"]).returncode == 0, "the machine and its other memory live on"


def test_a_closed_machine_runs_nothing() -> None:
    code = """
import megalith
with megalith.machine(memory_per_host="16M") as machine: pass
try: machine.run(["true"])
except megalith.AgentError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "the machine is closed\n"
