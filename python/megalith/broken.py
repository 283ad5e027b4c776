"""What an executor's futures raise once it is of no more use."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from typing import final

from megalith.exceptions import MegalithError


@final
class WorkerLost(MegalithError, BrokenProcessPool):
    """A worker could not be started, or ended while it was needed; the message says where and how it died.

    As with ``ProcessPoolExecutor``, one such loss ends the executor and all its futures.
    """
