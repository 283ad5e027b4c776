"""Fixtures that all tests share."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import processes
from hosts import Hosts, HostsFactory, why_no_limits, why_no_namespaces


def pytest_configure() -> None:
    """What we start has the signals of a terminal's foreground, even where we ourselves run under nohup."""
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _why_not_built() -> str | None:
    """Asks a fresh interpreter, as the command line will be one: this one may have a fake in its place."""
    asked = subprocess.run(
        [sys.executable, "-P", "-c", "import megalith._core"], capture_output=True, text=True, timeout=60, check=False
    )
    return None if asked.returncode == 0 else f"{asked.stderr.strip().splitlines()[-1]}; try: make build"


@pytest.fixture(scope="session")
def megalith() -> None:
    """Megalith is built. If not, tests that need it are skipped, but fail where nobody would notice (CI=true)."""
    if reason := _why_not_built():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def hosts(megalith: None) -> Iterator[HostsFactory]:
    """A factory of hosts that are gone when the test ends, however it ends."""
    with ExitStack() as made:

        def make(
            count: int,
            *,
            memory: str,
            limit_bytes: int | None = None,
            need_namespaces: bool = False,
            namespaces: bool | None = None,
        ) -> Hosts:
            reason = why_no_limits() if limit_bytes is not None else why_no_namespaces() if need_namespaces else None
            if reason:
                pytest.skip(reason)
            return made.enter_context(
                Hosts(count, memory=memory, limit_bytes=limit_bytes, namespaces=namespaces)
            ).start()

        yield make


@pytest.fixture
def mark() -> Iterator[str]:
    """A mark for the environment of all that the test starts; what still runs at its end is killed."""
    value = processes.new_mark()
    yield value
    processes.end_all(value)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty directory, with a short path and room for large files."""
    return tmp_path
