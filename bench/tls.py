"""What TLS between hosts costs: `python bench/tls.py [--quick]` prints a table, then JSON.

Two pairs of hosts, network namespaces of this computer, the one pair with keys, the other with `--plaintext`;
otherwise alike, and measured in turn. (a) Pages that come from the other host: a program on a home host with too little
room goes through an array in order and at random (`touch.c`); (b) a system call of a thread that is on the other host
(`programs/calls.c`), over a channel, which with keys goes through a relay at each end.

It needs root. All hosts share this computer's CPUs, encryption included, so on a busy computer read the ratios only;
and no network is in the figures but veth.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conditions import Steal, awake_cpus
from hosts import Hosts, why_no_namespaces

HERE = Path(__file__).parent
HOME_MEMORY, OTHER_MEMORY = "40M", "256M"
ARRAY_MIB = "96"
TIMEOUT_S = 300
CALLS = {"getppid": "getppid", "a read of 4 KiB, used": "page", "a write of a line": "line"}

Figures = dict[str, float]


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, less in each")
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the figures to FILE instead of after the table"
    )
    arguments = parser.parse_args(words)
    if reason := why_no_namespaces():
        raise SystemExit(reason)
    rounds, calls = (3, 5_000) if arguments.quick else (7, 50_000)
    model = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ":?")
    data: dict[str, Any] = {
        "machine": f"{os.cpu_count()} CPUs ({model.split(':')[1].strip()}), Linux {platform.release()}",
        "load_average": round(os.getloadavg()[0], 2),
        "rounds": rounds,
    }
    print(f"{data['machine']}; load average before: {data['load_average']}; medians of {rounds} rounds, in turn.\n")
    steal = Steal()
    with tempfile.TemporaryDirectory(prefix="mgl-bench-") as scratch, awake_cpus():
        programs = Path(scratch)
        build(programs)
        memory = [HOME_MEMORY, OTHER_MEMORY]
        with Hosts(2, memory=memory, plaintext=True) as plain, Hosts(2, memory=memory) as secure:
            ways = {"plaintext": plain.start(), "TLS": secure.start()}
            taken = take(ways, [pages, lambda hosts, where: system_calls(hosts, where, calls)], programs, rounds)
    data["figures"] = taken
    data["steal_percent"] = round(steal.percent(), 2)
    print("| | plaintext | TLS | ratio |\n|---|---|---|---|")
    for name in taken["plaintext"]:
        one, two = taken["plaintext"][name], taken["TLS"][name]
        print(f"| {name} | {one:.4g} | {two:.4g} | {two / one:.2f} |")
    print(f"\nSteal time: {data['steal_percent']} % of all CPUs.\n")
    text = json.dumps(data, indent=1)
    if arguments.json is None:
        print(f"```json\n{text}\n```")
    else:
        arguments.json.write_text(text + "\n", encoding="utf-8")


def build(programs: Path) -> None:
    """Compiles what runs on the hosts."""
    for source in (HERE / "touch.c", HERE / "programs" / "calls.c"):
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-pthread", str(source), "-o", str(programs / source.stem)]
        subprocess.run(command, check=True)


def take(
    ways: dict[str, Hosts], measures: Sequence[Callable[[Hosts, Path], Figures]], programs: Path, rounds: int
) -> dict[str, Figures]:
    """Every measure in every way once a round, in turn; the median of each figure."""
    seen: dict[str, dict[str, list[float]]] = {way: {} for way in ways}
    for _ in range(rounds):
        for measure in measures:
            for way, hosts in ways.items():
                for name, value in measure(hosts, programs).items():
                    seen[way].setdefault(name, []).append(value)
    return {way: {name: median(values) for name, values in figures.items()} for way, figures in seen.items()}


def pages(hosts: Hosts, programs: Path) -> Figures:
    """Pages of an array that is larger than the home host."""
    outcome = hosts.run([str(programs / "touch"), ARRAY_MIB], options=["--quiet", "--expand"], timeout=TIMEOUT_S)
    if outcome.returncode != 0:
        raise SystemExit(f"touch: {outcome}")
    figures: Figures = {}
    for line in outcome.stdout.decode().splitlines():
        order, per_page, rate, p50, p99, _ = line.split()
        figures[f"{order}: µs a page"] = float(per_page)
        figures[f"{order}: MB/s"] = float(rate)
        figures[f"{order}: a slow page, p50 µs"] = float(p50)
        figures[f"{order}: a slow page, p99 µs"] = float(p99)
    return figures


def system_calls(hosts: Hosts, programs: Path, count: int) -> Figures:
    """Calls of a thread on the other host, which has the CPUs behind home's."""
    away = str(len(os.sched_getaffinity(0)))
    figures: Figures = {}
    for name, kind in CALLS.items():
        outcome = hosts.run(
            [str(programs / "calls"), str(count), away, kind],
            options=["--quiet", "--threads-on", "a"],
            env={"BENCH_AWAY": away},
            timeout=TIMEOUT_S,
        )
        if outcome.returncode != 0:
            raise SystemExit(f"calls {kind}: {outcome}")
        figures[f"{name}, away: µs"] = float(outcome.stdout) / 1000
    return figures


if __name__ == "__main__":
    main()
