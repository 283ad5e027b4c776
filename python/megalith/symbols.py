"""What lies at an address of a program: names of variables where its file tells, else which kind of memory it is."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from megalith.sizes import PAGE_BYTES

# Where the runtime puts things (crates/runtime, lib.rs).
EXECUTABLE_BASE: Final = 0x5555_5555_4000
PLACEMENT_TOP: Final = 0x5000_0000_0000
STACK_TOP: Final = 0x5FFF_FFFF_0000
STACK_BYTES_MAX: Final = 64 << 20

LOW_END: Final = 0x1000_0000_0000
"""A program that is not position-independent, and its heap, lie below; mappings hardly reach down here."""

NAMES_MAX: Final = 3
_NM_TIMEOUT_S: Final = 20.0
_DATA: Final = frozenset("bBdDgGrRsSuvV")
"""nm(1)'s letters for variables."""

_PT_LOAD, _ET_EXEC, _ET_DYN = 1, 2, 3


@dataclass(frozen=True, slots=True)
class _Variable:
    start: int
    end: int
    name: str


class Symbols:
    """The names of one program's variables."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._bias, self._start, self._end = _extent(program)
        self._variables = _variables(program, self._bias) if self._end else []

    def what(self, page: int) -> str:
        """What the page at that address holds, in words."""
        if not self._start <= page < self._end:
            return region(page, self._end)
        found = [v for v in self._variables if v.start < page + PAGE_BYTES and page < v.end]
        found.sort(key=lambda variable: (variable.start - variable.end, variable.start))
        if not found:
            return f"data of {self._program.name}"
        more = f" and {len(found) - NAMES_MAX} more" if len(found) > NAMES_MAX else ""
        return ", ".join(variable.name for variable in found[:NAMES_MAX]) + more


def region(address: int, image_end: int = 0) -> str:
    """What kind of memory an address is; ``image_end`` is where the program's file ends, if that is known."""
    if STACK_TOP - STACK_BYTES_MAX <= address < STACK_TOP:
        return "first stack"
    if LOW_END <= address < PLACEMENT_TOP:
        return "mapping (library, large allocation, thread's stack)"
    return "heap" if image_end and address >= image_end else "program or heap"


def _extent(program: Path) -> tuple[int, int, int]:
    """What is added to the file's addresses, and where its segments begin and end in memory; zeros if it has none."""
    try:
        with program.open("rb") as file:
            head = file.read(64)
            if head[:6] != b"\x7fELF\x02\x01":
                return 0, 0, 0
            kind, table, size, count = struct.unpack_from("<16xH14xQ14xHH", head)
            file.seek(table)
            entries = [file.read(size) for _ in range(count)]
    except (OSError, struct.error):
        return 0, 0, 0
    spans: list[tuple[int, int]] = []
    for entry in entries:
        if len(entry) >= 56 and int.from_bytes(entry[:4], "little") == _PT_LOAD:
            address, bytes_in_memory = struct.unpack_from("<16xQ16xQ", entry)
            spans.append((address, address + bytes_in_memory))
    if not spans or kind not in (_ET_EXEC, _ET_DYN):
        return 0, 0, 0
    bias = EXECUTABLE_BASE if kind == _ET_DYN else 0
    end = bias + max(end for _, end in spans)
    return bias, bias + min(start for start, _ in spans), -(-end // PAGE_BYTES) * PAGE_BYTES


def _variables(program: Path, bias: int) -> list[_Variable]:
    """From the file's symbols, or the dynamic ones if it is stripped; nothing without nm(1)."""
    nm = shutil.which("nm")
    if nm is None:
        return []
    for words in ((), ("-D",)):
        command = [nm, *words, "-S", "-C", "--defined-only", "--", str(program)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_NM_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return []
        if found := [variable for line in done.stdout.splitlines() if (variable := _variable(line, bias))]:
            return found
    return []


def _variable(line: str, bias: int) -> _Variable | None:
    """``0000000000004040 0000000000000008 B counter``; ``None`` for what has no size or is no variable."""
    words = line.split(maxsplit=3)
    if len(words) < 4 or words[2] not in _DATA:
        return None
    start = bias + int(words[0], 16)
    return _Variable(start, start + int(words[1], 16), words[3])
