"""The machine that this process belongs to: :func:`current_machine`, at home and in tasks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from megalith import making
from megalith.arrays import Block, workers_link
from megalith.shared import SharedSpace

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from megalith.machines import Machine


@final
class WorkersMachine:
    """The machine, as a task sees it. Got by :func:`current_machine`.

    An array that is made here is as one that was made at home: it may be kept, and returned, and goes by address. It
    lives as long as anybody has it, at home or in a worker, also when this worker has ended.
    """

    def __repr__(self) -> str:
        return f"<machine {os.environ['MEGALITH_MACHINE']}, in a worker>"

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = float) -> NDArray[Any]:
        """As :meth:`megalith.Machine.empty`. Home is asked for addresses: that is a round trip.

        Raises AgentError where home cannot be asked, which is in a process that a task has forked or started.
        """
        return making.empty(_allocate, shape, dtype)

    def zeros(self, shape: int | Sequence[int], dtype: DTypeLike = float) -> NDArray[Any]:
        """As :meth:`empty`."""
        return making.empty(_allocate, shape, dtype)

    def full(self, shape: int | Sequence[int], fill_value: object, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """As :meth:`megalith.Machine.full`."""
        return making.full(_allocate, shape, fill_value, dtype)

    def array(self, source: ArrayLike, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """As :meth:`megalith.Machine.array`."""
        return making.copy(_allocate, source, dtype)


def _allocate(length: int) -> Block:
    block: Block = workers_link().allocate(length, Block)
    return block


def current_machine() -> Machine | WorkersMachine:
    """In a task on a machine's worker, its machine, to make arrays; elsewhere, the one that is open in this process.

    Raises AgentError if there is none.
    """
    if SharedSpace.is_offered():
        workers_link()
        return WorkersMachine()
    from megalith.machines import opened

    return opened()
