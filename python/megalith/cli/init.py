"""``megalith init``: the keys with which hosts know each other."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from megalith.cli import options
from megalith.exceptions import KeysError

EPILOG = """\
A cluster is made on one host, and others join with what 'megalith token' prints there:

  a$ megalith init --name a
  a$ megalith token b | ssh b megalith init --join -

Where keys are: /etc/megalith of root, ~/.config/megalith of others; --keys DIR for another place.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "init",
        help="make a cluster's keys, join one, renew this host's",
        description="Makes a cluster of which this host is the first, or one of the things below.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--join", metavar="FILE", help="join with the token in FILE, or standard input (-)")
    what.add_argument("--renew", action="store_true", help="a new certificate for this host, which made the cluster")
    what.add_argument("--rotate", action="store_true", help="a new CA; the old one is trusted, too, until --forget-old")
    what.add_argument("--forget-old", action="store_true", help="trust the newest CA alone")
    parser.add_argument(
        "--name", type=options.host_name, help="this host's name in hosts files (default: the computer's)"
    )
    parser.add_argument("--force", action="store_true", help="with --join: replace the keys that are here")
    options.add_keys(parser)
    parser.set_defaults(main=main, parser=parser)


def main(arguments: argparse.Namespace) -> int:
    """Makes what is asked for; returns the exit code."""
    from megalith import keys

    directory: Path = arguments.keys or keys.default_directory()
    makes = not (arguments.join or arguments.renew or arguments.rotate or arguments.forget_old)
    if arguments.name is not None and not makes:
        arguments.parser.error("--name is for a new cluster; a host's name is in its certificate")
    if arguments.force and not arguments.join:
        arguments.parser.error("--force is for --join")
    if arguments.join:
        name = keys.join(directory, _token(arguments.join), force=arguments.force)
        print(f"this host is {name}; its keys are in {directory}")
    elif arguments.renew:
        print(f"host {keys.renew(directory)} has a new certificate; an agent that runs takes it by itself")
    elif arguments.rotate:
        keys.rotate(directory)
        print("there is a new CA, and this host has a certificate of it; the old one is still trusted.")
        print("for each other host: megalith token NAME | ssh NAME megalith init --join - --force")
        print("when all have been through, on each: megalith init --forget-old")
    elif arguments.forget_old:
        count = keys.forget_old(directory)
        print(f"{count} old CA{'' if count == 1 else 's'} forgotten; the one of this host's certificate is trusted")
    else:
        name = arguments.name or os.uname().nodename.partition(".")[0]
        keys.create(directory, name)
        print(f"a new cluster, of which this host is {name}; its keys are in {directory}")
        print("for each other host: megalith token NAME | ssh NAME megalith init --join -")
    return 0


def _token(file: str) -> str:
    from megalith.keys import FILE_BYTES_MAX

    try:
        if file == "-":
            return sys.stdin.buffer.read(FILE_BYTES_MAX + 1).decode(errors="replace")
        with open(file, "rb") as opened:
            return opened.read(FILE_BYTES_MAX + 1).decode(errors="replace")
    except OSError as error:
        raise KeysError(f"--join {file}: {error.strerror}") from None
