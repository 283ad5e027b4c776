"""What dies under a machine, and what goes on: the behaviour of the standard library, and errors that name the host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import megalith
import processes
from hosts import Hosts, HostsFactory

numpy = pytest.importorskip("numpy")

WAIT_S = 60.0


def where() -> str:
    return Path(os.environ["MEGALITH_CLIENT_SOCKET"]).parent.name


def note_and_pause(place: Any, number: int) -> None:
    place[number] = os.getpid()
    signal.pause()


def await_that(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end, "it does not come to be"
        time.sleep(0.02)


def refusal(machine: megalith.Machine) -> str:
    """What the machine's next call says, once it knows that the machine has ended."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            machine.zeros(1)
        except megalith.AgentError as error:
            return str(error)
        time.sleep(0.02)
    raise AssertionError("the machine goes on")


def test_a_worker_that_is_killed_breaks_its_executor_alone(hosts: HostsFactory) -> None:
    made = hosts(2, memory="32M", namespaces=False)
    with megalith.connect(made.file) as machine:
        pids = machine.zeros(2, "i8")
        with machine.executor(1) as other, machine.executor(2) as executor:
            waits = other.submit(time.sleep, 1)
            futures = [executor.submit(note_and_pause, pids, number) for number in range(2)]
            await_that(lambda: bool(numpy.all(pids)))
            os.kill(int(pids[1]), signal.SIGKILL)
            for future in futures:
                with pytest.raises(BrokenProcessPool, match=r"the worker on host [ab] .* while it ran note_and_pause"):
                    future.result(timeout=WAIT_S)
            with pytest.raises(BrokenProcessPool):
                executor.submit(where)
            assert waits.result(timeout=WAIT_S) is None
            assert other.submit(where).result(timeout=WAIT_S) == "a"
        with machine.executor(2) as fresh:
            assert fresh.submit(where).result(timeout=WAIT_S) == "a"


def test_a_host_that_is_killed_ends_the_machine_and_is_named(hosts: HostsFactory) -> None:
    made = hosts(3, memory="32M", need_namespaces=True)
    with megalith.connect(made.file) as machine:
        executor = machine.executor(3)
        futures: list[Future[Any]] = [executor.submit(signal.pause) for _ in range(3)]
        await_that(lambda: all(future.running() for future in futures))
        made.kill("c")
        for future in futures:
            with pytest.raises(BrokenProcessPool):
                future.result(timeout=WAIT_S)
        assert "the machine has ended: host c was lost" in refusal(machine)
        assert "host c was lost" in repr(machine)
        with pytest.raises(megalith.AgentError, match="host c was lost"):
            machine.run(["true"])
    assert only_agents(made, "a", "b"), "workers end with the machine"
    rest = made.base / "rest.toml"
    entries = made.file.read_text().split("[[host]]")
    rest.write_text("[[host]]".join(entries[:3]))
    with megalith.connect(rest) as machine:
        assert machine.hosts == ("a", "b")
        assert machine.full(10, 7).sum() == 70, "the others go on"


def test_the_home_host_is_killed(hosts: HostsFactory) -> None:
    made = hosts(2, memory="32M", namespaces=False)
    with megalith.connect(made.file) as machine:
        future = machine.executor(2).submit(signal.pause)
        await_that(future.running)
        made.kill("a")
        with pytest.raises(BrokenProcessPool):
            future.result(timeout=WAIT_S)
        assert "host a was lost: its agent has ended" in refusal(machine)
    assert only_agents(made, "b")


def test_a_host_that_is_stopped_is_lost(hosts: HostsFactory) -> None:
    made = hosts(2, memory="32M", namespaces=False)
    with megalith.connect(made.file) as machine:
        made.kill("a", signal.SIGSTOP)
        assert "host a was lost: its agent has given no sign of life" in refusal(machine)
    made.kill("a", signal.SIGCONT)
    assert only_agents(made, "a", "b")


def only_agents(hosts: Hosts, *names: str) -> bool:
    """Whether all that runs of these hosts comes to be the agents of these."""
    agents = sorted(host.agent.pid for host in hosts.all if host.name in names and host.agent)
    await_that(lambda: sorted(processes.marked(hosts.mark)) == agents)
    return True


def test_who_touches_what_is_lost_is_told_and_who_does_not_lives_on(hosts: HostsFactory) -> None:
    made = hosts(2, memory="32M", namespaces=False)
    code = textwrap.dedent(f"""
        import sys, megalith
        with megalith.connect({str(made.file)!r}) as machine:
            array = machine.full(4 << 20, 7, "u1")
            print("there", flush=True)
            input()
            if sys.argv[1] == "touch":
                array.sum()
        print("alive")
    """)

    def start(what: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        words = [sys.executable, "-c", code, what]
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    with start("touch") as touches, start("leave") as leaves:
        for each in (touches, leaves):
            assert each.stdout is not None
            assert each.stdout.readline() == "there\n"
        made.kill("b")
        time.sleep(1)  # Whoever is too quick would find pages that are still here.
        out, err = touches.communicate("\n", timeout=WAIT_S)
        assert (touches.returncode, out) == (-signal.SIGBUS, "")
        assert "has touched the memory of a machine that has ended" in err
        assert leaves.communicate("\n", timeout=WAIT_S) == ("alive\n", "")
        assert leaves.returncode == 0
    assert only_agents(made, "a")


def test_local_hosts_say_how_they_died() -> None:
    machine = megalith.machine(hosts=2, memory_per_host="32M")
    try:
        victim = next(pid for pid in megalith_agents() if "host2" in processes.names([pid])[0].split())
        os.kill(victim, signal.SIGKILL)
        assert "host host2 was lost" in refusal(machine)
        assert "its agent was killed by signal 9" in refusal(machine)
    finally:
        machine.close()
    assert megalith_agents() == []


def megalith_agents() -> list[int]:
    return sorted(processes.agents())


def inner(number: int) -> int:
    return 1 // number


def test_what_a_task_raises_has_the_traceback_of_its_worker(hosts: HostsFactory) -> None:
    made = hosts(2, memory="32M", namespaces=False)
    with megalith.connect(made.file) as machine, machine.executor(2) as executor:
        with pytest.raises(ZeroDivisionError) as failed:
            executor.submit(inner, 0).result(timeout=WAIT_S)
        assert "in inner\n    return 1 // number" in str(failed.value.__cause__)
        results = executor.map(inner, [1, 0, 1])
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert executor.submit(inner, 1).result(timeout=WAIT_S) == 1, "the executor goes on"
