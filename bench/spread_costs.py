"""What it costs to run threads on two hosts: `python bench/spread_costs.py [--quick]` prints a table, then JSON.

(a) a move of a thread, with a look at where it is; (b) a system call, at home and away; (c) a mutex that two threads
take in turn, and a token that they hand over, asleep until it comes; (d) words that two threads count in, in one page
and in two, and one that another thread polls. Each natively, with the threads at home, and with one of them on the
other host, interleaved.

The hosts are two local ones that share this computer's CPUs, so at least two are needed, and no network is in
the figures but loopback.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import cli
from conditions import Steal, awake_cpus, interleaved

SOURCES = Path(__file__).with_name("programs")
ENV = {**os.environ, "LC_ALL": "C"}
MEMORY = "128M"
TIMEOUT_S = 300


@dataclass(frozen=True)
class Measure:
    """A program and its arguments; `CPU0` and `CPU1` stand for where its threads go."""

    name: str
    argv: tuple[str, ...]
    at_home: bool
    """Whether it says something with all threads at home."""


def measures(*, quick: bool) -> list[Measure]:
    """All of them."""
    calls, turns, moves = (20_000, 200_000, 500) if quick else (100_000, 1_000_000, 5_000)
    seconds = "0.5" if quick else "2"
    return [
        Measure("a move of a thread", ("migrate", str(moves), "CPU0", "CPU1"), at_home=False),
        Measure("getppid", ("calls", str(calls), "CPU1", "getppid"), at_home=True),
        Measure("a read of one byte", ("calls", str(calls), "CPU1", "read"), at_home=True),
        Measure("a read of 4 KiB, used", ("calls", str(calls // 10), "CPU1", "page"), at_home=True),
        Measure("a write of a line", ("calls", str(calls // 10), "CPU1", "line"), at_home=True),
        Measure("a stat", ("calls", str(calls // 10), "CPU1", "stat"), at_home=True),
        Measure("a turn of a contended mutex", ("lock", str(turns), "CPU0", "CPU1"), at_home=True),
        Measure("handing a token over", ("handover", str(moves), "CPU0", "CPU1"), at_home=True),
        Measure("the same, both threads away", ("handover", str(moves), "CPU1", "CPU1"), at_home=False),
        Measure("adding to two words of a page", ("sharing", seconds, "CPU0", "CPU1", "64"), at_home=True),
        Measure("adding to a word that is polled", ("polling", seconds, "CPU0", "CPU1"), at_home=True),
        Measure("adding to words of two pages", ("sharing", seconds, "CPU0", "CPU1", "4096"), at_home=True),
    ]


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, less in each")
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the figures to FILE instead of after the table"
    )
    arguments = parser.parse_args(words)
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2 or cpus != set(range(len(cpus))):
        raise SystemExit("two CPUs are needed, numbered from 0")
    rounds = 3 if arguments.quick else 5
    model = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ":?")
    data: dict[str, Any] = {
        "machine": f"{os.cpu_count()} CPUs ({model.split(':')[1].strip()}), Linux {platform.release()}",
        "rounds": rounds,
        "ns": {},
    }
    print(f"{data['machine']}; medians of {rounds} rounds, interleaved.\n")
    print("| | native | at home | on two hosts | ratio to native |\n|---|---|---|---|---|")
    directory = Path(tempfile.mkdtemp(prefix="mgl-bench-"))
    steal = Steal()
    try:
        build(directory)
        with awake_cpus():
            for measure in measures(quick=arguments.quick):
                taken = take(measure, directory, rounds, len(cpus))
                data["ns"][measure.name] = taken
                print(row(measure.name, taken), flush=True)
    finally:
        shutil.rmtree(directory)
    data["steal_percent"] = round(steal.percent(), 2)
    print(f"\nSteal time: {data['steal_percent']} % of all CPUs.\n")
    text = json.dumps(data, indent=1)
    if arguments.json is None:
        print(f"```json\n{text}\n```")
    else:
        arguments.json.write_text(text + "\n", encoding="utf-8")


def build(directory: Path) -> None:
    """Compiles the programs."""
    for source in SOURCES.glob("*.c"):
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-pthread", str(source), "-o", str(directory / source.stem)]
        subprocess.run(command, check=True)


def take(measure: Measure, directory: Path, rounds: int, cpus: int) -> dict[str, float | None]:
    """Nanoseconds in each way; `None` where it failed, which is said on stderr."""
    # With two local hosts the first half of the CPUs is home's.
    home, away = 0, (cpus + 1) // 2
    argv = (str(directory / measure.argv[0]), *measure.argv[1:])
    # At home both threads need a CPU of home's: where it has but one, they share it.
    second = min(1, away - 1)
    ways = {
        "native": lambda: native(placed(argv, home, away)),
        "two hosts": lambda: spread(measure, placed(argv, home, away), directory, away),
    }
    if measure.at_home:
        ways["home"] = lambda: spread(measure, placed(argv, home, second), directory, away)
    return interleaved(ways, rounds)


def placed(argv: Sequence[str], first: int, second: int) -> list[str]:
    """The command, with CPUs."""
    return [{"CPU0": str(first), "CPU1": str(second)}.get(word, word) for word in argv]


def native(argv: Sequence[str]) -> float | None:
    """Without Megalith."""
    return float(subprocess.run(argv, check=True, capture_output=True, timeout=TIMEOUT_S, env=ENV).stdout)


def spread(measure: Measure, argv: Sequence[str], directory: Path, away: int) -> float | None:
    """On two local hosts; new threads start at home, and go where they wish to by themselves."""
    report = directory / "report.json"
    words = [*cli.local(2, MEMORY, report=report)[:-1], "--threads-on", "host1", "--"]
    env = {**ENV, "BENCH_AWAY": str(away)}
    outcome = cli.run(*words, *argv, env=env, timeout=TIMEOUT_S)
    if outcome.returncode != 0:
        print(f"{measure.name}: exit {outcome.returncode}: {outcome.complaint[-1:]}", file=sys.stderr)
        return None
    return float(outcome.stdout)


def row(name: str, taken: dict[str, float | None]) -> str:
    """A line of the table."""
    ways, two = taken["native"], taken["two hosts"]
    ratio = f"{two / ways:,.1f}" if ways and two else "—"
    home = shown(taken["home"]) if "home" in taken else "—"
    return f"| {name} | {shown(ways)} | {home} | {shown(two)} | {ratio} |"


def shown(ns: float | None) -> str:
    """Three digits and a unit."""
    if ns is None:
        return "failed"
    return f"{ns:.3g} ns" if ns < 1000 else f"{ns / 1000:.3g} µs" if ns < 1e6 else f"{ns / 1e6:.3g} ms"


if __name__ == "__main__":
    main()
