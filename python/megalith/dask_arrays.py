"""How Dask passes a machine's arrays: as addresses, where it would have passed their bytes.

Dask has two ways. Data that it moves between processes goes through functions registered for a type, which is where
ours stands. Functions and arguments go through the standard pickle, which asks nobody: there the module that
``distributed.protocol.pickle`` calls is replaced by one that does the same with a dispatch table of its own. Arrays
that are not the machine's are passed as ever, and pickles that Dask does not make are untouched.

Who has the arrays meanwhile: Dask keeps data until whoever it is moved to has it, and its scheduler, which is at home,
keeps what tasks refer to. Graphs on their way to it are letters (:mod:`megalith.dask_letters`).
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import threading
from collections import ChainMap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy
from dask._expr import Expr
from distributed.protocol import pickle as dask_pickle
from distributed.protocol.numpy import deserialize_numpy_ndarray, serialize_numpy_ndarray
from distributed.protocol.serialize import dask_deserialize, dask_serialize, deserialize, serialize

from megalith import dask_letters
from megalith.arrays import by_address
from megalith.exceptions import AgentError
from megalith.references import Noting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from megalith.machines import Machine

_KEY = "megalith"


def travel_as_addresses(machine: Machine | None = None) -> None:
    """From now on Dask in this process passes arrays by address. May be called again.

    With ``machine`` it is tried: raises AgentError if this version of Dask does not do as the module says.
    """
    _install()
    if machine is None:
        return
    array = machine.empty(1, "u1")
    # As an argument, beside a function that has no name in a module, and as data.
    for way in (_pickled_and_back, _data_and_back):
        for sent in (array, (lambda: None, array)):
            found = way(sent)
            again = found[1] if isinstance(found, tuple) else found
            if again.__array_interface__["data"] != array.__array_interface__["data"]:
                raise AgentError("this version of distributed passes arrays in a way that is not known here")


def _pickled_and_back(obj: object) -> Any:
    return dask_pickle.loads(dask_pickle.dumps(obj))


def _data_and_back(obj: object) -> Any:
    return deserialize(*serialize(obj))


@functools.cache
def _install() -> None:
    # Its own are registered when the first array comes, over ours, unless they are there already.
    dask_serialize.dispatch(numpy.ndarray)
    dask_deserialize.dispatch(numpy.ndarray)
    dask_serialize.register(numpy.ndarray, _serialize)
    dask_deserialize.register(numpy.ndarray, _deserialize)
    dask_pickle.pickle = _With(pickle, dumps=functools.partial(_dumps, _Pickler))
    dask_pickle.cloudpickle = _With(cloudpickle, dumps=functools.partial(_dumps, _CloudPickler))


def _serialize(array: NDArray[Any], context: Any = None) -> Any:
    reduced = by_address(array)
    if reduced is NotImplemented:
        return serialize_numpy_ndarray(array, context)
    return {_KEY: pickle.dumps(reduced)}, [b""]


def _deserialize(header: dict[str, Any], frames: Any) -> NDArray[Any]:
    if _KEY not in header:
        array: NDArray[Any] = deserialize_numpy_ndarray(header, frames)
        return array
    function, arguments = pickle.loads(header[_KEY])  # noqa: S301  (Dask's processes trust each other)
    found: NDArray[Any] = function(*arguments)
    return found


class _With:
    """A module with another function in a place."""

    def __init__(self, module: Any, **others: Any) -> None:
        self._module = module
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _reducer(protocol: int, letter: int | None) -> Callable[[NDArray[Any]], Any]:
    def reduce(array: NDArray[Any]) -> Any:
        reduced = by_address(array)
        if reduced is NotImplemented:
            return array.__reduce_ex__(protocol)
        return reduced if letter is None else (dask_letters.opened, (letter, *reduced))

    return reduce


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, protocol: int, letter: int | None, **options: Any) -> None:
        others: Any = copyreg.dispatch_table
        self.dispatch_table = ChainMap({numpy.ndarray: _reducer(protocol, letter)}, others)
        super().__init__(file, protocol, **options)


class _CloudPickler(cloudpickle.Pickler):  # type: ignore[misc]  # It has no types.
    def __init__(self, file: io.BytesIO, protocol: int, letter: int | None, **options: Any) -> None:
        # Where there is one in the class, it is looked up when the pickler is made.
        ours = {numpy.ndarray: _reducer(protocol, letter)}
        self.dispatch_table = ChainMap(ours, cloudpickle.Pickler.dispatch_table)
        super().__init__(file, protocol, **options)


def _dumps(pickler: type[Any], obj: object, protocol: int | None = None, **options: Any) -> bytes:
    """As :func:`pickle.dumps`."""
    file = io.BytesIO()
    letter = dask_letters.write() if isinstance(obj, Expr) else None
    # Dask tries the standard pickle first, and does not send that if cloudpickle's is needed after all.
    first, _latest.letter = getattr(_latest, "letter", None), None
    with Noting() as blocks:
        pickler(file, pickle.DEFAULT_PROTOCOL if protocol is None else protocol, letter, **options).dump(obj)
    if letter is not None:
        if pickler is _CloudPickler and first is not None:
            dask_letters.discard(first)
        if pickler is _Pickler:
            _latest.letter = letter
        dask_letters.post(letter, blocks)
    return file.getvalue()


_latest = threading.local()
"""The letter that this thread has just pickled as the standard pickle does it, and nothing since."""
