"""The hosts that tests use leave nothing behind, whatever happens to the test.

These tests start no agents, so they hold without megalith being built.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

import processes
from hosts import Hosts, cgroup, network, why_no_limits, why_no_namespaces

TESTS = Path(__file__).parents[1]
LIMIT = 64 << 20

# Makes hosts with a process on each, says what they are called, and ends as told.
CHILD = """
import os, pathlib, signal, subprocess, sys, time
from hosts import Hosts, why_no_limits
hosts = Hosts(2, memory="16M", limit_bytes=None if why_no_limits() else 64 << 20)
for host in hosts.all:
    made = hosts.spawn(host, ["sleep", "600"], stdin=0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while pathlib.Path(f"/proc/{made.pid}/comm").read_text() != "sleep\\n":
        time.sleep(0.01)
print(hosts.mark, hosts.base, hosts.network.stem if hosts.network else "-", flush=True)
if sys.argv[1] == "raise":
    raise SystemExit("the body failed")
os.kill(os.getpid(), signal.SIGKILL)
"""


def sleeper(hosts: Hosts, name: str) -> "subprocess.Popen[bytes]":
    return hosts.spawn(
        hosts[name], ["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def assert_nothing_left(mark: str, base: Path, stem: str | None) -> None:
    assert processes.left_after(mark, 2) == []
    assert not base.exists()
    if stem:
        assert [name for name in network.namespaces() if name.startswith(stem)] == []
        assert cgroup.groups(stem) == []


class BodyFailed(Exception):
    """Nobody else raises this."""


def fail_with(hosts: Hosts, pids: int) -> NoReturn:
    assert len(processes.marked(hosts.mark)) == pids
    raise BodyFailed


def test_failing_body_leaves_nothing() -> None:
    hosts = Hosts(3, memory="16M")
    sleeper(hosts, "b").send_signal(signal.SIGSTOP)
    with pytest.raises(BodyFailed), hosts:
        fail_with(hosts, 1)
    assert_nothing_left(hosts.mark, hosts.base, hosts.network.stem if hosts.network else None)


@pytest.mark.skipif(why_no_limits() is not None, reason=str(why_no_limits()))
def test_failing_body_leaves_no_limits() -> None:
    hosts = Hosts(2, memory="16M", limit_bytes=LIMIT)
    assert hosts.network is not None
    assert len(cgroup.groups(hosts.network.stem)) == 2
    sleeper(hosts, "a")
    with pytest.raises(BodyFailed), hosts:
        fail_with(hosts, 1)
    assert_nothing_left(hosts.mark, hosts.base, hosts.network.stem)


def test_interpreter_exit_leaves_nothing() -> None:
    mark, base, stem = _child("raise")
    assert_nothing_left(mark, base, stem)


@pytest.mark.skipif(why_no_namespaces() is not None, reason=str(why_no_namespaces()))
def test_what_a_killed_interpreter_left_is_swept_by_the_next() -> None:
    """Its processes die with it (PR_SET_PDEATHSIG); namespaces and groups wait for the next run."""
    mark, base, stem = _child("kill")
    left = processes.left_after(mark, 5)
    processes.end_all(mark)
    network.sweep()
    cgroup.sweep(network.PREFIX)
    shutil.rmtree(base)
    assert left == []
    assert stem is not None
    assert [name for name in network.namespaces() if name.startswith(stem)] == []
    assert cgroup.groups(stem) == []


def _child(how: str) -> tuple[str, Path, str | None]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, how],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert done.stdout, done.stderr
    mark, base, stem = done.stdout.split()
    return mark, Path(base), None if stem == "-" else stem


@pytest.mark.skipif(why_no_namespaces() is not None, reason=str(why_no_namespaces()))
def test_hosts_reach_each_other_until_the_cable_is_cut() -> None:
    with Hosts(2, memory="16M") as hosts:
        assert hosts.network is not None
        ping = [*hosts["a"].enter, sys.executable, "-c", _CONNECT, hosts["b"].address.partition(":")[0]]
        assert subprocess.run(ping, check=False, timeout=20).returncode == 0
        hosts.cut("b")
        assert subprocess.run(ping, check=False, timeout=20).returncode != 0
        hosts.network.mend("b")
        assert subprocess.run(ping, check=False, timeout=20).returncode == 0


# Nobody listens: an answer is "connection refused", a cut cable gives none.
_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=2)
except ConnectionRefusedError:
    sys.exit(0)
except OSError:
    sys.exit(1)
"""


@pytest.mark.skipif(why_no_namespaces() is not None, reason=str(why_no_namespaces()))
def test_the_machines_own_network_is_untouched() -> None:
    before = (network.ip("link"), network.ip("route"), network.ip("address"))
    with Hosts(3, memory="16M"):
        assert (network.ip("link"), network.ip("route"), network.ip("address")) == before


@pytest.mark.skipif(why_no_limits() is not None, reason=str(why_no_limits()))
def test_limit_kills_what_exceeds_it_and_says_so() -> None:
    with Hosts(1, memory="16M", limit_bytes=LIMIT) as hosts:
        group = hosts.home.group
        assert group is not None
        greedy = hosts.spawn(
            hosts.home,
            [sys.executable, "-c", f"b = bytearray({2 * LIMIT})"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert greedy.wait(timeout=20) == -signal.SIGKILL
        assert group.oom_kills() == 1
        assert group.failures() > 0
        assert LIMIT * 0.9 < group.max_usage_bytes() <= LIMIT


def test_loopback_hosts_have_ports_of_their_own() -> None:
    with Hosts(3, memory="16M", namespaces=False) as hosts:
        assert len({host.address for host in hosts.all}) == 3
        assert hosts.network is None
        assert hosts.file.read_text().count("[[host]]") == 3
        assert sleeper(hosts, "c").poll() is None
        mark, base = hosts.mark, hosts.base
    assert_nothing_left(mark, base, None)
