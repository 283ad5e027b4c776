"""Arrays of a machine's memory, and how they travel between its processes: as addresses (docs/python.md).

A process has one machine's memory at most. The interpreter that made the machine has what it has given out; a worker
finds the same bytes at the same addresses. Who refers to them is counted (:mod:`megalith.references`).
"""

from __future__ import annotations

import functools
import itertools
import weakref
from typing import TYPE_CHECKING, Any, Final, final

from megalith import link, numpy_heap, pickling
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
    __slots__ = ("__array_interface__", "__weakref__", "address", "length", "made_by", "owner", "serial")

    def __init__(self, address: int, length: int, serial: int | None = None) -> None:
        self.address = address
        self.length = length
        self.serial = next(_serials) if serial is None else serial
        """Tells it from one that has been here before."""
        self.made_by: str | None = None
        """At home: the worker that asked for it, where one did."""
        self.owner: object = None
        """At home: who keeps the bytes, if it is not this that does."""
        self.__array_interface__ = {"shape": (length,), "typestr": "|u1", "data": (address, False), "version": 3}


_given_out: Final[weakref.WeakValueDictionary[int, Any]] = weakref.WeakValueDictionary()
"""At home: the blocks in use, by their serial numbers; and arrays whose bytes numpy itself has allocated, if they have
travelled."""


def give_out(block: Block) -> None:
    """At home: arrays of the block may travel, and come back as long as one is left here."""
    _given_out[block.serial] = block


def find(serial: int) -> Block | None:
    """At home: the block of that number, if anybody refers to it still."""
    found: Any = _given_out.get(serial)
    if found is None or type(found) is Block:
        return found
    return _kept_by(found, found.__array_interface__["data"][0], found.nbytes, serial)


def by_address(array: NDArray[Any]) -> Any:
    """A reducer for :class:`numpy.ndarray`: an array, or view of one, in the machine's memory becomes its address."""
    block: Any = array.base
    while block is not None and type(block) is not Block:
        block = getattr(block, "base", None)
    if block is None:
        block = _block_of_owner(array)
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


def _block_of_owner(array: NDArray[Any]) -> Block | None:
    """At home: what an array has that numpy allocated in the machine's memory, by itself or as a view."""
    owner: Any = numpy_heap.owner_of(array)
    if owner is None:
        return None
    place = owner.__array_interface__["data"][0], owner.nbytes
    known = _travelled.get(id(owner))
    if known is None or known[0]() is not owner or known[1][:2] != place:
        serial = next(_serials)
        known = _travelled[id(owner)] = weakref.ref(owner, functools.partial(_forget, id(owner))), (*place, serial)
        _given_out[serial] = owner
    return _kept_by(owner, *known[1])


def _kept_by(owner: NDArray[Any], address: int, length: int, serial: int) -> Block:
    """The block of bytes that numpy has allocated for an array."""
    block = Block(address, length, serial)
    block.owner = owner
    return block


_travelled: Final[dict[int, tuple[weakref.ref[Any], tuple[int, int, int]]]] = {}
"""At home: what has been said of arrays whose bytes numpy itself has allocated, by their ids."""


def _forget(key: int, gone: weakref.ref[Any]) -> None:
    known = _travelled.get(key)
    if known is not None and known[0] is gone:
        del _travelled[key]


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
