"""What one run wrote, no other reads: fresh memory is zeros, whoever had its pages before.

The first run fills more than a host has, so its pages are evicted, stowed packed and raw, handed over to other hosts,
and in spread mode mapped there; it ends by itself or is killed, its agents go on, and the next run reads all the fresh
memory it can get.
"""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

import cli
from hosts import Hosts, HostsFactory
from programs.native import need

MEMORY = "28M"
HOSTS = 3
FILLED_MIB = 48
LOOKED_MIB = 64
"""At a time, in one of seven ways; the machine has 84."""
FRESH_PAGES_MIN = 6 * LOOKED_MIB * 256


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program of `secrets.c`, built."""
    binary = tmp_path_factory.mktemp("secrets") / "secrets"
    source = Path(__file__).with_name("secrets.c")
    options = ["-std=gnu17", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([need("gcc", "gcc"), *options, str(source), "-o", str(binary)], check=True, timeout=60)
    return str(binary)


def look(made: Hosts, secrets: str, mode: str, mib: int) -> int:
    """Reads all fresh memory; how many pages that were."""
    outcome = made.run([secrets, "look", str(mib), "5"], options=["--quiet", mode], timeout=200)
    assert outcome.returncode == 0, outcome
    word, pages = outcome.stdout.split()
    assert word == b"zeros"
    return int(pages)


def start(made: Hosts, secrets: str, what: str, mode: str, mib: int) -> "subprocess.Popen[bytes]":
    report = made.base / "report.json"
    run = made.start_run(
        [secrets, what, str(mib), "5"], options=["--quiet", mode, "--report", str(report)], stdin=subprocess.PIPE
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"filled\n", run.stderr and run.stderr.read()
    return run


def assert_it_was_everywhere(made: Hosts, mode: str) -> None:
    report = json.loads(made.base.joinpath("report.json").read_text())
    for host in report["hosts"]:
        assert host["peak"] > 1 << 20, f"host {host['name']} had nothing of it"
    assert sum(host["handed_over_pages"] for host in report["hosts"]) > 0
    if mode == "--spread":
        assert all(sum(host["faults"].values()) > 0 for host in report["hosts"])


@pytest.mark.parametrize("ends", ["exits", "is killed"])
@pytest.mark.parametrize("mode", ["--expand", "--spread"])
def test_the_next_run_finds_zeros(hosts: HostsFactory, secrets: str, mode: str, ends: str) -> None:
    made = hosts(HOSTS, memory=MEMORY)
    begin = time.monotonic()
    run = start(made, secrets, "fill" if ends == "exits" else "hold", mode, FILLED_MIB)
    if ends == "is killed":
        run.send_signal(signal.SIGTERM)
    outcome = cli.finish(run, begin=begin, timeout=60)
    assert outcome.returncode == (0 if ends == "exits" else 128 + signal.SIGTERM), outcome
    assert_it_was_everywhere(made, mode)
    assert look(made, secrets, mode, LOOKED_MIB) >= FRESH_PAGES_MIN


def test_a_machine_beside_finds_zeros(hosts: HostsFactory, secrets: str) -> None:
    """Two machines on the same agents at the same time; and what the first holds stays what it is."""
    made = hosts(HOSTS, memory="64M")
    begin = time.monotonic()
    run = start(made, secrets, "hold", "--spread", FILLED_MIB)
    for mode in ("--expand", "--spread"):
        assert look(made, secrets, mode, 40) >= 6 * 40 * 256
    assert run.stdin is not None
    run.stdin.close()
    run.stdin = None
    outcome = cli.finish(run, begin=begin, timeout=60)
    assert outcome.returncode == 0, outcome
    assert outcome.stdout == b"kept\n"
