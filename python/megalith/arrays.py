"""Arrays of a machine's memory, and how they travel between its processes: as addresses (docs/python.md).

A process has one machine's memory at most. The interpreter that made the machine has what it has given out; a worker
finds the same bytes at the same addresses. Who refers to them is counted (:mod:`megalith.references`).
"""

from __future__ import annotations

import functools
import itertools
import weakref
from typing import TYPE_CHECKING, Any, Final, final

from megalith import link, pickling
from megalith.exceptions import AgentError
from megalith.references import note
from megalith.shared import SharedSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_serials: Final = itertools.count(1)


@final
class Block:
    """Bytes of the space, as numpy asks for them. Arrays keep it alive."""

    # Slots: of what has a dictionary, tracemalloc does not find the traceback in Python 3.11.
    __slots__ = ("__array_interface__", "__weakref__", "address", "length", "made_by", "serial")

    def __init__(self, address: int, length: int, serial: int | None = None) -> None:
        self.address = address
        self.length = length
        self.serial = next(_serials) if serial is None else serial
        """Tells it from one that has been here before."""
        self.made_by: str | None = None
        """At home: the worker that asked for it, where one did."""
        self.__array_interface__ = {"shape": (length,), "typestr": "|u1", "data": (address, False), "version": 3}


_given_out: Final[weakref.WeakValueDictionary[int, Block]] = weakref.WeakValueDictionary()
"""At home: the blocks in use, by their serial numbers."""


def give_out(block: Block) -> None:
    """At home: arrays of the block may travel, and come back as long as one is left here."""
    _given_out[block.serial] = block


def find(serial: int) -> Block | None:
    """At home: the block of that number, if anybody refers to it still."""
    return _given_out.get(serial)


def by_address(array: NDArray[Any]) -> Any:
    """A reducer for :class:`numpy.ndarray`: an array, or view of one, in the machine's memory becomes its address."""
    block: Any = array.base
    while block is not None and type(block) is not Block:
        block = getattr(block, "base", None)
    if block is None:
        return NotImplemented
    note(block)
    offset = array.__array_interface__["data"][0] - block.address
    place = (block.address, block.length, block.serial)
    return array_at, (place, offset, array.shape, array.dtype, array.strides, array.flags.writeable)


def array_at(
    place: tuple[int, int, int],
    offset: int,
    shape: tuple[int, ...],
    dtype: Any,
    strides: tuple[int, ...],
    writeable: bool,
) -> NDArray[Any]:
    """The array again, in another process of the machine or back home: the same bytes.

    Raises ValueError if nobody had an array of these bytes any more; AgentError in a process that is none of the
    machine's.
    """
    import numpy

    raw: NDArray[Any] = numpy.asarray(_block(place))
    array: NDArray[Any] = numpy.ndarray(shape, dtype, buffer=raw, offset=offset, strides=strides)
    array.flags.writeable = writeable
    return array


def _block(place: tuple[int, int, int]) -> Block:
    address, _, serial = place
    if SharedSpace.is_offered():
        found: Block = workers_link().block(place, Block)
        return found
    block = find(serial)
    if block is None:
        raise ValueError(f"the array at {address:#x} has been freed: nobody referred to it any more")
    return block


def workers_link() -> link.Link:
    """In a worker: its link to home, once the machine's memory is there.

    Raises AgentError in a process that a worker has started, and as :meth:`SharedSpace.take`.
    """
    found = link.current()
    if found is None:
        raise AgentError("this process was started by a worker of a machine, and is none itself")
    _workers_space()
    return found


@functools.cache
def _workers_space() -> SharedSpace:
    """In a worker, once it has to do with arrays: from now on its results may have some, too."""
    import numpy

    space = SharedSpace.here()
    pickling.register(numpy.ndarray, by_address)
    return space
