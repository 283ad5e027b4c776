"""``megalith agent``: this host's part in machines, in the foreground until a signal ends it.

While the agent serves, Python's interpreter is out of the way (the GIL is released), so a signal cannot
run Python code: the C half of Python's handler writes a byte to a pipe (``signal.set_wakeup_fd``), and
that pipe is what the agent watches.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from megalith.cli import options

if TYPE_CHECKING:
    from megalith.sizes import ByteCount

_ORPHAN_GRACE_S: Final = 10.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "agent",
        help="contribute this host's memory to machines",
        description="Serves in the foreground until SIGTERM or ^C. One agent runs on each host.",
        allow_abbrev=False,
    )
    parser.add_argument("--name", required=True, type=options.host_name, help="this host's name in hosts files")
    parser.add_argument(
        "--listen", required=True, metavar="ADDRESS:PORT", type=options.listen_address, help="for other agents"
    )
    parser.add_argument(
        "--memory", required=True, metavar="SIZE", type=options.budget, help="this host's budget, such as 2T"
    )
    parser.add_argument(
        "--dir",
        metavar="DIR",
        type=Path,
        help="where the sockets are (default: $XDG_RUNTIME_DIR/megalith/ADDRESS:PORT,"
        " or /tmp/megalith-UID/ADDRESS:PORT)",
    )
    parser.add_argument(
        "--cluster",
        metavar="ID",
        default="default",
        help="agents of another cluster are refused (default: %(default)s)",
    )
    # Between `megalith run --local` and its agents: see megalith.local.
    parser.add_argument("--ready-fd", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--stop-fd", type=int, default=None, help=argparse.SUPPRESS)
    parser.set_defaults(main=main, parser=parser)


def main(arguments: argparse.Namespace) -> int:
    """Serves; returns the exit code."""
    parser: argparse.ArgumentParser = arguments.parser
    if arguments.dir is None and arguments.listen.endswith(":0"):
        parser.error("--listen with port 0 needs --dir: the directory's name comes from the port")

    from megalith import _core
    from megalith.paths import default_directory, make_private

    directory: Path = (arguments.dir or default_directory(arguments.listen)).absolute()
    make_private(directory)
    stop_read, stop_write = os.pipe()
    _stop_on_signals(stop_write)
    parent = os.getppid()
    if arguments.stop_fd is not None:
        _stop_with_parent(arguments.stop_fd, stop_write)
    ready_read, ready_write = os.pipe()
    announcer = threading.Thread(
        target=_announce,
        args=(ready_read, arguments.name, arguments.memory, arguments.ready_fd),
        daemon=True,
    )
    announcer.start()
    try:
        _core.serve_agent(
            name=arguments.name,
            listen=arguments.listen,
            directory=str(directory),
            budget=arguments.memory,
            cluster=arguments.cluster,
            ready_fd=ready_write,
            stop_fd=stop_read,
        )
    except OSError as error:
        print(f"megalith agent: {arguments.listen}: {error.strerror or error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        print(f"megalith agent: {error}", file=sys.stderr)
        return 1
    finally:
        with suppress(OSError):
            directory.rmdir()  # Stays if it holds anything that is not the agent's.
        if arguments.stop_fd is not None:
            _clean_after(parent, directory.parent)
    return 0


def _stop_on_signals(stop_write: int) -> None:
    os.set_blocking(stop_write, False)
    signal.set_wakeup_fd(stop_write, warn_on_full_buffer=False)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: None)


def _stop_with_parent(stop_fd: int, stop_write: int) -> None:
    """Ends this agent when ``stop_fd`` reaches its end: its parent wishes it so, or is dead."""
    from megalith.processes import die_with_parent

    os.set_inheritable(stop_fd, False)
    die_with_parent(signal.SIGTERM)

    def watch() -> None:
        os.read(stop_fd, 1)
        with suppress(BlockingIOError):
            os.write(stop_write, b"\0")
        # Nobody may be left to kill an agent that does not find its end.
        time.sleep(_ORPHAN_GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _clean_after(parent: int, directory: Path) -> None:
    """Takes away what a run that was killed could not (see megalith.local)."""
    import shutil

    from megalith.processes import is_ending

    if (os.getppid() != parent or is_ending(parent)) and directory.name.startswith("megalith-"):
        shutil.rmtree(directory, ignore_errors=True)


def _announce(ready_read: int, name: str, budget: ByteCount, ready_fd: int | None) -> None:
    """Passes the agent's word that it is ready on to whoever waits for it."""
    with os.fdopen(ready_read, "rb") as ready:
        line = ready.readline()
    if not line:
        return
    if ready_fd is not None:
        os.write(ready_fd, line)
        os.close(ready_fd)
        return
    from megalith.hostsfile import is_loopback
    from megalith.sizes import format_size

    address = json.loads(line)["address"]
    print(f"megalith agent: {name} listens on {address} with {format_size(budget)}", file=sys.stderr, flush=True)
    if not is_loopback(address):
        print(
            "megalith agent: traffic between hosts is not encrypted yet: use a network you trust",
            file=sys.stderr,
            flush=True,
        )
