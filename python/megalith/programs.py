"""Unmodified programs beside the arrays of a machine: ``megalith run`` on the same hosts, with subprocess's manners.

The program has a machine of its own, made of the same agents: its memory and the arrays' come out of the same budgets.
A process of ``megalith run`` stands between it and us, so a timeout, ^C or our own death ends it as ``run``'s does.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from megalith.exceptions import (
    AgentError,
    HostLost,
    MemoryExhausted,
    ProgramNotExecutable,
    ProgramNotFound,
)
from megalith.hostsfile import Host
from megalith.launch import find_program
from megalith.placement import Threads
from megalith.report import Report


def run(
    hosts: Sequence[Host],
    args: Sequence[str | os.PathLike[str]],
    threads: Threads,
    check: bool,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """:meth:`megalith.Machine.run`, on ``hosts``, home first. ``options`` are those of :func:`subprocess.run`."""
    if isinstance(args, str) or not args:
        raise ValueError("args is a program and its arguments, as in ['velveth', 'out', '21']; there is no shell")
    if threads not in get_args(Threads):
        raise ValueError(f"threads is one of {', '.join(get_args(Threads))}, not {threads!r}")
    words = [os.fspath(word) for word in args]
    _find(words, options.get("cwd"), options.get("env"))
    with tempfile.TemporaryDirectory(prefix="megalith-run-") as directory:
        file, report = Path(directory, "hosts.toml"), Path(directory, "report.json")
        file.write_text(hosts_file(hosts), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "megalith", "run", "--quiet", "--hosts", str(file)]
        command += ["--report", str(report), f"--{threads}", "--", *words]
        try:
            done = subprocess.run(command, check=False, **options)
        except subprocess.TimeoutExpired as error:
            error.cmd = args
            raise
        done.args = args
        said = report.read_text(encoding="utf-8") if report.exists() else ""
    done.returncode = _returncode(words[0], done, Report.from_json(said) if said else None)
    if check:
        done.check_returncode()
    return done


def _find(words: list[str], directory: str | os.PathLike[str] | None, environment: Mapping[str, str] | None) -> None:
    """Raises what :mod:`subprocess` does if there is no such program."""
    program = words[0]
    if "/" in program and directory is not None:
        program = os.path.join(directory, program)
    try:
        find_program([program], os.environ if environment is None else environment)
    except ProgramNotFound:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), words[0]) from None
    except ProgramNotExecutable as error:
        raise PermissionError(errno.EACCES, str(error).rpartition(": ")[2], words[0]) from None


def hosts_file(hosts: Sequence[Host]) -> str:
    """A hosts file (:mod:`megalith.hostsfile`) that has these hosts.

    >>> print(hosts_file([Host("a", "127.0.0.1:7070", None, Path("/run/a"))]), end="")
    [[host]]
    name = "a"
    address = "127.0.0.1:7070"
    directory = "/run/a"
    """
    rows = []
    for host in hosts:
        # TOML's basic strings have JSON's escapes.
        fields = {"name": host.name, "address": host.address, "directory": str(host.directory)}
        rows.append("[[host]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()))
    return "\n".join(rows)


def _returncode(program: str, done: subprocess.CompletedProcess[Any], report: Report | None) -> int:
    """The program's, as :mod:`subprocess` counts it. Raises as :meth:`megalith.Machine.run`, if it has none."""
    if report is None:
        if done.returncode < 0:
            raise AgentError(f"{program} was run by a process that signal {-done.returncode} ended, and ended with it")
        raise AgentError(f"{program} was not started; a line on standard error says why{_last_line(done.stderr)}")
    why = report.error or report.ended_by
    match report.ended_by:
        case "signal":
            return 128 - report.exit_code
        case "host lost":
            raise HostLost(why, report=report)
        case "memory exhausted":
            raise MemoryExhausted(why, report=report)
        case "exit":
            return report.exit_code
        case "not started":
            raise AgentError(f"{program} was not started: {why}")


def _last_line(captured: Any) -> str:
    text = captured.decode(errors="replace") if isinstance(captured, bytes) else captured or ""
    lines = text.strip().splitlines()
    return f": {lines[-1]}" if lines else ""
