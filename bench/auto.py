"""Whether --auto pays: `python bench/auto.py [--rounds N] [--json FILE]` prints a table, then JSON.

Two hosts, network namespaces, with a CPU each. (a) Two threads compute, each on memory of its own: natively on one
CPU, with --expand, and with --auto, which sends one of them to the other host. (b) A thread goes through memory of
which the home host holds less than half: natively on one CPU (which has it all), with --expand, to which every page
comes, and with --auto, which takes the thread to its pages. Interleaved. As root, on a computer with two CPUs or more,
which have nothing else to do: --auto sends nobody to a CPU that is busy.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conditions import Steal, interleaved
from hosts import Hosts, why_no_namespaces

SOURCE = Path(__file__).parents[1] / "tests/spread/sources/labour.c"
MEMORY = ("40M", "256M")
TIMEOUT_S = 900
WORK = {
    "two threads compute": ("compute", "2", "6000"),
    "a thread goes through 96 MiB, 40 times": ("scan", "96", "40"),
}


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each is run (default: 3)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to FILE, not after the table")
    arguments = parser.parse_args(words)
    cpus = sorted(os.sched_getaffinity(0))
    if reason := why_no_namespaces():
        raise SystemExit(reason)
    if len(cpus) < len(MEMORY):
        raise SystemExit(f"{len(MEMORY)} CPUs are needed")
    directory = Path(tempfile.mkdtemp(prefix="mgl-bench-"))
    steal = Steal()
    data: dict[str, Any] = {"rounds": arguments.rounds, "seconds": {}}
    print("| | native | --expand | --auto | --expand : --auto |\n|---|---|---|---|---|")
    try:
        program = str(directory / "labour")
        subprocess.run(["gcc", "-O2", "-pthread", str(SOURCE), "-o", program], check=True)
        with Hosts(len(MEMORY), memory=MEMORY) as hosts:
            for host, cpu in zip(hosts.all, cpus, strict=False):
                host.enter += ["taskset", "--cpu-list", str(cpu)]
            hosts.start()
            for name, work in WORK.items():
                taken = take(hosts, cpus[0], [program, *work], arguments.rounds)
                data["seconds"][name] = taken
                expand, auto = taken["expand"], taken["auto"]
                ratio = f"{expand / auto:.2f}" if expand and auto else "—"
                print(
                    f"| {name} | {' | '.join(f'{seconds:.1f} s' for seconds in taken.values())} | {ratio} |", flush=True
                )
    finally:
        shutil.rmtree(directory)
    data["steal_percent"] = round(steal.percent(), 2)
    text = json.dumps(data, indent=1)
    if arguments.json is None:
        print(f"\n```json\n{text}\n```")
    else:
        arguments.json.write_text(text + "\n", encoding="utf-8")


def take(hosts: Hosts, cpu: int, argv: list[str], rounds: int) -> dict[str, float | None]:
    """Seconds in each way; the output must be the native one."""
    right = subprocess.run(argv, check=True, capture_output=True, timeout=TIMEOUT_S).stdout

    def native() -> float:
        begin = time.monotonic()
        pinned = ["taskset", "--cpu-list", str(cpu), *argv]
        done = subprocess.run(pinned, check=True, capture_output=True, timeout=TIMEOUT_S)
        assert done.stdout == right
        return time.monotonic() - begin

    def ours(option: str) -> float:
        outcome = hosts.run(argv, options=[option, "--quiet"], timeout=TIMEOUT_S)
        if outcome.returncode != 0 or outcome.stdout != right:
            raise SystemExit(f"{option}: exit {outcome.returncode}: {outcome.complaint[-1:]}")
        return outcome.seconds

    ways = {"native": native, "expand": lambda: ours("--expand"), "auto": lambda: ours("--auto")}
    return interleaved(ways, rounds)


if __name__ == "__main__":
    main()
