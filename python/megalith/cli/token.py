"""``megalith token``: the key and certificate of a host that is to join, as one line."""

from __future__ import annotations

import argparse
from pathlib import Path

from megalith.cli import options
from megalith.tell import tell


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "token",
        help="print the keys of a host that is to join the cluster",
        description="Prints one line, a secret, with which another host joins: megalith init --join. It is made on"
        " the host where the cluster was made.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", type=options.host_name, help="that host's name in hosts files")
    options.add_keys(parser)
    parser.set_defaults(main=main, parser=parser)


def main(arguments: argparse.Namespace) -> int:
    """Prints it; returns the exit code."""
    from megalith import keys

    directory: Path = arguments.keys or keys.default_directory()
    print(keys.token(directory, arguments.name))
    tell(f"megalith: this is a secret: whoever has it can be host {arguments.name}, for a year")
    return 0
