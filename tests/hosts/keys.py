"""Keys of hosts that tests make: one cluster for a whole session, made with the command line, as users make theirs."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import cli

_FIRST = "a"


def of(name: str) -> Path:
    """The directory with the keys of the host `name`."""
    return _joined(name) if name != _FIRST else _made()


def fresh(name: str, directory: Path) -> Path:
    """Other keys for that host, of the same cluster, in `directory`."""
    token = directory.with_suffix(".token")
    token.write_bytes(_command("token", name, "--keys", str(_made())))
    _command("init", "--join", str(token), "--keys", str(directory))
    return directory


@functools.cache
def _base() -> Path:
    base = Path(tempfile.mkdtemp(prefix="mgl-keys-", dir="/tmp"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    return base


@functools.cache
def _made() -> Path:
    directory = _base() / _FIRST
    _command("init", "--name", _FIRST, "--keys", str(directory))
    return directory


@functools.cache
def _joined(name: str) -> Path:
    return fresh(name, _base() / name)


def _command(*words: str) -> bytes:
    outcome = cli.run(*words, timeout=60)
    if outcome.returncode != 0:
        raise RuntimeError(f"megalith {' '.join(words)}: {outcome.complaint}")
    return outcome.stdout
