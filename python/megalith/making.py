"""How an array of a machine's memory is made, at home and in a worker: alike, but for where its bytes come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from megalith.arrays import Block

Allocate: TypeAlias = "Callable[[int], Block]"
"""From a length in bytes to that many, which are zeros."""


def empty(allocate: Allocate, shape: int | Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """What :meth:`megalith.Machine.empty` says; raises so."""
    numpy = import_numpy()
    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"an array of {kind} holds Python objects, which live in one process alone")
    dimensions = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(extent < 0 for extent in dimensions):
        raise ValueError(f"negative dimensions are not allowed: {dimensions}")
    length = kind.itemsize
    for extent in dimensions:
        length *= extent
    raw: NDArray[np.uint8] = numpy.asarray(allocate(length))
    array: NDArray[Any] = numpy.ndarray(dimensions, kind, buffer=raw)
    return array


def full(allocate: Allocate, shape: int | Sequence[int], fill_value: object, dtype: DTypeLike | None) -> NDArray[Any]:
    """As :func:`numpy.full`."""
    kind = import_numpy().asarray(fill_value).dtype if dtype is None else dtype
    array = empty(allocate, shape, kind)
    array[...] = fill_value
    return array


def copy(allocate: Allocate, source: ArrayLike, dtype: DTypeLike | None) -> NDArray[Any]:
    """As :func:`numpy.array`."""
    found = import_numpy().asarray(source, dtype)
    array = empty(allocate, found.shape, found.dtype)
    array[...] = found
    return array


def import_numpy() -> Any:
    """The user's. Raises ImportError, with what to do, if there is none."""
    try:
        import numpy
    except ImportError:
        raise ImportError("arrays need numpy, which is not installed here: pip install numpy") from None
    return numpy
