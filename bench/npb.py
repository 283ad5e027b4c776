"""NPB on two hosts, against native and MPI: `python bench/npb.py [--class S] [KERNEL…]` prints a table, then JSON.

Each kernel of the NAS parallel benchmarks with two threads or processes, (a) natively on two CPUs of this computer;
(b) natively on one of them, which is what each of the two hosts has; (c) with Megalith, one thread on each host;
(d) with Open MPI over TCP (`mpi.py`), one process on each. BT and SP need a square number of processes: four, two on
each host. All in turn, `--rounds` times; a cell has the median of the times that NPB prints (which begins after its
set-up), and in parentheses that of the whole run. A run whose results NPB does not verify is a failure, not a figure.

The two hosts are network namespaces of this computer, each tied to a CPU of its own, agents included; (c) and
(d) use the same ones. So it needs root and two CPUs, and no network is in the figures but veth. Nothing else
should want the CPUs: a program's part on the other host is a session of its own there, and sessions share CPUs equally
(sched(7), "autogroup"), so among other jobs two hosts get more of them than a native program.

NPB is no part of this repository, and this builds none of it. MEGALITH_NPB names the OpenMP edition (NPB-OMP of
GMAP/NPB-CPP, as for the tests), MEGALITH_NPB_MPI the MPI edition (NPB3.4-MPI); in both, what NPB's own make has built
is in `bin`: `ep.S` of the one, `ep.S.x` of the other. CG of NPB-OMP has a race, which `tests/spread/npb.py` corrects in
its copy: a run that loses it is not verified. Debian packages: openmpi-bin to run, libopenmpi-dev and gfortran to build
the MPI edition.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import cli
import mpi
import processes
from conditions import Steal, awake_cpus, interleaved
from hosts import Hosts, why_no_namespaces
from spread import npb as openmp

MPI_VARIABLE = "MEGALITH_NPB_MPI"
SQUARE = ("BT", "SP")
THREADS = {"LC_ALL": "C", "OMP_NUM_THREADS": "2"}
MEMORY = "2G"
COLUMNS = ("2 CPUs", "1 CPU", "2 hosts", "MPI")
RATIO_MIN_S = 0.05
"""NPB prints hundredths of a second: a shorter time has no ratio."""

_TIME = re.compile(rb"^\s*Time in seconds\s*=\s*([0-9.]+)\s*$", re.MULTILINE)


class Failed(Exception):
    """A run that gives no figure, and why."""


@dataclass(frozen=True)
class Took:
    """Seconds of one run."""

    npb: float
    """What it says of itself."""
    wall: float
    """From its start to its end."""


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parsed(words)
    kernels: list[str] = arguments.kernels or list(openmp.KERNELS)
    binaries = {kernel: (built_openmp(kernel, arguments.size), built_mpi(kernel, arguments.size)) for kernel in kernels}
    cpus = two_cpus()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # the way out leads past all clean-up
    model = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ":?")
    data: dict[str, Any] = {
        "machine": f"{os.cpu_count()} CPUs ({model.split(':')[1].strip()}), Linux {platform.release()}",
        "mpi": mpi_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "class": arguments.size,
        "rounds": arguments.rounds,
        "seconds": {},
    }
    print(f"{data['machine']}; {data['mpi']}; load average before: {data['load_average']}.")
    print(f"Class {arguments.size}, medians of {arguments.rounds} rounds, interleaved.\n")
    print(f"| | {' | '.join(COLUMNS)} | 2 hosts : 1 CPU | 2 hosts : MPI |\n|---|{'---|' * (len(COLUMNS) + 2)}")
    steal = Steal()
    with two_hosts(cpus) as hosts, awake_cpus():
        for kernel, programs in binaries.items():
            taken = take(kernel, ways(kernel, *programs, cpus, hosts, arguments.timeout), arguments.rounds)
            data["seconds"][kernel] = {name: listed(runs) for name, runs in taken.items()}
            print(row(kernel, taken), flush=True)
    data["steal_percent"] = round(steal.percent(), 2)
    print(f"\nSteal time: {data['steal_percent']} % of all CPUs.\n")
    text = json.dumps(data, indent=1)
    if arguments.json is None:
        print(f"```json\n{text}\n```")
    else:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if any(runs is None for taken in data["seconds"].values() for runs in taken.values()):
        raise SystemExit(1)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--class", dest="size", choices=("S", "W", "A", "B"), default="S", help="NPB's class (default: S)"
    )
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="runs of each in each way (default: 3)")
    parser.add_argument(
        "--timeout", metavar="SEC", type=float, default=1200, help="a run that takes longer has failed (default: 1200)"
    )
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the figures to FILE instead of after the table"
    )
    parser.add_argument("kernels", metavar="KERNEL", nargs="*", help=f"of {', '.join(openmp.KERNELS)} (default: all)")
    arguments = parser.parse_args(words)
    arguments.kernels = [kernel.upper() for kernel in arguments.kernels]
    if unknown := set(arguments.kernels) - set(openmp.KERNELS):
        parser.error(f"no kernel of NPB: {', '.join(sorted(unknown))}")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def two_cpus() -> list[int]:
    """The CPUs to use; SystemExit where the two hosts cannot be made."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        raise SystemExit("two CPUs are needed")
    if why := why_no_namespaces():
        raise SystemExit(why)
    return cpus


def mpi_version() -> str:
    """Open MPI's; SystemExit where there is none."""
    try:
        return mpi.version()
    except FileNotFoundError:
        raise SystemExit("mpirun is missing: apt-get install openmpi-bin") from None
    except OSError as error:
        raise SystemExit(str(error)) from None


def built_openmp(kernel: str, size: str) -> Path:
    """The program of the OpenMP edition."""
    root = openmp.sources()
    if root is None:
        raise SystemExit(f"set {openmp.VARIABLE} to the directory of NPB-OMP (GMAP/NPB-CPP)")
    return existing(root / "bin" / f"{kernel.lower()}.{size}")


def built_mpi(kernel: str, size: str) -> Path:
    """The program of the MPI edition."""
    root = os.environ.get(MPI_VARIABLE)
    if not root:
        raise SystemExit(f"set {MPI_VARIABLE} to the directory of NPB3.4-MPI")
    return existing(Path(root, "bin", f"{kernel.lower()}.{size}.x"))


def existing(program: Path) -> Path:
    """`program`, absolute; SystemExit if it has not been built."""
    if not program.is_file():
        raise SystemExit(f"{program} is missing: build it there with NPB's own make")
    return program.resolve()


def pinned(*cpus: int) -> list[str]:
    """The words before a command that tie it, and what it starts, to CPUs."""
    return ["taskset", "--cpu-list", ",".join(map(str, cpus))]


def two_hosts(cpus: Sequence[int]) -> Hosts:
    """Hosts with a CPU each, whose agents run."""
    hosts = Hosts(2, memory=MEMORY, namespaces=True)
    try:
        for host, cpu in zip(hosts.all, cpus, strict=True):
            host.enter.extend(pinned(cpu))
        return hosts.start()
    except BaseException:
        hosts.close()
        raise


def ways(
    kernel: str, threads: Path, messages: Path, cpus: Sequence[int], hosts: Hosts, timeout: float
) -> dict[str, Callable[[], Took]]:
    """All ways to run a kernel, by column; `threads` and `messages` are its programs."""
    return {
        "2 CPUs": partial(native, threads, cpus, hosts, timeout),
        "1 CPU": partial(native, threads, cpus[:1], hosts, timeout),
        "2 hosts": partial(spread, threads, hosts, timeout),
        "MPI": partial(by_messages, messages, 2 if kernel in SQUARE else 1, hosts, timeout),
    }


def native(program: Path, cpus: Sequence[int], hosts: Hosts, timeout: float) -> Took:
    """Without Megalith, on some CPUs, each thread on one of its own if there are enough, as on two hosts.

    Unbound they might share one: the scheduler balances sessions, not threads, where others want the CPUs too.
    """
    return ended(
        lambda mark: subprocess.Popen(
            [*pinned(*cpus), str(program)],
            cwd=hosts.scratch,
            env=processes.environment(mark, OMP_PROC_BIND="true", **THREADS),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ),
        timeout,
    )


def spread(program: Path, hosts: Hosts, timeout: float) -> Took:
    """With Megalith, a thread on each host; Failed if one was not, or a host has more than its CPU."""
    report = hosts.base / "report.json"
    options = ("--quiet", "--spread", "--report", str(report))
    took = ended(
        lambda mark: hosts.start_run(
            [str(program)], options=options, cwd=hosts.scratch, env={**THREADS, processes.MARK: mark}
        ),
        timeout,
    )
    figures = cli.Report(report).hosts
    if any(host["cpus"] != 1 for host in figures):
        raise Failed(f"hosts have {[host['cpus'] for host in figures]} CPUs instead of one each")
    if not all(sum(host["faults"].values()) for host in figures):
        raise Failed("no thread was on the other host")
    return took


def by_messages(program: Path, per_host: int, hosts: Hosts, timeout: float) -> Took:
    """With Open MPI, `per_host` processes on each host."""
    return ended(
        lambda mark: hosts.spawn(
            hosts.home,
            mpi.command(hosts, program, per_host),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=hosts.scratch,
            env={"LC_ALL": "C", processes.MARK: mark, **mpi.ENV},
        ),
        timeout,
    )


def ended(start: Callable[[str], "subprocess.Popen[bytes]"], timeout: float) -> Took:
    """Starts a kernel, whose processes get a mark, and waits for it; nothing of it is left however it ends."""
    mark = processes.new_mark()
    begin = time.monotonic()
    try:
        outcome = cli.finish(start(mark), begin=begin, timeout=timeout)
    finally:
        processes.end_all(mark)
    if outcome.returncode != 0:
        raise Failed(f"exit {outcome.returncode}: {outcome.complaint[-3:]}")
    if not openmp.verified(outcome.stdout):
        raise Failed(f"not verified: {outcome.stdout.decode(errors='replace')[-1500:]}")
    said = _TIME.findall(outcome.stdout)
    if len(said) != 1:
        raise Failed(f"it tells {len(said)} times instead of one")
    return Took(float(said[0]), outcome.seconds)


def take(kernel: str, ways: Mapping[str, Callable[[], Took]], rounds: int) -> dict[str, list[Took] | None]:
    """All runs in each way; `None` where one failed, which is said on stderr."""
    runs: dict[str, list[Took]] = {name: [] for name in ways}

    def once(name: str) -> float | None:
        try:
            took = ways[name]()
        except (Failed, TimeoutError) as error:
            print(f"{kernel}, {name}: {error}", file=sys.stderr)
            return None
        runs[name].append(took)
        return took.npb

    medians = interleaved({name: partial(once, name) for name in ways}, rounds)
    return {name: None if medians[name] is None else runs[name] for name in ways}


def listed(runs: list[Took] | None) -> dict[str, list[float]] | None:
    """Seconds of all runs, for JSON."""
    if runs is None:
        return None
    return {"npb": [took.npb for took in runs], "wall": [round(took.wall, 3) for took in runs]}


def row(kernel: str, taken: Mapping[str, list[Took] | None]) -> str:
    """A line of the table."""
    two, one, messages = (taken[name] for name in ("2 hosts", "1 CPU", "MPI"))
    cells = [kernel, *(shown(taken[name]) for name in COLUMNS), ratio(two, one), ratio(two, messages)]
    return f"| {' | '.join(cells)} |"


def shown(runs: list[Took] | None) -> str:
    """NPB's seconds and those of the whole, medians."""
    if runs is None:
        return "failed"
    npb = median(took.npb for took in runs)
    return f"{f'{npb:.2f} s' if npb else '< 0.01 s'} ({median(took.wall for took in runs):.2f} s)"


def ratio(runs: list[Took] | None, others: list[Took] | None) -> str:
    """Of the medians of NPB's times, if it can be told."""
    if runs is None or others is None:
        return "—"
    ours, theirs = (median(took.npb for took in x) for x in (runs, others))
    return f"{ours / theirs:,.2f}" if theirs >= RATIO_MIN_S else "—"


if __name__ == "__main__":
    main()
