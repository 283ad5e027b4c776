"""The machine is full, or is asked for more than it has."""

import re
import subprocess
from pathlib import Path

import cli
import processes
from hosts import HostsFactory

MIB = 1 << 20


def run_local(mark: str, scratch: Path, *words: str, memory: str = "16M", hosts: int = 3) -> cli.Outcome:
    environment = processes.environment(mark, TMPDIR=str(scratch))
    return cli.run(*cli.local(hosts, memory), *words, env=environment, timeout=60)


def test_full_machine_says_what_each_host_held(megalith: None, mark: str, scratch: Path, victim: str) -> None:
    """Each request fits the machine; together they do not, which the kernel's overcommit allows too."""
    outcome = run_local(mark, scratch, victim, "hoard", "160")
    assert outcome.returncode == cli.EXIT_MEMORY, outcome
    assert outcome.stdout == b""
    assert len(outcome.complaint) == 1, outcome.complaint
    line = outcome.complaint[0]
    assert "memory exhausted" in line
    for host in ("host1", "host2", "host3"):
        assert re.search(rf"{host} held \d+(\.\d+)? MiB of 16.0 MiB", line), line
    assert "--memory-per-host" in line
    assert processes.left_after(mark, 3) == []
    assert list(scratch.iterdir()) == []


def test_full_machine_of_a_hosts_file_asks_for_hosts(hosts: HostsFactory, victim: str) -> None:
    made = hosts(2, memory="16M")
    outcome = made.run([victim, "hoard", "64"], options=["--quiet"])
    assert outcome.returncode == cli.EXIT_MEMORY, outcome
    assert "add hosts" in outcome.complaint[-1]
    assert "a held" in outcome.complaint[-1]
    assert "b held" in outcome.complaint[-1]
    after = made.run([victim, "churn", "8", "0"], options=["--quiet"])
    assert after.returncode == 0, "the memory of a machine that has ended is free for the next"


def test_one_request_larger_than_the_machine_is_refused(megalith: None, mark: str, scratch: Path, victim: str) -> None:
    """malloc gives NULL and ENOMEM, as it would on a real machine of that size."""
    outcome = run_local(mark, scratch, victim, "malloc", "4096")
    assert outcome.returncode == 0, outcome
    assert outcome.stdout == b"null 1\n"


def test_one_request_that_fits_is_given(megalith: None, mark: str, scratch: Path, victim: str) -> None:
    outcome = run_local(mark, scratch, victim, "malloc", "30")
    assert outcome.stdout == b"given 0\n", outcome


def test_fills_what_the_machine_has(megalith: None, mark: str, scratch: Path, victim: str) -> None:
    """Capacity is the sum of the budgets, less a reserve of each: here 160 of 192 MiB, incompressible."""
    outcome = run_local(mark, scratch, victim, "hoard", "160", memory="64M")
    assert outcome.returncode == 0, outcome
    assert outcome.stdout == b"done\n"


def test_threads_that_share_a_nearly_full_machine(megalith: None, mark: str, scratch: Path, victim: str) -> None:
    native = native_output(victim, "threads", "60", "8")
    outcome = run_local(mark, scratch, victim, "threads", "60", "8", memory="32M")
    assert outcome.returncode == 0, outcome
    assert outcome.stdout == native


def native_output(*words: str) -> bytes:
    return subprocess.run(words, check=True, capture_output=True, timeout=60).stdout
