"""What it is worth that tasks go where their arrays are: `python bench/locality.py`.

Workers on three hosts of this computer fill the parts of an array, then sum them three times; once as executors do it,
and once with a `locality` that has no opinion. Time, and bytes that went between hosts while the parts were summed.
Three rounds of each, in turn; medians.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy

import megalith
from conditions import Steal, awake_cpus

PARTS, PART_BYTES, PASSES, ROUNDS = 24, 8 << 20, 3, 3


def fill(part: Any, seed: int) -> None:
    part[:] = numpy.random.default_rng(seed).integers(0, 1 << 60, len(part))


def total(part: Any) -> int:
    return int(part.sum())


def no_opinion(*_: Any) -> None:
    return None


def bytes_moved(machine: megalith.Machine) -> int:
    """As the third sign of life from now says."""
    for _ in range(3):
        before = machine.figures
        while machine.figures is before:
            time.sleep(0.02)
    return sum(host.bytes_in for host in machine.figures)


def measure(locality: Callable[..., None] | None) -> tuple[float, float]:
    """Seconds, and MiB."""
    with megalith.machine(hosts=3, memory_per_host="256M") as machine:
        parts = numpy.split(machine.empty(PARTS * PART_BYTES // 8, "i8"), PARTS)
        with machine.executor(3, locality=locality) as executor:
            list(executor.map(time.sleep, [0.2] * 6))
            list(executor.map(fill, parts, range(PARTS)))
            before, begin = bytes_moved(machine), time.monotonic()
            for _ in range(PASSES):
                list(executor.map(total, parts))
            seconds = time.monotonic() - begin
            moved = (bytes_moved(machine) - before) / (1 << 20)
        parts.clear()
    return seconds, moved


def main() -> None:
    """Measures and prints."""
    steal = Steal()
    ways = {"where their arrays are": None, "anywhere": no_opinion}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with awake_cpus():
        for _ in range(ROUNDS):
            for name, locality in ways.items():
                found[name].append(measure(locality))
    size = PARTS * PART_BYTES >> 20
    print(f"{PASSES} passes over {size} MiB in {PARTS} parts, workers on 3 hosts; steal {steal.percent():.1f} %")
    print(f"{'tasks go':24} {'seconds':>8} {'MiB moved':>10}")
    for name, rounds in found.items():
        print(f"{name:24} {median(s for s, _ in rounds):8.2f} {median(m for _, m in rounds):10.1f}")


if __name__ == "__main__":
    main()
