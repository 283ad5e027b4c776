"""Arrays of files, read straight into a machine's memory."""

from __future__ import annotations

import errno
import os
import sys
import zipfile
from typing import IO, TYPE_CHECKING, Any, Final

from megalith.exceptions import AgentError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from megalith.machines import Machine

CHUNK_BYTES: Final = 16 << 20
"""Read at a time: between two of them ^C is heard."""

_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")


def load(machine: Machine, path: str | os.PathLike[str], max_header_size: int) -> Any:
    """See :meth:`megalith.Machine.load`."""
    import numpy
    from numpy.lib import format as npy

    with open(path, "rb", buffering=0) as file:
        begin = file.read(npy.MAGIC_LEN)
        file.seek(0)
        if begin.startswith(_ZIP):
            return _load_zip(machine, file, max_header_size)
        if begin[: len(npy.MAGIC_PREFIX)] == npy.MAGIC_PREFIX:
            return _read(machine, file, max_header_size)
    # Nothing that is read here: numpy says what it is instead.
    found: Any = numpy.load(path, allow_pickle=False, max_header_size=max_header_size)
    raise ValueError(f"{os.fspath(path)} is neither a .npy nor a .npz file: {type(found).__name__}")


def fromfile(machine: Machine, path: str | os.PathLike[str], dtype: DTypeLike, count: int, offset: int) -> NDArray[Any]:
    """See :meth:`megalith.Machine.fromfile`."""
    import numpy

    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise ValueError("Cannot read into object array")
    if not kind.itemsize:
        raise ValueError("The elements are 0-sized.")
    with open(path, "rb", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(offset)
        if count < 0 and offset > length:
            raise ValueError(f"{os.fspath(path)} ends at byte {length}, before {offset=}")
        available = max(0, length - offset) // kind.itemsize
        array = machine.empty(available if count < 0 else min(count, available), kind)
        read = _fill(file, array)
    # A file may become shorter while it is read.
    return array[: read // kind.itemsize]


def _load_zip(machine: Machine, file: IO[bytes], max_header_size: int) -> dict[str, NDArray[Any]]:
    from numpy.lib import format as npy

    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                begin = member.read(len(npy.MAGIC_PREFIX))
            if begin != npy.MAGIC_PREFIX:
                raise ValueError(f"{name} in the archive is no array")
            with archive.open(name) as member:
                arrays[name.removesuffix(".npy")] = _read(machine, member, max_header_size)
    return arrays


def _read(machine: Machine, file: IO[bytes], max_header_size: int) -> NDArray[Any]:
    """The array of a ``.npy`` file; raises what :func:`numpy.load` raises."""
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    shape, fortran, kind = _header(file, version, max_header_size)
    if kind.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    array = machine.empty(shape[::-1] if fortran else shape, kind)
    read = _fill(file, array)
    if read < array.nbytes:
        raise ValueError(
            f"Failed to read all data for array. Expected {shape} = {array.size} elements, could only read "
            f"{read // kind.itemsize} elements. (file seems not fully written?)"
        )
    return array.T if fortran else array


def _header(file: IO[bytes], version: tuple[int, int], max_header_size: int) -> tuple[tuple[int, ...], bool, Any]:
    from numpy.lib import format as npy

    readers: dict[tuple[int, int], Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version in readers:
        found: tuple[tuple[int, ...], bool, Any] = readers[version](file, max_header_size=max_header_size)
        return found
    # Version 3 has no reader with a name for the public, and others are refused there.
    whole: Any = sys.modules.get("numpy.lib._format_impl", npy)  # The second in numpy 1.
    whole._check_version(version)
    newest: tuple[tuple[int, ...], bool, Any] = whole._read_array_header(file, version, max_header_size)
    return newest


def _fill(file: IO[bytes], array: NDArray[Any]) -> int:
    """Reads an array's bytes, as far as there are any: how many."""
    if not array.nbytes:
        return 0
    readable: Any = file
    raw: Any = array.reshape(-1).view("u1")
    room = memoryview(raw)
    at = 0
    while at < len(room):
        try:
            read = readable.readinto(room[at : at + CHUNK_BYTES])
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            # Memory that has ended. The machine may not have heard why: its next call says it.
            raise AgentError("the machine has ended while a file was read into its memory") from None
        if not read:
            break
        at += read
    return at
