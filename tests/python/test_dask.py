"""Dask's workers on the hosts of a machine."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import megalith

numpy = pytest.importorskip("numpy")
distributed = pytest.importorskip("distributed")

HOSTS = 3


@pytest.fixture(scope="module")
def machine() -> Iterator[megalith.Machine]:
    with megalith.machine(hosts=HOSTS, memory_per_host="32M") as made:
        yield made


@pytest.fixture(scope="module")
def client(machine: megalith.Machine) -> Iterator[Any]:
    from megalith.dask import MegalithCluster

    with MegalithCluster() as cluster, distributed.Client(cluster) as made:
        made.wait_for_workers(HOSTS)
        yield made


def where() -> str:
    return os.environ["MEGALITH_CLIENT_SOCKET"]


def fill(part: Any, value: int) -> None:
    part[:] = value


def every_other(array: Any) -> Any:
    return array[::2]


def make(value: int) -> Any:
    return megalith.current_machine().full(1000, value)


def make_sum(array: Any) -> float:
    return float(array.sum())


def place(array: Any) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


def test_a_worker_on_each_host(client: Any) -> None:
    assert len(set(client.run(where).values())) == HOSTS


def test_arguments_go_by_address(machine: megalith.Machine, client: Any) -> None:
    array = machine.zeros(7_000_000)  # 53 MiB, more than any host has
    client.gather(client.map(fill, numpy.split(array, 10), range(10), pure=False))
    assert array[:: len(array) // 10].tolist() == list(range(10))
    assert client.submit(lambda numbers: float(numbers.sum()), array, pure=False).result() == array.sum()


def test_data_and_results_go_by_address(machine: megalith.Machine, client: Any) -> None:
    array = machine.zeros(1000)
    data = client.scatter(array)
    assert client.submit(place, data).result() == place(array)
    client.submit(fill, data, 5, pure=False).result()
    assert array.sum() == 5000
    half = client.submit(every_other, data, pure=False)
    assert client.submit(place, client.submit(every_other, half)).result() == place(array), "from worker to worker"
    found = half.result()
    found[1] = 7
    assert array[2] == 7


def none_left(machine: megalith.Machine) -> None:
    deadline = time.monotonic() + 60
    while (gc.collect() or True) and machine._memory.count:
        assert time.monotonic() < deadline, f"{machine!r}: somebody still has them"
        time.sleep(0.05)


def test_arrays_live_as_long_as_dask_has_them(machine: megalith.Machine, client: Any) -> None:
    giver, taker = list(client.scheduler_info()["workers"])[:2]
    none_left(machine)
    made = client.submit(make, 3, workers=[giver])
    assert client.submit(every_other, made, workers=[taker]).result().sum() == 1500, "from worker to worker"
    found = made.result()
    del made
    gc.collect()
    assert found.sum() == 3000, "home has it"
    del found
    none_left(machine)


def test_arrays_that_only_a_task_has(machine: megalith.Machine, client: Any) -> None:
    none_left(machine)
    named = [client.submit(make_sum, machine.full(1000, value), pure=False) for value in range(20)]
    nameless = client.map(lambda array: float(array.sum()), [machine.full(1000, value) for value in range(20)])
    assert client.gather(named) == client.gather(nameless) == [1000.0 * value for value in range(20)]
    del named, nameless
    none_left(machine)


def test_other_arrays_go_as_ever(client: Any) -> None:
    plain = numpy.arange(100_000)
    assert client.submit(place, plain).result() != place(plain)
    assert client.submit(lambda numbers: numbers + 1, plain[:3]).result().tolist() == [1, 2, 3]
    objects = numpy.array([{"a": 1}, None], dtype=object)
    assert client.submit(lambda given: given[0]["a"], objects).result() == 1
    assert (client.gather(client.scatter(plain)) == plain).all()


def test_what_a_task_raises(client: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        client.submit(lambda: 1 // 0).result()


def test_a_worker_that_is_killed_takes_no_other_with_it(machine: megalith.Machine) -> None:
    from megalith.dask import MegalithCluster

    with MegalithCluster(machine, 2) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(2)
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        assert client.gather(client.map(pow, range(20), [2] * 20), errors="raise") == [n**2 for n in range(20)]
        cluster.scale(3)
        client.wait_for_workers(2, timeout=60)
        cluster.scale(1)
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3


def test_nothing_is_left(machine: megalith.Machine) -> None:
    from megalith.dask import MegalithCluster

    before = set(Path(tempfile.gettempdir()).glob("*dask*"))
    with MegalithCluster(machine, 2) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(2)
        processes = list(client.run(os.getpid).values())
        assert len(processes) == 2
    gc.collect()
    assert set(Path(tempfile.gettempdir()).glob("*dask*")) == before
    assert not [process for process in processes if Path(f"/proc/{process}").exists()]
    assert machine.run(["true"]).returncode == 0
