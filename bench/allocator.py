"""What an array costs that numpy allocates: `python bench/allocator.py [--quick]` prints a table.

`a + b` of arrays of several lengths, with numpy's own memory and inside `m.memory()`, interleaved; all pages are on
the home host. On the second machine the largest arrays are too long to be kept when they are freed, so that each is
discarded and touched anew.
"""

import argparse
import importlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import megalith
from conditions import Steal, interleaved

np: Any = importlib.import_module("numpy")  # Not among what `make lint` needs.
HOSTS = 2
MIB = 1 << 20
BUDGETS = {"freed memory is kept": "1G", "it is discarded": "400M"}
"""Of each host. Three quarters of an eighth of it are kept of arrays of 2 MiB and more."""
TIMES = {100 * 8: 5000, MIB: 100, 64 * MIB: 8}
"""Lengths in bytes, and how many sums are timed at once."""


def sums(context: AbstractContextManager[None], first: Any, second: Any, times: int) -> float:
    """Seconds that one sum takes."""
    with context:
        total = first + second
        began = time.perf_counter()
        for _ in range(times):
            total = first + second
        taken = time.perf_counter() - began
    if total[-1] != first[-1] + second[-1]:
        raise ValueError("a sum is wrong")
    return taken / times


def measure(machine: megalith.Machine, size: int, rounds: int) -> dict[str, float | None]:
    """Seconds of a sum of arrays of `size` bytes in all."""
    dice = np.random.default_rng(1)
    first, second = dice.random(size // 8), dice.random(size // 8)
    ways: dict[str, Callable[[], float | None]] = {
        "own": lambda: sums(nullcontext(), first, second, TIMES[size]),
        "machine": partial(_inside, machine, first, second, TIMES[size]),
    }
    return interleaved(ways, rounds)


def _inside(machine: megalith.Machine, first: Any, second: Any, times: int) -> float:
    with machine.memory():
        first, second = first.copy(), second.copy()
    return sums(machine.memory(), first, second, times)


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    arguments = parser.parse_args(words)
    steal = Steal()
    print(f"{'a + b':24} {'bytes':>10} {'own, µs':>10} {'machine, µs':>12} {'ratio':>6}")
    for what, budget in BUDGETS.items():
        with megalith.machine(hosts=HOSTS, memory_per_host=budget) as machine:
            for size in TIMES if budget == "1G" else [max(TIMES)]:
                found = measure(machine, size, 5 if arguments.quick else 15)
                own, inside = found["own"] or 0.0, found["machine"] or 0.0
                print(f"{what:24} {size:10} {own * 1e6:10.2f} {inside * 1e6:12.2f} {inside / own:6.2f}", flush=True)
    print(f"{steal.percent():.1f} % of CPU time stolen")


if __name__ == "__main__":
    main()
