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
    parser.add_argument(
        "--plaintext",
        action="store_true",
        help="speak plaintext with hosts that have no keys: for networks on which everybody is trusted",
    )
    options.add_keys(parser)
    # Between `megalith run --local` and its agents: see megalith.local.
    parser.add_argument("--ready-fd", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--stop-fd", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--cluster-fd", type=int, default=None, help=argparse.SUPPRESS)
    parser.set_defaults(main=main, parser=parser)


def main(arguments: argparse.Namespace) -> int:
    """Serves; returns the exit code."""
    parser: argparse.ArgumentParser = arguments.parser
    if arguments.dir is None and arguments.listen.endswith(":0"):
        parser.error("--listen with port 0 needs --dir: the directory's name comes from the port")
    if arguments.plaintext and arguments.keys is not None:
        parser.error("--plaintext does without --keys")

    from megalith import _core
    from megalith.paths import default_directory, make_private

    keys = _keys(arguments)
    directory: Path = (arguments.dir or default_directory(arguments.listen)).absolute()
    make_private(directory)
    if keys is not None:
        _raise_file_limit()
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
            cluster=_cluster(arguments),
            keys=None if keys is None else str(keys),
            ready_fd=ready_write,
            stop_fd=stop_read,
            # -P: as in megalith.local.
            worker=[sys.executable, "-P", "-m", "megalith.worker"],
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


def _keys(arguments: argparse.Namespace) -> Path | None:
    """Where the keys are that this agent needs, or ``None`` if it speaks plaintext.

    Hosts on this computer alone do without: nobody is between them, and the id of their cluster keeps others out.
    """
    from megalith import keys
    from megalith.exceptions import KeysError
    from megalith.hostsfile import is_loopback
    from megalith.tell import tell

    alone = is_loopback(arguments.listen)
    if arguments.plaintext:
        if not alone:
            tell(
                f"megalith agent: PLAINTEXT on {arguments.listen}: whoever reaches it can run programs as this user,"
                " and whoever is on the way reads and changes every page; with keys (megalith init) nobody can"
            )
        return None
    if alone and arguments.keys is None:
        return None
    directory = Path(arguments.keys or keys.default_directory()).absolute()
    if not keys.present(directory):
        raise KeysError(
            f"{arguments.listen} is for other hosts, and there are no keys in {directory}: make a cluster with"
            " 'megalith init' or join one with 'megalith init --join FILE'; or add --plaintext where you trust"
            " everybody on the network"
        )
    return directory


def _raise_file_limit() -> None:
    """With TLS each channel of a thread that is elsewhere takes descriptors of the agent's: it gets all it may have."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _cluster(arguments: argparse.Namespace) -> str:
    """The cluster's id: a secret of the run where hosts are local, so it does not stand in the command line."""
    if arguments.cluster_fd is None:
        return str(arguments.cluster)
    with os.fdopen(arguments.cluster_fd, "r") as file:
        return file.read()


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
    from megalith.sizes import format_size

    address = json.loads(line)["address"]
    print(f"megalith agent: {name} listens on {address} with {format_size(budget)}", file=sys.stderr, flush=True)
