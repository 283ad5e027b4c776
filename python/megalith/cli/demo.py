"""``megalith demo``: a real genome assembly, natively, on Megalith with less memory a host, and under swap."""

from __future__ import annotations

import argparse
from pathlib import Path

from megalith.cli import options

GENOMES = ("lambda", "plasmids", "ecoli")


def _share(text: str) -> int:
    if not text.isdecimal() or not 10 <= int(text) <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage from 10 to 60")
    return int(text)


def _coverage(text: str) -> int:
    if not text.isdecimal() or not 5 <= int(text) <= 200:
        raise argparse.ArgumentTypeError(f"{text!r} is not a coverage from 5 to 200")
    return int(text)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "demo",
        help="assemble a real genome on hosts that are each too small for it",
        description="Assembles a genome with Debian's own velvet: natively; on several local hosts that each"
        " have a share of the memory which that took; and natively under the same limit, with swap for the"
        " rest. Ends with 1 if the contigs are not identical, byte for byte.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--genome",
        choices=GENOMES,
        default="lambda",
        help="lambda, a phage (minutes; default), plasmids (some more), or ecoli (an hour; says beforehand how long)",
    )
    parser.add_argument(
        "--coverage", metavar="N", type=_coverage, default=20, help="of ecoli, by simulated reads (default: 20)"
    )
    parser.add_argument("--keep", metavar="DIR", type=Path, help="work in DIR and leave everything there")
    parser.add_argument(
        "--hosts-count", metavar="N", type=options.host_count, default=3, help="hosts on this computer (default: 3)"
    )
    parser.add_argument(
        "--share",
        metavar="PERCENT",
        type=_share,
        default=60,
        help="each host's memory, as a share of what the phase takes natively; 60 at most (default: 60)",
    )
    parser.add_argument("--no-swap", action="store_true", help="leave out the comparison with swap")
    parser.add_argument(
        "--swap-limit",
        metavar="SEC",
        type=options.seconds,
        default=120.0,
        help="stop the comparison after SEC seconds a phase, or ten times our own time if that is less (default: 120)",
    )
    parser.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")
    parser.set_defaults(main=main, parser=parser)


def main(arguments: argparse.Namespace) -> int:
    """Runs the demonstration; returns the exit code."""
    from megalith.demo.assembly import Plan, run_demo

    plan = Plan(
        genome=arguments.genome,
        coverage=arguments.coverage,
        keep=arguments.keep,
        hosts=arguments.hosts_count,
        share=arguments.share,
        swap=not arguments.no_swap,
        swap_limit_s=arguments.swap_limit,
    )
    return run_demo(plan, as_json=arguments.json)
