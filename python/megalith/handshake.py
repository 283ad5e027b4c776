"""What an executor and a worker tell each other first.

Pickles are read by the same versions only that wrote them, so nothing is unpickled before both are known to agree:
the beginning of ``HELLO`` is JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import cloudpickle

import megalith
from megalith.exceptions import ProtocolError


def versions() -> dict[str, str]:
    """Of all that must be the same at both ends. Python's is that of its byte code, which cloudpickle sends."""
    return {
        "megalith": megalith.__version__,
        "Python": sys.implementation.cache_tag or sys.version,
        "cloudpickle": cloudpickle.__version__,
    }


def hello() -> bytes:
    """The executor's versions, and where it imports from."""
    return json.dumps({"versions": versions(), "path": [os.path.abspath(entry) for entry in sys.path]}).encode()


def understand(part: bytes | bytearray) -> dict[str, Any]:
    """What :func:`hello` made. Raises ``ProtocolError`` if it is no such thing."""
    try:
        said = json.loads(part)
        paths, theirs = said["path"], said["versions"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError("the executor's first words are not a greeting") from error
    if not isinstance(theirs, dict) or not isinstance(paths, list) or not all(isinstance(p, str) for p in paths):
        raise ProtocolError("the executor's first words are not a greeting")
    return {"versions": theirs, "path": paths}


def disagreement(theirs: Mapping[str, str]) -> str | None:
    """One line about what differs between an executor's versions and ours; ``None``: nothing does.

    >>> disagreement(versions()) is None
    True
    >>> disagreement(versions() | {"Python": "cpython-38"})  # doctest: +ELLIPSIS
    'the worker has Python cpython-3..., the executor cpython-38'
    """
    for name, ours in versions().items():
        if theirs.get(name) != ours:
            return f"the worker has {name} {ours}, the executor {theirs.get(name, 'none')}"
    return None


def import_path(theirs: list[str]) -> list[str]:
    """Where a worker imports from: as its executor does, as far as that exists here, then its own places."""
    known = [entry for entry in theirs if os.path.exists(entry)]
    return known + [entry for entry in sys.path if entry not in known]
