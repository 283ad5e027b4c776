"""A host that dies, stops or is cut off takes the run with it: in time, with one line, and nothing is left.

The moment is random, from a seed that stands in the test's name. The program checks every word that it reads
and ends with 99 if one is wrong, so a page that silently became zero would show.
"""

import signal
import time
from random import Random

import pytest

import cli
import processes
from hosts import Hosts, HostsFactory

LOST_AFTER_S = 1.0
END_AFTER_DETECTION_S_MAX = 5.0
MEMORY = "24M"  # three hosts hold 72 MiB; the program takes 48 and soon lives on all of them
CHURN = ["churn", "48", "60"]


def run_and_hurt(made: Hosts, victim: str, *, seed: int, hurt: "Hurt") -> cli.Outcome:
    """Starts the program, hurts a host between now and 1.5 s later, and waits for the end."""
    begin = time.monotonic()
    run = made.start_run([victim, *CHURN], options=["--quiet", "--lost-after", str(LOST_AFTER_S), "--heartbeat", "0.2"])
    # Before the run has begun there is no machine to lose a host: "unreachable" is tested elsewhere.
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n", run.stderr and run.stderr.read()
    time.sleep(Random(seed).uniform(0, 1.5))
    hurt_at = time.monotonic()
    hurt(made)
    outcome = cli.finish(run, begin=begin, timeout=30)
    took = time.monotonic() - hurt_at
    assert took < LOST_AFTER_S + END_AFTER_DETECTION_S_MAX, f"{took:.1f} s"
    return outcome


def assert_lost(outcome: cli.Outcome, name: str, made: Hosts) -> None:
    assert outcome.returncode == cli.EXIT_LOST, outcome
    assert b"WRONG" not in outcome.stdout
    assert len(outcome.complaint) == 1, outcome.complaint
    assert f"host {name} was lost" in outcome.complaint[0]
    assert list(made.scratch.iterdir()) == []
    agents = [host.agent.pid for host in made.all if host.agent and host.agent.poll() is None]
    end = time.monotonic() + 2
    while (left := [pid for pid in processes.marked(made.mark) if pid not in agents]) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes.names(left) == []


class Hurt:
    """What is done to which host."""

    def __init__(self, name: str, number: signal.Signals | None) -> None:
        self.name = name
        self.number = number

    def __call__(self, made: Hosts) -> None:
        if self.number is None:
            made.cut(self.name)
        else:
            made.kill(self.name, self.number)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", ["a", "b"])
def test_agent_dies_or_stops(hosts: HostsFactory, victim: str, name: str, number: signal.Signals, seed: int) -> None:
    made = hosts(3, memory=MEMORY)
    assert_lost(run_and_hurt(made, victim, seed=seed, hurt=Hurt(name, number)), name, made)


@pytest.mark.parametrize("seed", [1, 2])
def test_cable_of_a_remote_host_is_cut(hosts: HostsFactory, victim: str, seed: int) -> None:
    made = hosts(3, memory=MEMORY, need_namespaces=True)
    assert_lost(run_and_hurt(made, victim, seed=seed, hurt=Hurt("c", None)), "c", made)


def test_cable_of_the_home_host_is_cut(hosts: HostsFactory, victim: str) -> None:
    """Home sees all others go; which it names first is open."""
    made = hosts(3, memory=MEMORY, need_namespaces=True)
    outcome = run_and_hurt(made, victim, seed=1, hurt=Hurt("a", None))
    assert outcome.returncode == cli.EXIT_LOST, outcome
    assert len(outcome.complaint) == 1, outcome.complaint
    assert "was lost" in outcome.complaint[0]


def test_other_hosts_serve_the_next_run(hosts: HostsFactory, victim: str) -> None:
    """A lost host takes the machines that use it, and those alone."""
    made = hosts(3, memory=MEMORY)
    run_and_hurt(made, victim, seed=5, hurt=Hurt("c", signal.SIGKILL))
    made["c"].agent = None
    made.launch(made["c"])
    made.await_ready(made["c"])
    again = made.run([victim, "threads", "48", "4"], options=["--quiet"])
    assert again.returncode == 0, again.complaint
    assert again.stdout.strip()


def test_machine_without_the_lost_host_goes_on(hosts: HostsFactory, victim: str) -> None:
    made = hosts(3, memory="64M")
    two = made.base / "two.toml"
    two.write_text("[[host]]".join(made.file.read_text().split("[[host]]")[:3]))
    begin = time.monotonic()
    run = made.start_run([victim, "churn", "48", "4"], options=["--quiet"], file=two)
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    made.kill("c")
    outcome = cli.finish(run, begin=begin, timeout=60)
    assert outcome.returncode == 0, outcome.complaint
    assert outcome.stdout == b"right\n"
