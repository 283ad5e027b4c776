"""The demonstration, step by step.

velvet is made deterministic by one thread (OMP_NUM_THREADS=1, OMP_THREAD_LIMIT=1), natively as on Megalith:
with more, it numbers nodes in the order in which threads come by, and no two runs of it are alike.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from megalith.demo.contigs import identical, read_contigs
from megalith.demo.data import Genome, Reads, find_reads, need_programs
from megalith.demo.estimate import Estimate, estimate
from megalith.demo.native import Measured, measure, require
from megalith.demo.swap import Swapped, run_under_swap
from megalith.demo.table import Phase, Result, result_text
from megalith.exceptions import Interrupted, MegalithError
from megalith.runner import Completed, run
from megalith.sizes import BUDGET_BYTES_MIN, PAGE_BYTES, ByteCount, format_size

K_MER: Final = "31"
PHASES: Final = ("velveth", "velvetg")
_SWAP_TIMES_OURS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to demonstrate."""

    genome: Genome
    coverage: int
    keep: Path | None
    hosts: int
    share: int
    swap: bool
    swap_limit_s: float


def run_demo(plan: Plan, *, as_json: bool) -> int:
    """Runs the whole demonstration; returns the exit code."""
    need_programs(*PHASES)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupt)
    with _work_directory(plan.keep) as directory:
        result = _demonstrate(plan, directory)
    if as_json:
        print(result.as_json())
    stream = sys.stderr if as_json else sys.stdout
    print(result_text(result, stream), end="", file=stream)
    return 0 if result.identical else 1


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    raise Interrupted(signum)


def environment() -> dict[str, str]:
    """This process's, and one thread for velvet."""
    return dict(os.environ) | {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}


def command(phase: str, output: Path, reads: Reads) -> list[str]:
    """The command line of one phase."""
    if phase == "velveth":
        return ["velveth", str(output), K_MER, *reads.velveth_words()]
    return ["velvetg", str(output), "-exp_cov", "auto", "-cov_cutoff", "auto"]


def budget_of(peak: int, share: int) -> ByteCount:
    """``share`` percent of ``peak``, in whole pages."""
    budget = peak * share // 100
    return ByteCount(max(BUDGET_BYTES_MIN, budget - budget % PAGE_BYTES))


def on_megalith(argv: Sequence[str], *, hosts: int, budget: ByteCount, log: Path) -> Completed:
    """Runs ``argv`` on ``hosts`` local hosts with its output in ``log``."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        done = run(
            argv,
            hosts=hosts,
            memory_per_host=budget,
            # Local hosts share this computer's processors: one that is starved is not lost.
            lost_after_s=15.0,
            env=environment(),
            stdout=output,
            stderr=output,
        )
    finally:
        os.close(output)
    if done.returncode == -signal.SIGINT:
        raise KeyboardInterrupt  # ^C went to the program, and was meant for us as well.
    if done.returncode != 0:
        raise MegalithError(f"{argv[0]} on Megalith ended with {done.returncode}; its output is in {log}")
    return done


def _demonstrate(plan: Plan, directory: Path) -> Result:
    say(f"velvet, unmodified, one thread (so that its output can be compared); everything is in {directory}")
    with _step("reads"):
        reads = find_reads(plan.genome, coverage=plan.coverage, directory=directory)
    say(f"  {reads.title}")
    if plan.genome == "ecoli":
        _foretell(plan, reads, directory)

    native, ours, swapped = directory / "native", directory / "megalith", directory / "swap"
    measured: dict[str, Measured] = {}
    for phase in PHASES:
        argv, log = command(phase, native, reads), directory / "native.log"
        with _step(f"{phase}, native"):
            measured[phase] = require(measure(argv, log=log, environment=environment()), argv, log)
        if phase == "velveth":
            # velvetg under swap starts from the same files, which velvetg itself adds to.
            shutil.copytree(native, swapped)

    done: dict[str, Completed] = {}
    for phase in PHASES:
        budget = budget_of(measured[phase].peak, plan.share)
        with _step(f"{phase}, {plan.hosts} hosts of {format_size(budget)} each"):
            argv = command(phase, ours, reads)
            done[phase] = on_megalith(argv, hosts=plan.hosts, budget=budget, log=directory / "megalith.log")

    phases = []
    for phase in PHASES:
        budget = budget_of(measured[phase].peak, plan.share)
        ours_s = done[phase].report.wall_s
        swap: Swapped | None = None
        if plan.swap:
            limit_s = min(plan.swap_limit_s, _SWAP_TIMES_OURS * ours_s)
            with _step(f"{phase}, native, limit {format_size(budget)} and swap, at most {limit_s:.0f} s"):
                output = swapped if phase == "velvetg" else directory / "swap-velveth"
                swap = run_under_swap(
                    command(phase, output, reads),
                    limit=budget,
                    peak=measured[phase].peak,
                    limit_s=limit_s,
                    log=directory / "swap.log",
                    environment=environment(),
                )
        was = measured[phase]
        phases.append(Phase(phase, was.wall_s, was.peak, ours_s, budget, done[phase].report, swap))
    return Result(
        genome=plan.genome,
        reads=reads.title,
        hosts=plan.hosts,
        share=plan.share,
        phases=tuple(phases),
        native=read_contigs(native / "contigs.fa"),
        identical=identical(native / "contigs.fa", ours / "contigs.fa"),
    )


def _foretell(plan: Plan, reads: Reads, directory: Path) -> None:
    """Says how long it will take, from a short run of the same programs on the plasmids."""
    sample = find_reads("plasmids", coverage=plan.coverage, directory=directory)
    calibration = directory / "calibration"
    calibration.mkdir()
    native_s = ours_s = 0.0
    with _step("calibration on a small genome"):
        for phase in PHASES:
            argv, log = command(phase, calibration / "native", sample), calibration / "log"
            was = require(measure(argv, log=log, environment=environment()), argv, log)
            argv = command(phase, calibration / "megalith", sample)
            budget = budget_of(was.peak, plan.share)
            ours_s += on_megalith(argv, hosts=plan.hosts, budget=budget, log=log).report.wall_s
            native_s += was.wall_s
    foretold: Estimate = estimate(
        bases=reads.bases(),
        sample_bases=sample.bases(),
        sample_native_s=native_s,
        sample_megalith_s=ours_s,
        swap_limit_s=plan.swap_limit_s * len(PHASES) if plan.swap else 0.0,
    )
    say(f"  {foretold}")


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _step(title: str) -> Iterator[None]:
    print(f"- {title} … ", end="", file=sys.stderr, flush=True)
    started_s = time.monotonic()
    try:
        yield
    except BaseException:
        say("failed")
        raise
    say(f"{time.monotonic() - started_s:.1f} s")


@contextmanager
def _work_directory(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="megalith-demo-", dir="/var/tmp") as name:
            yield Path(name)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MegalithError(f"--keep {keep}: {error.strerror}") from None
    if any(keep.iterdir()):
        raise MegalithError(f"--keep {keep}: not empty")
    yield keep.absolute()
