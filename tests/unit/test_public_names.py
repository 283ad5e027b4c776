"""What is public, and what the command line costs before it does anything."""

from __future__ import annotations

import subprocess
import sys

import pytest

import megalith
from cli_driver import Cli
from megalith import exceptions


def test_the_public_names_are_these() -> None:
    assert megalith.__all__ == [
        "AgentError",
        "Completed",
        "HostFigures",
        "HostLost",
        "HostsFileError",
        "JoinError",
        "Machine",
        "MegalithError",
        "MemoryExhausted",
        "PermissionMissing",
        "PolicyError",
        "ProgramNotExecutable",
        "ProgramNotFound",
        "Report",
        "SizeError",
        "__version__",
        "connect",
        "current_machine",
        "machine",
        "progress",
        "run",
    ]
    for name in megalith.__all__:
        assert getattr(megalith, name)
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        _ = megalith.walk


def test_every_exception_is_in_the_tree() -> None:
    for name in dir(exceptions):
        found = getattr(exceptions, name)
        if isinstance(found, type) and issubclass(found, Exception):
            assert issubclass(found, exceptions.MegalithError)
            assert name.startswith("_") or name in (exceptions.__doc__ or ""), name


def test_help_loads_nothing_heavy(cli: Cli) -> None:
    code = (
        "import sys; sys.argv = ['megalith', '--help']\n"
        "from megalith.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'rich', 'asyncio', 'ctypes', 'subprocess', 'megalith.runner'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=cli.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "run a program on the memory of many hosts" in done.stdout


def test_run_help_has_the_exit_codes(cli: Cli) -> None:
    text = cli("run", "--help").stdout
    for code in ("120  a host was lost", "125", "126", "127", "137  memory exhausted"):
        assert code in text


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout == f"megalith {megalith.__version__}\n"
