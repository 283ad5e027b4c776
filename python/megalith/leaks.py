"""Arrays that outlive their machine: what a ``ResourceWarning`` says of them.

As Python's own, it is off by default, and on with ``-X dev`` and ``-W default``.
"""

from __future__ import annotations

import os
import sys
import tracemalloc
import warnings
from collections.abc import Sequence
from heapq import nlargest
from typing import TYPE_CHECKING, Final

from megalith.sizes import format_size

if TYPE_CHECKING:
    from megalith.arrays import Block

_NAMED_MAX: Final = 3
_PACKAGE: Final = os.path.dirname(__file__) + os.sep


def report(blocks: Sequence[Block], numpy_arrays: int) -> None:
    """Warns of blocks that are still referred to, and of arrays of ``m.memory()``, a line each; of none, nothing."""
    if numpy_arrays:
        _warn(
            f"a machine is closed while {_so_many(numpy_arrays)} referred to that numpy made in m.memory(), which must "
            "not be touched any more"
        )
    if not blocks:
        return
    largest = nlargest(_NAMED_MAX, blocks, key=lambda block: block.length)
    named = ", ".join(format_size(block.length) + _origin(block) for block in largest)
    hint = "" if tracemalloc.is_tracing() else "; python -X tracemalloc=20 shows where each was made"
    total = format_size(sum(block.length for block in blocks))
    _warn(
        f"a machine is closed while {_so_many(len(blocks))} referred to ({total}), which must not be touched any more; "
        f"the largest: {named}{hint}"
    )


def _so_many(arrays: int) -> str:
    return "1 array is" if arrays == 1 else f"{arrays} arrays are"


def _warn(line: str) -> None:
    # Not with its source: who records the warning would keep the array.
    warnings.warn(line, ResourceWarning, stacklevel=_depth_of_user())


def _origin(block: Block) -> str:
    """Where it was made, as far as that is known: the innermost line that is not ours."""
    if block.made_by is not None:
        return f" made by {block.made_by}"
    trace = tracemalloc.get_object_traceback(block)
    for frame in reversed(trace or ()):
        if not frame.filename.startswith(_PACKAGE):
            return f" made at {frame.filename}:{frame.lineno}"
    return ""


def _depth_of_user() -> int:
    """For :func:`warnings.warn` in our caller: how far up is the line that closes the machine."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        depth, frame = depth + 1, frame.f_back
    return depth
