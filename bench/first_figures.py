"""The first figures: `python bench/first_figures.py [--quick]` prints the tables of docs/performance.md, then JSON.

(a) the overhead when everything fits on the home host; (b) time on hosts smaller than the program, against native
and against swap under the same limit; (c) what an evicted page costs; (d) what a system call costs.

Everything is a ratio of things measured side by side in one run. Figures of a virtual machine say little about
another.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import cli
import swap
from conditions import Steal, awake_cpus, interleaved
from programs.native import run_native
from workloads import Workload, all_of

MIB = 1 << 20
HOSTS = 4
BUDGETS_PERCENT = (100, 50, 33)
SWAP_PATIENCE = 10
"""Swap is given up at this multiple of our own time."""

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C"}


@dataclass
class Figures:
    """All that was measured, as it will be printed."""

    quick: bool
    rounds: int
    directory: Path
    data: dict[str, Any] = field(default_factory=dict)

    def table(self, title: str, head: list[str], rows: list[list[str]]) -> None:
        """Prints a markdown table."""
        print(f"\n### {title}\n")
        print("| " + " | ".join(head) + " |")
        print("|" + "---|" * len(head))
        for row in rows:
            print("| " + " | ".join(row) + " |")
        sys.stdout.flush()


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller inputs, fewer rounds")
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the figures to FILE instead of after the tables"
    )
    arguments = parser.parse_args(words)
    directory = Path(tempfile.mkdtemp(prefix="mgl-bench-"))
    steal = Steal()
    try:
        with awake_cpus():
            figures = Figures(arguments.quick, 3 if arguments.quick else 5, directory)
            conditions(figures)
            programs(figures)
            pages(figures)
            calls(figures)
            figures.data["steal_percent"] = round(steal.percent(), 2)
    finally:
        shutil.rmtree(directory)
    print(f"\nSteal time: {figures.data['steal_percent']} % of all CPUs.\n")
    figures_json = json.dumps(figures.data, indent=1)
    if arguments.json is None:
        print(f"```json\n{figures_json}\n```")
    else:
        arguments.json.write_text(figures_json + "\n", encoding="utf-8")


def conditions(figures: Figures) -> None:
    """Says on what this was measured."""
    model = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ":?")
    figures.data["machine"] = f"{os.cpu_count()} CPUs ({model.split(':')[1].strip()}), Linux {platform.release()}"
    print(f"{figures.data['machine']}; medians of {figures.rounds} rounds, interleaved.")


def programs(figures: Figures) -> None:
    """(a) and (b): whole programs."""
    fits, small = [], []
    refused = swap.why_not()
    for workload in all_of(quick=figures.quick):
        directory = figures.directory / workload.name
        directory.mkdir()
        workload.prepare(directory)
        peak_bytes = run_native(workload.argv, cwd=directory, env=ENV).peak_bytes
        fits.append(_fitting(figures, workload, directory, peak_bytes))
        small += [_short(figures, workload, directory, peak_bytes, percent, refused) for percent in BUDGETS_PERCENT]
    figures.table("Everything fits on the home host", ["program", "peak", "native", "megalith", "ratio"], fits)
    figures.table(
        f"Hosts smaller than the program ({HOSTS} hosts; swap: a file, same limit for the one host)",
        ["program", "budget of each host", "native, no limit", "megalith", "ratio", "swap", "handed over"],
        small,
    )


def _fitting(figures: Figures, workload: Workload, directory: Path, peak_bytes: int) -> list[str]:
    memory = f"{2 * peak_bytes // MIB}M"
    taken = interleaved(
        {
            "native": lambda: _native(workload, directory),
            "megalith": lambda: _ours(workload, directory, cli.local(1, memory)),
        },
        figures.rounds,
    )
    native, ours = taken["native"], taken["megalith"]
    assert native is not None
    figures.data[f"fits_{workload.name}"] = {"peak_bytes": peak_bytes, **taken}
    return [workload.name, f"{peak_bytes // MIB} MiB", _seconds(native), _seconds(ours), _ratio(ours, native)]


def _short(
    figures: Figures, workload: Workload, directory: Path, peak_bytes: int, percent: int, refused: str | None
) -> list[str]:
    budget = peak_bytes * percent // 100
    report = directory / "report.json"
    words = cli.local(HOSTS, f"{budget // MIB}M", report=report)
    ways: dict[str, Callable[[], float | None]] = {
        "native": lambda: _native(workload, directory),
        "megalith": lambda: _ours(workload, directory, words),
    }
    taken = interleaved(ways, max(1, figures.rounds - 2))
    native, ours = taken["native"], taken["megalith"]
    assert native is not None
    patience = SWAP_PATIENCE * (ours or 60)
    swapped: float | str = refused or _swapped(workload, directory, budget, patience)
    handed = cli.Report(report).total("handed_over_pages") * 4096 // MIB if ours is not None else 0
    figures.data[f"budget_{percent}_{workload.name}"] = {**taken, "swap": swapped, "handed_over_mib": handed}
    shown = swapped if isinstance(swapped, str) else _seconds(swapped)
    return [
        *(workload.name, f"{budget // MIB} MiB ({percent} %)", _seconds(native), _seconds(ours)),
        *(_ratio(ours, native), shown, f"{handed} MiB"),
    ]


def _native(workload: Workload, directory: Path) -> float:
    begin = time.monotonic()
    subprocess.run(workload.argv, cwd=directory, env=ENV, check=True, capture_output=True, timeout=600)
    return time.monotonic() - begin


def _ours(workload: Workload, directory: Path, words: list[str]) -> float | None:
    """The program's own time, without the start of agents, which a hosts file would not have either."""
    report = directory / "report.json"
    if "--report" not in words:
        words = [*words[:-1], "--report", str(report), "--"]
    outcome = cli.run(*words, *workload.argv, cwd=directory, env=ENV, timeout=1200)
    if outcome.returncode != 0:
        print(f"{workload.name}: exit {outcome.returncode}: {outcome.complaint[-1:]}", file=sys.stderr)
        return None
    return float(json.loads(report.read_text())["wall_s"])


def _swapped(workload: Workload, directory: Path, limit_bytes: int, patience: float) -> float | str:
    with swap.swap_file(directory) as refused:
        return refused or swap.run_under_limit(
            workload.argv, limit_bytes=limit_bytes, cwd=directory, env=ENV, seconds_max=patience
        )


def pages(figures: Figures) -> None:
    """(c): pages of an array three times its home host's budget."""
    binary = _build(figures, "touch.c")
    report = figures.directory / "touch.json"
    budget_mib = 32 if figures.quick else 128
    words = cli.local(HOSTS, f"{budget_mib}M", report=report)
    outcome = cli.run(*words, binary, str(3 * budget_mib), env=ENV, timeout=600)
    if outcome.returncode != 0:
        raise SystemExit(f"touch ended with {outcome.returncode}: {outcome.complaint}")
    rows = [line.split() for line in outcome.stdout.decode().splitlines()]
    figures.table(
        f"Pages of an array of {3 * budget_mib} MiB, home host {budget_mib} MiB (slow: over 2 µs)",
        ["order", "µs a page", "MB/s", "p50 µs of slow", "p99 µs of slow", "slow pages"],
        rows,
    )
    found = cli.Report(report)
    times = [[host["name"], str(host["fault_us"]["p50"]), str(host["fault_us"]["p99"])] for host in found.hosts]
    figures.table("Faults as the agents saw them", ["host", "p50 µs", "p99 µs"], times)
    kinds = list(found.hosts[0]["faults"])
    figures.table("Faults by kind", kinds, [[str(found.faults(kind)) for kind in kinds]])
    figures.data["pages"] = {row[0]: [float(value) for value in row[1:]] for row in rows}
    figures.data["faults"] = [{"name": h["name"], "us": h["fault_us"], "kinds": h["faults"]} for h in found.hosts]


def calls(figures: Figures) -> None:
    """(d): reads of one byte."""
    binary = _build(figures, "reads.c")
    count = "200000" if figures.quick else "1000000"

    def native() -> float:
        return float(subprocess.run([binary, count], check=True, capture_output=True, timeout=600).stdout)

    def ours() -> float:
        outcome = cli.run(*cli.local(1, "64M"), binary, count, env=ENV, timeout=600)
        if outcome.returncode != 0:
            raise SystemExit(f"reads ended with {outcome.returncode}: {outcome.complaint}")
        return float(outcome.stdout)

    taken = interleaved({"native": native, "megalith": ours}, figures.rounds)
    per_native, per_ours = taken["native"], taken["megalith"]
    assert per_native is not None
    assert per_ours is not None
    figures.table(
        "A read of one byte",
        ["native", "megalith", "added"],
        [[f"{per_native:.0f} ns", f"{per_ours:.0f} ns", f"{per_ours - per_native:.0f} ns"]],
    )
    figures.data["read_ns"] = taken


def _build(figures: Figures, source: str) -> str:
    binary = str(figures.directory / Path(source).stem)
    subprocess.run(["gcc", "-O2", "-Wall", str(Path(__file__).with_name(source)), "-o", binary], check=True)
    return binary


def _seconds(value: float | None) -> str:
    return "failed" if value is None else f"{value:.2f} s"


def _ratio(value: float | None, native: float) -> str:
    return "—" if value is None else f"{value / native:.2f}"


if __name__ == "__main__":
    main()
