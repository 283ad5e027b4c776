"""Types of options: each turns a word into a value, or says in one line why it cannot."""

from __future__ import annotations

import argparse
from pathlib import Path

from megalith.exceptions import SizeError
from megalith.hostsfile import HOSTS_MAX, NAME, valid_address
from megalith.sizes import ByteCount, parse_budget


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Adds ``--keys DIR``."""
    parser.add_argument(
        "--keys",
        metavar="DIR",
        type=Path,
        help="where this host's keys are (default: /etc/megalith of root, ~/.config/megalith of others)",
    )


def budget(text: str) -> ByteCount:
    """A host's memory."""
    try:
        return parse_budget(text)
    except SizeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def host_count(text: str) -> int:
    """A number of hosts on this computer."""
    if not text.isdecimal() or not 1 <= int(text) <= HOSTS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hosts from 1 to {HOSTS_MAX}")
    return int(text)


def seconds(text: str) -> float:
    """A time span that is worth waiting for."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.01 to 86400")
    return value


def host_names(text: str) -> list[str]:
    """Names of hosts, separated by commas."""
    return [host_name(word) for word in text.split(",")]


def host_name(text: str) -> str:
    """A host's name."""
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name: letters, digits, '.', '_' and '-' only, at most 63")
    return text


def listen_address(text: str) -> str:
    """ADDRESS:PORT to listen on; port 0 lets the kernel choose."""
    if not valid_address(text, port_min=0):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address; write it like 10.0.0.1:7070")
    return text
