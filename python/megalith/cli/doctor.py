"""``megalith doctor``: whether this host can take part, and what mends it if not."""

from __future__ import annotations

import argparse
import sys

from megalith.cli import options


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "doctor",
        help="check whether this host can take part, and say what mends it",
        description="Checks this host. Ends with 0 if programs can run on it, with 1 if not.",
        allow_abbrev=False,
    )
    options.add_keys(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.set_defaults(main=main, parser=parser)


def main(arguments: argparse.Namespace) -> int:
    """Checks; returns the exit code."""
    from megalith import doctor

    checks = doctor.examine(arguments.keys)
    if arguments.json:
        print(doctor.as_json(checks))
    else:
        doctor.print_checks(checks, sys.stdout)
    return 0 if doctor.healthy(checks) else 1
