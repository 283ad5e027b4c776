"""How tasks and results become bytes: pickles with large buffers beside them, and addresses for what all can see.

- Functions and classes that a worker cannot import (lambdas, those of ``__main__`` and of notebooks) travel as
  themselves, by cloudpickle; the others by name, as with :mod:`pickle`.
- A buffer of `OUT_OF_BAND_BYTES` or more (a numpy array, Arrow's) is not copied into the pickle.
- A *reducer* says how objects of one type are pickled, before everything else. It returns what ``__reduce__`` returns,
  or ``NotImplemented`` for an object that is as any other. So an array in memory that every worker sees becomes its
  address.

>>> class Host(str): pass
>>> pickled = dumps(Host("b"), {Host: lambda host: (str.upper, (str(host),))})
>>> loads([b"".join(pickled.body), *pickled.buffers])
'B'
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import cloudpickle

from megalith.frames import PARTS_MAX

Reducer: TypeAlias = Callable[[Any], Any]
"""From an object to what ``object.__reduce__`` may return, or ``NotImplemented``."""

OUT_OF_BAND_BYTES: Final = 8 << 10
_BUFFERS_MAX: Final = PARTS_MAX - 16
"""Further ones go into the pickle."""

_registered: dict[type, Reducer] = {}


class Pickled(NamedTuple):
    """A pickle in pieces, and the buffers that it refers to, in their order."""

    body: list[bytes | memoryview]
    buffers: list[memoryview]


def register(kind: type, reducer: Reducer) -> None:
    """From now on, objects of exactly this type are pickled by ``reducer`` in this process, whichever executor.

    Meant for workers, which serve one executor only; an executor's own are given to it when it is made.
    """
    _registered[kind] = reducer


def unregister(kind: type) -> None:
    """Takes back :func:`register`. Raises ``KeyError`` if nothing was registered."""
    del _registered[kind]


def dumps(obj: object, reducers: Mapping[type, Reducer] | None = None) -> Pickled:
    """Pickles ``obj``; ``reducers`` go before registered ones.

    Large ``bytes`` and buffers are not copied: they must stay as they are until they have been sent. Raises what
    :func:`pickle.dumps` raises.
    """
    pickler = Pickler(reducers or {})
    pickler.dump(obj)
    return Pickled(pickler.pieces, pickler.buffers)


def loads(parts: Sequence[bytes | bytearray | memoryview]) -> Any:
    """Unpickles the first of ``parts``, with the others as its buffers. Raises what :func:`pickle.loads` raises."""
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  (a worker and its executor trust each other)


class _Pieces(list[bytes | memoryview]):
    """The file that a pickler writes to: large objects come as they are."""

    def write(self, piece: bytes | bytearray | pickle.PickleBuffer) -> None:
        self.append(piece if isinstance(piece, bytes) else pickle.PickleBuffer(piece).raw())


class _Buffers(list[memoryview]):
    """What goes beside the pickle. Not the pickler's own business: one that refers to itself keeps all that it saw."""

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether the buffer goes into the pickle instead."""
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES or len(self) == _BUFFERS_MAX:
            return True
        self.append(raw)
        return False


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # It has no types.
    """A pickler that asks reducers first."""

    def __init__(self, reducers: Mapping[type, Reducer]) -> None:
        self.pieces = _Pieces()
        self.buffers = _Buffers()
        self._reducers = reducers
        super().__init__(self.pieces, protocol=5, buffer_callback=self.buffers.take)

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        reducer = self._reducers.get(kind) or _registered.get(kind)
        if reducer is not None and (reduced := reducer(obj)) is not NotImplemented:
            return reduced
        return super().reducer_override(obj)
