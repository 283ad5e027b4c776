"""Nobody says where threads are to run: they fill idle hosts, go to their data, and come together where they fight.

The hosts are namespaces with a CPU each, so that what one gains is not what the other loses.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import cli
from hosts import Hosts, why_no_namespaces
from programs.native import need, run_native
from spread.conftest import HERE, build

HOSTS = 2
COMPUTE = ["compute", "2", "2500"]
"""Some seconds for each thread."""
SCAN = ["scan", "96", "12"]
"""More than twice as much as home holds, again and again."""


@pytest.fixture(scope="module")
def labour(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build([HERE / "sources" / "labour.c"], tmp_path_factory.mktemp("labour") / "labour", "-O2")


@contextmanager
def one_cpu_each(memory: str | list[str]) -> Iterator[Hosts]:
    """Two hosts whose agents run; the test is skipped where that cannot be."""
    if reason := why_no_namespaces():
        pytest.skip(reason)
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < HOSTS:
        pytest.skip(f"{HOSTS} CPUs are needed")
    with Hosts(HOSTS, memory=memory) as made:
        for host, cpu in zip(made.all, cpus, strict=False):
            host.enter += ["taskset", "--cpu-list", str(cpu)]
        yield made.start()


@pytest.fixture
def two_hosts(megalith: None) -> Iterator[Hosts]:
    with one_cpu_each("128M") as made:
        yield made


@pytest.fixture
def small_home(megalith: None) -> Iterator[Hosts]:
    """Home has much less memory than the other host."""
    with one_cpu_each(["40M", "256M"]) as made:
        yield made


def run(hosts: Hosts, report: Path, argv: list[str], *options: str) -> tuple[cli.Outcome, dict[str, Any]]:
    outcome = hosts.run(argv, options=["--report", str(report), *options], timeout=200)
    assert outcome.returncode == 0, outcome.complaint
    told: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return outcome, told


def skip_if_busy(told: dict[str, Any]) -> None:
    """The scheduler sends nobody to a CPU that works for others."""
    host, threads = told["hosts"][1], told["spread"]["hosts"][1]
    if threads["most"] == 0 and host["load"] > 0.2:
        pytest.skip(f"the CPU of host {host['name']} was busy with other things: load {host['load']}")


def test_threads_fill_an_idle_host(two_hosts: Hosts, labour: str, tmp_path: Path) -> None:
    native = run_native([labour, *COMPUTE], cwd=tmp_path)
    outcome, told = run(two_hosts, tmp_path / "report.json", [labour, *COMPUTE])
    assert outcome.stdout == native.stdout
    skip_if_busy(told)
    spread = told["spread"]
    assert spread["asked"] == "auto"
    assert [host["cpus"] for host in spread["hosts"]] == [1, 1]
    away = [decision for decision in spread["decisions"] if decision["target"] == "b"]
    assert away, spread["decisions"]
    assert "CPUs are wanted on a" in away[0]["why"]
    assert spread["hosts"][1]["cpu_s"] > 0, spread["hosts"]


def test_threads_that_fight_come_together(two_hosts: Hosts, labour: str, tmp_path: Path) -> None:
    outcome, told = run(two_hosts, tmp_path / "report.json", [labour, "fight", "2", "9"])
    assert outcome.stdout.startswith(b"2 threads"), outcome.stdout
    skip_if_busy(told)
    decisions = told["spread"]["decisions"]
    parted = [number for number, decision in enumerate(decisions) if decision["target"] == "b"]
    joined = [number for number, decision in enumerate(decisions) if "together on" in decision["why"]]
    assert parted, decisions
    assert joined, decisions
    assert parted[0] < joined[0], decisions
    assert len(told["spread"]["hot"]) > 0


def test_a_thread_goes_to_its_data(small_home: Hosts, labour: str, tmp_path: Path) -> None:
    native = run_native([labour, *SCAN], cwd=tmp_path)
    outcome, told = run(small_home, tmp_path / "report.json", [labour, *SCAN])
    assert outcome.stdout == native.stdout
    skip_if_busy(told)
    decisions = told["spread"]["decisions"]
    assert decisions
    assert decisions[0]["target"] == "b"
    assert "for pages that b has" in decisions[0]["why"]


def test_a_program_of_one_thread_sees_the_machine_and_stays(two_hosts: Hosts, tmp_path: Path) -> None:
    outcome, told = run(two_hosts, tmp_path / "report.json", [need("nproc", "coreutils")])
    assert outcome.stdout == b"2\n", "it is shown the whole machine"
    assert told["spread"]["decisions"] == []


def test_threads_stay_when_told_to(two_hosts: Hosts, labour: str, tmp_path: Path) -> None:
    _, told = run(two_hosts, tmp_path / "report.json", [labour, "compute", "2", "100"], "--expand")
    assert told.get("spread") is None
