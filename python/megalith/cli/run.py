"""``megalith run``: a program on the memory of many hosts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from megalith.cli import options
from megalith.exceptions import HostLost, MegalithError, MemoryExhausted

if TYPE_CHECKING:
    from megalith.report import Report
    from megalith.runner import Completed, Options

EPILOG = """\
where threads run:
  --auto    (default) threads start at home, and the scheduler moves some to other hosts when the home
            host's CPUs are full, and back when that does not pay. Where no other host has CPUs to offer
            (one host, --local) it is --expand.
  --expand  on the home host, all of them; other hosts give memory alone. System calls cost what they
            cost natively.
  --spread  new threads start on all hosts in turn, as many as each has CPUs, and stay there. It pays for
            threads that compute, mostly each on memory of its own.
With --auto and --spread, once a program makes a second thread every system call of it is caught (some
microseconds each), and those of a thread that is away are made at home. A program sees the CPUs and memory
of all hosts (nproc, lscpu, free, numactl -H), each host as a NUMA node; hosts of --local share this
computer's CPUs. OMP_WAIT_POLICY is passive unless it is set.

exit codes:
  the program's own, or 128 + n if signal n ended it; and
  120  a host was lost; the program was killed
  125  Megalith could not start the program
  126  the program was found and cannot be run
  127  there is no such program
  137  memory exhausted: the hosts' budgets together were too small (a line says so),
       or the program was killed by somebody else

Memory: every host keeps to its budget. SIZE is like 512M, 2G, 1.5GiB, 2T (binary units).
With neither --local nor --hosts the machine is this computer alone (--local 1): cutting one
computer's memory into several hosts gains nothing but a trial of how it works.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "run",
        help="run a program on the memory of many hosts",
        usage="megalith run [options] -- PROGRAM [ARGUMENT …]",
        description="Runs an unmodified program; its memory spreads over the hosts of the machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--local",
        metavar="N",
        type=options.host_count,
        help="N hosts on this computer, for the length of this run (default: 1)",
    )
    which.add_argument("--hosts", metavar="FILE", type=Path, help="the hosts in FILE (TOML), whose agents already run")
    parser.add_argument(
        "--memory-per-host",
        metavar="SIZE",
        type=options.budget,
        help="each local host's budget (default: three quarters of the available memory, shared equally)",
    )
    parser.add_argument(
        "--home", metavar="NAME", help="the home host, if not the first in FILE; its agent runs on this computer"
    )
    threads = parser.add_mutually_exclusive_group()
    threads.add_argument(
        "--auto",
        dest="threads",
        action="store_const",
        const="auto",
        help="threads move to other hosts when that pays (default)",
    )
    threads.add_argument("--expand", dest="threads", action="store_const", const="expand", help="threads stay at home")
    threads.add_argument(
        "--spread", dest="threads", action="store_const", const="spread", help="threads start on all hosts"
    )
    threads.add_argument(
        "--threads-on",
        metavar="HOST,…",
        type=options.host_names,
        default=[],
        help="threads start on these hosts (the first thread is at home all the same)",
    )
    parser.add_argument(
        "--policy",
        metavar="MODULE:CLASS",
        help="what decides which threads move (megalith.scheduler), instead of --auto's own",
    )
    parser.add_argument("--explain", action="store_true", help="say on stderr where threads go, and why")
    parser.add_argument(
        "--hot", action="store_true", help="after the run, show the pages that hosts took from each other most"
    )
    parser.add_argument("--report", metavar="FILE", type=Path, help="write the report to FILE, as JSON")
    parser.add_argument("--json", action="store_true", help="the report on stderr is one line of JSON")
    parser.add_argument("--quiet", action="store_true", help="no live display and no report on stderr")
    parser.add_argument(
        "--lost-after",
        metavar="SEC",
        type=options.seconds,
        default=3.0,
        help="a host silent for SEC seconds is lost (default: 3)",
    )
    parser.add_argument(
        "--heartbeat",
        metavar="SEC",
        type=options.seconds,
        default=0.5,
        help="hosts show that they live every SEC seconds (default: 0.5)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(main=main, parser=parser, threads=None)


def main(arguments: argparse.Namespace) -> int:
    """Runs the program; returns the exit code."""
    parser: argparse.ArgumentParser = arguments.parser
    if not arguments.command:
        parser.error("name a program after '--'")
    if arguments.memory_per_host is not None and arguments.hosts is not None:
        parser.error("--memory-per-host is for --local; agents of a hosts file have their own --memory")
    if arguments.home is not None and arguments.hosts is None:
        parser.error("--home is for --hosts; with --local the first host is home")
    if arguments.heartbeat * 2 > arguments.lost_after:
        parser.error("--lost-after must be at least twice --heartbeat")

    from megalith.runner import Options
    from megalith.scheduler import load_policy

    report_file = _open_report(arguments.report)
    try:
        completed, report, error = _run(
            arguments.command,
            Options(
                hosts=arguments.hosts or arguments.local or 1,
                memory_per_host=arguments.memory_per_host,
                home=arguments.home,
                threads=arguments.threads or ("spread" if arguments.threads_on else "auto"),
                threads_on=arguments.threads_on,
                policy=load_policy(arguments.policy) if arguments.policy else None,
                explain=arguments.explain,
                hot=arguments.hot,
                heartbeat_s=arguments.heartbeat,
                lost_after_s=arguments.lost_after,
                adopt_orphans=True,
            ),
            live=not arguments.quiet,
        )
        if report_file is not None:
            report_file.write(report.as_json() + "\n")
    finally:
        if report_file is not None:
            report_file.close()
    _show(report, error, as_json=arguments.json, quiet=arguments.quiet, hot=arguments.hot)
    return report.exit_code if completed is None else completed.report.exit_code


def _run(command: list[str], plan: Options, *, live: bool) -> tuple[Completed | None, Report, MegalithError | None]:
    import dataclasses

    from megalith.live import LiveDisplay
    from megalith.runner import run_with

    with LiveDisplay.on_stderr(wanted=live) as display:
        try:
            completed = run_with(command, dataclasses.replace(plan, watch=display.show))
        except (HostLost, MemoryExhausted) as error:
            return None, error.report, error
    return completed, completed.report, None


def _open_report(path: Path | None) -> TextIO | None:
    """Opened before the run: a report that cannot be written is better known now than in two days."""
    if path is None:
        return None
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise MegalithError(f"--report {path}: {error.strerror}") from None


def _show(report: Report, error: MegalithError | None, *, as_json: bool, quiet: bool, hot: bool) -> None:
    from megalith.tell import tell

    if as_json:
        tell(report.as_json())
    elif not quiet:
        from megalith.render import report_text

        tell(report_text(report, sys.stderr).rstrip())
    if hot and not as_json:
        from megalith.render import hot_text

        tell(hot_text(report, sys.stderr).rstrip())
    if error is not None:
        tell(f"megalith: {error}")
