"""Arrays of a machine's memory, and how they travel between its processes: as addresses (docs/python.md).

A process has one machine's memory at most. The interpreter that made the machine has what it has given out; a worker
finds the same bytes at the same addresses.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from typing import TYPE_CHECKING, Any, Final, final

from megalith import pickling
from megalith.shared import SharedSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_serials: Final = itertools.count(1)


@final
class Block:
    """Bytes of the space, as numpy asks for them. Arrays keep it alive."""

    def __init__(self, address: int, length: int, serial: int | None = None) -> None:
        self.address = address
        self.length = length
        self.serial = next(_serials) if serial is None else serial
        """Tells it from one that has been here before."""
        self.__array_interface__ = {"shape": (length,), "typestr": "|u1", "data": (address, False), "version": 3}


_given_out: Final[weakref.WeakValueDictionary[int, Block]] = weakref.WeakValueDictionary()
"""At home: the blocks in use, by their serial numbers."""


def give_out(block: Block) -> None:
    """At home: arrays of the block may travel, and come back as long as one is left here."""
    _given_out[block.serial] = block


def by_address(array: NDArray[Any]) -> Any:
    """A reducer for :class:`numpy.ndarray`: an array, or view of one, in the machine's memory becomes its address."""
    block: Any = array.base
    while block is not None and type(block) is not Block:
        block = getattr(block, "base", None)
    if block is None:
        return NotImplemented
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

    Raises ValueError at home if no array that has these bytes is left there; AgentError in a process that is none of
    the machine's.
    """
    import numpy

    raw: NDArray[Any] = numpy.asarray(_block(place))
    array: NDArray[Any] = numpy.ndarray(shape, dtype, buffer=raw, offset=offset, strides=strides)
    array.flags.writeable = writeable
    return array


def _block(place: tuple[int, int, int]) -> Block:
    address, length, serial = place
    if SharedSpace.is_offered():
        _workers_space()
        return Block(address, length, serial)
    block = _given_out.get(serial)
    if block is None:
        raise ValueError(f"the array at {address:#x} has been freed: nothing at home referred to it any more")
    return block


@functools.cache
def _workers_space() -> SharedSpace:
    """In a worker, once an array has come: from now on its results may have some, too."""
    import numpy

    space = SharedSpace.here()
    pickling.register(numpy.ndarray, by_address)
    return space
