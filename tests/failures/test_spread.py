"""A program whose threads run on several hosts ends as one whose threads do not."""

import os
import signal
import time
from collections.abc import Callable

import pytest

import cli
import processes
from hosts import Hosts, HostsFactory

LOST_AFTER_S = 1.0
OPTIONS = ["--quiet", "--spread", "--lost-after", str(LOST_AFTER_S), "--heartbeat", "0.2"]


def bodies(made: Hosts) -> list[int]:
    """Body processes that agents of these hosts have started."""
    return processes.bodies(host.directory for host in made.all)


def until_gone(find: Callable[[], list[int]], seconds: float) -> list[int]:
    end = time.monotonic() + seconds
    while (left := find()) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def hurt(made: Hosts, victim: str, how: Callable[[], None]) -> tuple[cli.Outcome, float]:
    """Starts threads that fight over a page, on all hosts; how they end, and seconds from the harm to the end."""
    begin = time.monotonic()
    run = made.start_run([victim, "fight", "5"], options=OPTIONS)
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n", run.stderr and run.stderr.read()
    assert len(bodies(made)) == 2, "threads are on both other hosts"
    hurt_at = time.monotonic()
    how()
    outcome = cli.finish(run, begin=begin, timeout=30)
    return outcome, time.monotonic() - hurt_at


def assert_nothing_left(made: Hosts) -> None:
    living = {host.agent.pid for host in made.all if host.agent and host.agent.poll() is None}
    left = until_gone(lambda: [pid for pid in processes.marked(made.mark) if pid not in living], 5)
    assert processes.names(left) == []
    assert list(made.scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_agent_dies_or_stops(hosts: HostsFactory, victim: str, name: str, number: signal.Signals) -> None:
    made = hosts(3, memory="32M")
    outcome, took = hurt(made, victim, lambda: made.kill(name, number))
    assert outcome.returncode == cli.EXIT_LOST, outcome
    assert len(outcome.complaint) == 1, outcome.complaint
    assert f"host {name} was lost" in outcome.complaint[0]
    assert took < LOST_AFTER_S + 5, f"{took:.1f} s"
    assert_nothing_left(made)
    if number == signal.SIGKILL:
        assert processes.names(until_gone(lambda: bodies(made), 5)) == []


def test_body_process_dies(hosts: HostsFactory, victim: str) -> None:
    """Its host has lost threads: the run cannot go on."""
    made = hosts(3, memory="32M")
    outcome, took = hurt(made, victim, lambda: os.kill(bodies(made)[0], signal.SIGKILL))
    assert outcome.returncode == cli.EXIT_LOST, outcome
    assert "the body process of the program died" in outcome.complaint[-1]
    assert took < LOST_AFTER_S + 5, f"{took:.1f} s"
    assert_nothing_left(made)
    assert processes.names(until_gone(lambda: bodies(made), 5)) == []


def test_body_process_is_stopped(hosts: HostsFactory, victim: str) -> None:
    """Its agent goes on to show that it lives; the threads do not."""
    made = hosts(3, memory="32M")
    outcome, took = hurt(made, victim, lambda: os.kill(bodies(made)[0], signal.SIGSTOP))
    assert outcome.returncode == cli.EXIT_LOST, outcome
    assert f"the body process of the program was stopped for {LOST_AFTER_S * 1000:.0f} ms" in outcome.complaint[-1]
    assert took < LOST_AFTER_S + 5, f"{took:.1f} s"
    assert_nothing_left(made)
    assert processes.names(until_gone(lambda: bodies(made), 5)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_program_is_told_to_end(hosts: HostsFactory, victim: str, number: signal.Signals) -> None:
    """^C, and a batch system's word: everything ends everywhere, soon."""
    made = hosts(3, memory="32M")

    def tell() -> None:
        marked = processes.marked(made.mark)
        # Not `megalith run`, whose command line ends so, too.
        (program,) = (pid for pid in marked if processes.names([pid]) == [f"{pid} {victim} fight 5"])
        os.kill(program, number)

    outcome, took = hurt(made, victim, tell)
    assert outcome.returncode == 128 + number, outcome
    assert took < 3, f"{took:.1f} s"
    assert_nothing_left(made)
    assert processes.names(until_gone(lambda: bodies(made), 5)) == []
