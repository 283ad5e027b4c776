"""Functions that tests have workers call. Workers import them from here, by name."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path


class Unpicklable(Exception):
    """It has a lock in it, so to speak."""

    def __reduce__(self) -> str:
        raise TypeError("not me")


class NotUnpicklable(Exception):
    """As many are: its arguments are not those of its `__init__`."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class NoReturn:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (fail, ("no way back",))


def fail(message: str) -> None:
    raise ValueError(message)


def raise_unpicklable() -> None:
    raise Unpicklable("the story of it")


def raise_not_unpicklable() -> None:
    raise NotUnpicklable("one", "two")


def no_return() -> NoReturn:
    return NoReturn()


def kill_me(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def touch_and_wait(path: Path, seconds: float = 60) -> int:
    """Says that it runs, with its process id, then waits."""
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(str(os.getpid()))
    part.rename(path)
    time.sleep(seconds)
    return os.getpid()


def fork_and_die(path: Path) -> None:
    """Leaves a child behind that would hold the worker's files, and dies."""
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    path.write_text(str(child))
    kill_me()


def wait_for(path: Path) -> bool:
    """Until another task has made that file."""
    end = time.monotonic() + 30
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def session() -> tuple[int, int]:
    return os.getpid(), os.getsid(0)


def host_of_me() -> str:
    """The name that `Named` has given this worker."""
    return os.environ["TEST_HOST"]


def slow_host_of_me(seconds: float) -> str:
    time.sleep(seconds)
    return os.environ["TEST_HOST"]


def spawn_sleeper() -> int:
    """A program that would hold what it inherits."""
    return subprocess.Popen(["sleep", "60"]).pid
