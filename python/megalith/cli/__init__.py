"""The command line. Each command is a module; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from megalith import __version__
from megalith.cli import agent, demo, doctor, init, run, token
from megalith.exceptions import MegalithError
from megalith.tell import tell

USAGE_ERROR = 2
NOT_STARTED = 125


class _Parser(argparse.ArgumentParser):
    """One line says what is wrong; ``--help`` says the rest."""

    def error(self, message: str) -> NoReturn:
        # `run` shares its exit codes with the program, whose own 2 must mean the program's.
        code = NOT_STARTED if self.prog.endswith(" run") else USAGE_ERROR
        self.exit(code, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="megalith",
        description="Many ordinary Linux hosts as one machine.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"megalith {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (run, agent, init, token, doctor, demo):
        command.add_parser(commands)
    return parser


def _occupy_standard_files() -> None:
    """Sees to it that no pipe or socket of ours gets number 0, 1 or 2, where these are closed.

    What is opened here is closed on exec, so a program finds them closed as well, as natively.
    """
    while (lowest := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        pass
    os.close(lowest)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    _occupy_standard_files()
    words = list(sys.argv[1:] if argv is None else argv)
    # What follows the first "--" is the program's, whatever it looks like.
    at = words.index("--") if words[:1] == ["run"] and "--" in words else len(words)
    arguments, unknown = _parser().parse_known_args(words[:at])
    if unknown:
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if at < len(words):
        arguments.command += words[at:] if arguments.command else words[at + 1 :]
    try:
        code: int = arguments.main(arguments)
    except MegalithError as error:
        tell(f"megalith: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return code
