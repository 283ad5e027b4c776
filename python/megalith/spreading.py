"""What a run does beside waiting while its threads may be on several hosts: it keeps the view fresh."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from megalith.placement import Placement, Spread
from megalith.report import HostFigures, ThreadFigures
from megalith.view import View


class Spreading:
    """Spread mode of one run; made by :func:`spreading`."""

    def __init__(self, placement: Placement, view: View, told: Spread) -> None:
        self.told = told
        """What the runtime is told."""
        self._placement = placement
        self._view = view
        self._seen_s = time.monotonic()

    def see(self, hosts: Sequence[HostFigures], threads: Sequence[ThreadFigures]) -> tuple[HostFigures, ...]:
        """Takes in what a heartbeat brings; returns the hosts' figures with their threads counted."""
        now_s = time.monotonic()
        self._view.refresh(hosts, now_s - self._seen_s)
        self._seen_s = now_s
        return with_threads(hosts, threads)


@contextmanager
def spreading(placement: Placement, hosts: Sequence[HostFigures], private: Path | None) -> Iterator[Spreading | None]:
    """Spread mode for the length of a run, or ``None`` if threads stay at home.

    The view lies in ``private``, a directory that goes away with the run, or where temporary files do.
    """
    if not placement.spread:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="megalith-view-", dir=private))
    try:
        view = View(folder, placement.cpus, hosts)
        yield Spreading(placement, view, Spread(placement.starts, placement.cpus, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def with_threads(hosts: Sequence[HostFigures], threads: Sequence[ThreadFigures]) -> tuple[HostFigures, ...]:
    """``hosts``, each with the number of the threads that run there."""
    here = Counter(thread.host for thread in threads)
    return tuple(dataclasses.replace(host, threads=here[host.name]) for host in hosts)
