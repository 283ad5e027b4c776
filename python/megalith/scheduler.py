"""What moves threads between hosts: a policy is shown the machine and says who is to go where, and why.

A policy decides and does nothing: state in, moves out, no clock and no I/O of its own, so it can be tested on
machines that are not there. Write your own (``megalith run --policy MODULE:CLASS``):

    class Mine:
        def decide(self, view: MachineView) -> list[Move]:
            return [Move(t.pid, t.tid, 1, "because") for t in view.threads if t.name == "worker"]

It is asked once a heartbeat, or every ``interval_s`` seconds if it has an attribute of that name.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final, Protocol

from megalith.exceptions import PolicyError

HOME: Final = 0


@dataclass(frozen=True, slots=True)
class HostView:
    """A host as a policy sees it. Rates are those of the last heartbeat."""

    number: int
    """Home is 0."""
    name: str
    cpus: int
    load: float = 0.0
    """CPUs that were busy, with whatever."""
    taken_per_s: float = 0.0
    """Pages that other hosts took from it, to write or to read what was written here."""
    dwelled_per_s: float = 0.0
    """How often others had to wait for such a page, because it had only just come."""
    came_per_s: tuple[float, ...] = ()
    """Pages that came from each host, by number, as far as any ever did."""


@dataclass(frozen=True, slots=True)
class ThreadView:
    """A thread as a policy sees it."""

    pid: int
    tid: int
    name: str
    host: int
    """Where it runs."""
    cpu: float = 0.0
    """CPUs it used since the last heartbeat: from 0 to 1."""
    moves: int = 0
    waits: tuple[float, ...] = ()
    """By host: the part of the time, since the last heartbeat, in which it waited for pages that came from there."""


@dataclass(frozen=True, slots=True)
class PageView:
    """A page that hosts take from each other."""

    pid: int
    address: int
    moves_per_s: float


@dataclass(frozen=True, slots=True)
class MachineView:
    """The machine at one time."""

    now_s: float
    """Of a clock that only goes forward."""
    hosts: tuple[HostView, ...]
    """By number."""
    threads: tuple[ThreadView, ...]
    hot: tuple[PageView, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """An order."""

    pid: int
    tid: int
    host: int
    why: str
    """In words, for people."""


class Policy(Protocol):
    """Decides where threads go."""

    def decide(self, view: MachineView) -> Sequence[Move]:
        """Who is to go where now. An order to where a thread is already has no effect."""


class RandomPolicy:
    """Moves every thread to a host at random, again and again: for tests of moving itself."""

    def __init__(self, interval_s: float = 0.01, seed: int = 0) -> None:
        self.interval_s = interval_s
        self._random = random.Random(seed)

    def decide(self, view: MachineView) -> list[Move]:
        return [Move(t.pid, t.tid, self._random.choice(view.hosts).number, "at random") for t in view.threads]


Random = RandomPolicy
"""For the command line: ``--policy megalith.scheduler:Random,seed=7``."""


def load_policy(text: str) -> Policy:
    """The policy that ``MODULE:CLASS`` names; ``MODULE:CLASS,name=number,…`` gives its constructor arguments."""
    path, *words = text.split(",")
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
        return _checked(found(**dict(map(_argument, words))), text)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise PolicyError(f"--policy {text}: {error}") from None


def _argument(word: str) -> tuple[str, int | float]:
    name, _, value = word.partition("=")
    return name, int(value) if value.isdecimal() else float(value)


def _checked(policy: Policy, text: str) -> Policy:
    if not callable(getattr(policy, "decide", None)):
        raise PolicyError(f"--policy {text}: it has no method 'decide'")
    return policy


def by_process(threads: Iterable[ThreadView]) -> dict[int, list[ThreadView]]:
    """Threads of each process, in order of their ids."""
    found: dict[int, list[ThreadView]] = {}
    for thread in sorted(threads, key=lambda t: (t.pid, t.tid)):
        found.setdefault(thread.pid, []).append(thread)
    return found
