"""Where arrays' pages are, and moving them: real agents on three hosts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Any

import pytest

import megalith
from megalith.arena import PAGE_BYTES
from megalith.extents import page_extents

numpy = pytest.importorskip("numpy")

MIB = 1 << 20
HOSTS = ("host1", "host2", "host3")


@pytest.fixture(scope="module")
def machine() -> Iterator[megalith.Machine]:
    with megalith.machine(hosts=len(HOSTS), memory_per_host="32M") as made:
        yield made


def fill(part: Any, value: int) -> None:
    part[:] = value


def bytes_moved(machine: megalith.Machine) -> int:
    """As the next sign of life says."""
    before = machine.figures
    while machine.figures is before:
        time.sleep(0.02)
    before = machine.figures
    while machine.figures is before:
        time.sleep(0.02)
    return sum(host.received_pages + host.faults.remote for host in machine.figures)


def test_what_nobody_has_touched_is_nowhere(machine: megalith.Machine) -> None:
    found = machine.locate(machine.empty(3 * MIB, "u1"))
    assert found.nowhere == found.nbytes == 3 * MIB
    assert set(found.owned.values()) == set(found.copies.values()) == {0}
    assert found.owners.dtype == numpy.int16
    assert "nowhere 3.00 MiB" in repr(found)


def test_pages_are_where_workers_wrote_them(machine: megalith.Machine) -> None:
    array = machine.empty(6 * MIB, "u1")
    parts = numpy.split(array, 3)
    where = dict(zip(HOSTS, parts, strict=True))

    def of_part(_fn: Any, args: Any, _kwargs: Any) -> str:
        return HOSTS[args[1]]

    with machine.executor(3, locality=of_part) as executor:
        list(executor.map(fill, parts, range(3)))
    found = machine.locate(array)
    assert found.owned == dict.fromkeys(HOSTS, 2 * MIB)
    assert found.owners.tolist() == [place for place in range(3) for _ in range(2 * MIB // PAGE_BYTES)]
    for place, (host, part) in enumerate(where.items()):
        of_host = machine.locate(part)
        assert of_host.owned[host] == of_host.nbytes == 2 * MIB
        assert (part == place).all()


def test_asking_moves_nothing(machine: megalith.Machine) -> None:
    array = machine.full(6 * MIB, 7, "u1")
    machine.place(array, "spread")
    machine.locate(array)
    before = bytes_moved(machine)
    owners = [machine.locate(array).owners.tolist() for _ in range(5)]
    assert all(found == owners[0] for found in owners)
    assert bytes_moved(machine) == before


@pytest.mark.parametrize("where", ["spread", "interleave", *HOSTS, 0, 2])
def test_places(machine: megalith.Machine, where: str | int) -> None:
    here = numpy.random.default_rng(1).integers(0, 1 << 60, 12 * MIB // 8)
    array = machine.array(here)
    machine.place(array, where)
    found = machine.locate(array)
    regions = found.owners.reshape(-1, 512)
    assert (regions == regions[:, :1]).all(), "regions are not torn apart"
    owners = regions[:, 0].tolist()
    match where:
        case "spread":
            assert owners == [0, 0, 1, 1, 2, 2]
        case "interleave":
            assert sorted(owners) == [0, 0, 1, 1, 2, 2]
            assert all(a != b for a, b in pairwise(owners))
        case int(place):
            assert owners == [place] * 6
        case name:
            assert owners == [HOSTS.index(name)] * 6
    assert numpy.array_equal(array, here)


def test_prefetch_brings_copies_or_pages(machine: megalith.Machine) -> None:
    array = machine.full(4 * MIB, 3, "u1")
    machine.place(array, "host2")
    assert machine.prefetch(array, "host3", write=True).result() == 4 * MIB
    assert machine.locate(array).owned["host3"] == 4 * MIB
    # To be read they come as copies, or for good.
    moved = machine.prefetch(array[: 2 * MIB], wait=False)
    assert moved.result(60) == 2 * MIB
    found = machine.locate(array)
    assert found.owned["host1"] + found.copies["host1"] == 2 * MIB
    assert found.owned["host3"] + found.owned["host1"] == 4 * MIB
    assert (array == 3).all()


def test_an_array_lives_until_its_pages_have_come(machine: megalith.Machine) -> None:
    moving = []
    for _ in range(20):
        array = machine.empty(8 * MIB, "u1")
        address = array.__array_interface__["data"][0]
        moving.append(machine.prefetch(array, "host2", wait=False))
        del array
    for moved in moving:
        moved.result(60)
    again = machine.empty(8 * MIB, "u1")
    # The last may have been kept for a moment longer.
    assert abs(again.__array_interface__["data"][0] - address) <= 21 * 8 * MIB
    assert machine.locate(again).nowhere == 8 * MIB


def test_what_is_not_needed_is_zeros(machine: megalith.Machine) -> None:
    array = machine.full(2 * MIB + 100, 5, "u1")
    machine.advise(array[10:], "dontneed")
    assert machine.locate(array).nowhere == 2 * MIB - PAGE_BYTES, "pages that others are on, too, stay"
    assert (array[:10] == 5).all(), "what is not in it stays"
    assert not array[10:].any()
    array[:] = 6
    for begin, end in [(100, 200), (PAGE_BYTES - 1, PAGE_BYTES + 1), (9, 9), (5, 3 * PAGE_BYTES)]:
        machine.advise(array[begin:end], "dontneed")
        assert not array[begin:end].any()
        assert (array[end:] == 6).all()
        assert (array[:begin] == 6).all()
        array[:] = 6
    machine.advise(array, "willneed")
    read_only = array[:]
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        machine.advise(read_only, "dontneed")
    with pytest.raises(ValueError, match="gaps"):
        machine.advise(array[::2], "dontneed")
    with pytest.raises(ValueError, match="no advice"):
        machine.advise(array, "sequential")  # type: ignore[arg-type]


def test_what_cannot_be_is_said(machine: megalith.Machine) -> None:
    array = machine.empty(40 * MIB, "u1")
    with pytest.raises(ValueError, match="not in the machine's memory"):
        machine.locate(numpy.zeros(5))
    with pytest.raises(TypeError, match="list"):
        machine.locate([1, 2])  # type: ignore[arg-type]
    for wrong in ("host9", 3, -1):
        with pytest.raises(ValueError, match="it has host1, host2, host3"):
            machine.place(array, wrong)
    with pytest.raises(ValueError, match=r"40.0 MiB do not fit into the budget of host host2, which is 32.0 MiB"):
        machine.place(array, "host2")
    with pytest.raises(ValueError, match="do not fit"):
        machine.prefetch(array)
    assert machine.locate(array).nowhere == 40 * MIB


def test_a_closed_machine_says_so() -> None:
    # In an interpreter of its own: a process has one machine at a time.
    import subprocess
    import sys

    code = (
        "import megalith\n"
        "m = megalith.machine(hosts=2, memory_per_host='16M')\n"
        "a = m.full(1000, 1.0)\n"
        "m.place(a, 'spread'); m.close()\n"
        "try: m.locate(a)\n"
        "except megalith.AgentError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("the machine is closed\n", 0), done.stderr


def brute_force(array: Any) -> list[tuple[int, int]]:
    pages = set()
    for index in numpy.ndindex(array.shape):
        at = array.__array_interface__["data"][0] + sum(
            i * stride for i, stride in zip(index, array.strides, strict=True)
        )
        pages |= set(range(at // PAGE_BYTES, (at + array.itemsize - 1) // PAGE_BYTES + 1))
    extents: list[tuple[int, int]] = []
    for page in sorted(pages):
        if extents and extents[-1][1] == page * PAGE_BYTES:
            extents[-1] = extents[-1][0], (page + 1) * PAGE_BYTES
        else:
            extents.append((page * PAGE_BYTES, (page + 1) * PAGE_BYTES))
    return extents


def test_pages_of_views(machine: megalith.Machine) -> None:
    whole = machine.empty((60, 50, 40), "u2")
    wide = machine.empty((7, 5, 9000), "u1")
    dice = Random(1)
    for _ in range(150):
        array = dice.choice([whole, wide])
        if array is wide:
            array = array[:, :, : dice.randrange(1, 40)]
        view = array[
            tuple(
                slice(low := dice.randrange(n), dice.randrange(low, n) + 1, dice.choice([1, 2, 3]))
                if dice.random() < 0.7
                else slice(None, None, dice.choice([-1, -7, 1, 20]))
                for n in array.shape
            )
        ]
        if dice.random() < 0.3:
            view = view.T
        assert page_extents(view) == brute_force(view), (view.shape, view.strides)
    assert page_extents(whole[:0]) == []
