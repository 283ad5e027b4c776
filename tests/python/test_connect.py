"""A machine of running agents, from an ordinary interpreter."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import megalith
import processes
from hosts import Hosts, HostsFactory
from megalith.exceptions import AgentError, HostsFileError, JoinError
from megalith.hostsfile import read_hosts

numpy = pytest.importorskip("numpy")

MIB = 1 << 20


def where(_: int = 0) -> str:
    return Path(os.environ["MEGALITH_CLIENT_SOCKET"]).parent.name


def fill(part: Any, seed: int) -> None:
    part[:] = numpy.random.default_rng(seed).integers(0, 1 << 60, len(part))


def agents_alone(hosts: Hosts, seconds: float = 10) -> bool:
    """Whether all that runs of these hosts comes to be an agent each."""
    agents = sorted(host.agent.pid for host in hosts.all if host.agent)
    end = time.monotonic() + seconds
    while sorted(processes.marked(hosts.mark)) != agents and time.monotonic() < end:
        time.sleep(0.05)
    return sorted(processes.marked(hosts.mark)) == agents


def test_hosts_with_keys_and_networks_of_their_own(hosts: HostsFactory) -> None:
    made = hosts(3, memory="32M", need_namespaces=True)
    with megalith.connect(made.file) as machine:
        assert machine.hosts == ("a", "b", "c")
        assert machine.budget == 96 * MIB
        own = len(os.sched_getaffinity(0))
        assert machine.cpus == {"a": own, "b": own, "c": own}, "each has CPUs of its own"
        assert machine.addresses["b"] == made["b"].address.partition(":")[0]
        array = machine.empty(48 * MIB // 8, "i8")
        with machine.executor() as executor:
            assert set(executor.map(where, range(60))) == {"a", "b", "c"}
            list(executor.map(fill, numpy.split(array, 6), range(6)))
        expected = numpy.concatenate([numpy.random.default_rng(seed).integers(0, 1 << 60, MIB) for seed in range(6)])
        assert numpy.array_equal(array, expected)
        done = machine.run(["sort", "-n"], input="30\n4\n", capture_output=True, text=True, check=True)
        assert done.stdout == "4\n30\n"
        del array
    assert agents_alone(made), "they live on, and workers do not"
    with megalith.connect(str(made.file), home="a") as again:
        assert again.zeros(10).sum() == 0
    assert agents_alone(made)


def test_hosts_of_one_computer_share_its_cpus(hosts: HostsFactory) -> None:
    made = hosts(2, memory="16M", namespaces=False)
    with megalith.connect(read_hosts(made.file), home="b") as machine:
        assert machine.hosts == ("b", "a")
        assert sum(machine.cpus.values()) == max(2, len(os.sched_getaffinity(0)))
        assert machine.full(10, 7).sum() == 70


def test_agents_serve_several_interpreters(hosts: HostsFactory) -> None:
    made = hosts(2, memory="64M", namespaces=False)
    code = f"""
import megalith
with megalith.connect({str(made.file)!r}) as machine:
    array = machine.full(1 << 20, 7)
    print("ready", flush=True)
    input()
    print(int(array.sum()))
"""
    with (
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other,
        megalith.connect(made.file) as machine,
    ):
        assert other.stdout is not None
        array = machine.full(1 << 20, 5)
        assert other.stdout.readline() == "ready\n"
        assert array.sum() == 5 << 20
        said, _ = other.communicate("\n", timeout=60)
        assert said == f"{7 << 20}\n"
        assert array.sum() == 5 << 20
        del array


@pytest.mark.parametrize("times", [0, 1, 3])
def test_agents_are_free_again_however_an_interpreter_ends(hosts: HostsFactory, times: int) -> None:
    made = hosts(2, memory="32M", namespaces=False)
    code = f"""
import time, megalith
machine = megalith.connect({str(made.file)!r})
array = machine.full(1000, 7)
futures = [machine.executor(2).submit(time.sleep, 0 if {times} == 0 else 600) for _ in range(4)]
print("there", flush=True)
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
        for _ in range(times):
            time.sleep(0.2)
            other.send_signal(signal.SIGINT)
        other.communicate(timeout=60)
    assert agents_alone(made)
    assert list(made.scratch.iterdir()) == []


def test_interrupts_while_hosts_join(hosts: HostsFactory) -> None:
    made = hosts(2, memory="32M", namespaces=False)
    made.kill("b", signal.SIGSTOP)
    code = f"""
import megalith
megalith.connect
print("joining", flush=True)
try:
    megalith.connect({str(made.file)!r})
except BaseException as error:
    print(repr(error))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "joining\n"
        time.sleep(1)
        other.send_signal(signal.SIGINT)
        assert other.communicate(timeout=60)[0] == "KeyboardInterrupt()\n", "not that b did not answer"
    made.kill("b", signal.SIGCONT)
    assert agents_alone(made)
    with megalith.connect(made.file) as machine:
        assert machine.zeros(3).sum() == 0


def test_what_cannot_be_connected_to(hosts: HostsFactory, tmp_path: Path) -> None:
    with pytest.raises(HostsFileError, match="No such file"):
        megalith.connect(tmp_path / "none.toml")
    made = hosts(2, memory="16M", namespaces=False)
    with pytest.raises(HostsFileError, match="no such host; the file has a, b"):
        megalith.connect(made.file, home="c")
    made.stop(made["b"])
    with pytest.raises(JoinError, match="host b cannot be reached"):
        megalith.connect(made.file)
    with pytest.raises(AgentError, match=r"agent of home host b does not run on this computer .*; start it here with"):
        megalith.connect(made.file, home="b")
    made.launch(made["b"])
    made.await_ready(made["b"])
    gc.collect()
    with megalith.connect(made.file) as machine:
        assert machine.zeros(3).sum() == 0, "failures have left nothing in the way"
