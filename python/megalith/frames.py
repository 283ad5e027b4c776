"""Frames: how an executor and a worker speak over one stream.

All integers are little-endian::

    offset  bytes
         0      4  magic, ``MLW1``: the protocol, and its version
         4      1  kind (:class:`Kind`)
         5      3  zero
         8      4  n, how many parts follow
        12      8  number of the task, or 0
        20      8  nanoseconds that the task took, or 0
        28    8 n  bytes of each part
      28+8n        the parts, one after the other

A part is a pickle, a buffer that belongs to the pickle before it (protocol 5's *out-of-band* buffers), or text: the
kind says which. Large parts are sent from where they lie and received where they will stay. Neither class waits where
its socket does not, so an executor's one thread can serve many workers.
"""

from __future__ import annotations

import enum
import socket
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from megalith.exceptions import ProtocolError

MAGIC: Final = b"MLW1"
PARTS_MAX: Final = 4096
PART_BYTES_MAX: Final = 1 << 44
_HEADER: Final = struct.Struct("<4sBxxxIQQ")
_STAGING_BYTES: Final = 256 << 10
"""What one look at the stream takes at most; a header with its table always fits."""
_JOINED_BYTES_MAX: Final = 32 << 10
"""Smaller frames are copied together, larger ones sent from where they lie."""
_VECTORS_MAX: Final = 512
"""Pieces in one sendmsg(2); the kernel takes 1024."""


class Kind(enum.IntEnum):
    """What a frame says. ``>``: from the executor to the worker, ``<``: from the worker."""

    HELLO = 1
    """``>`` JSON (:mod:`megalith.handshake`), then the pickled initializer."""
    READY = 2
    """``<`` The initializer has returned."""
    REFUSED = 3
    """``<`` One line: why this worker does not serve that executor."""
    FAILED = 4
    """``<`` The initializer's traceback."""
    TASK = 5
    """``>`` ``(fn, args, kwargs)`` pickled."""
    RESULT = 6
    """``<`` What the task returned, pickled."""
    ERROR = 7
    """``<`` The traceback as text, then the exception pickled."""
    GIVE_BACK = 8
    """``>`` Tasks that have not begun are wanted elsewhere."""
    GIVEN_BACK = 9
    """``<`` The numbers of those, as 64 bit integers. They will not run here."""
    END = 10
    """``>`` No more tasks will come."""
    GREETED = 11
    """``<`` The worker is of the same versions; now its initializer runs."""
    LENT = 12
    """``>`` The arrays' numbers in the task of that number, which comes next (:mod:`megalith.references`)."""
    HOLDING = 13
    """``<`` Numbers of arrays that this worker keeps from now on; numbers of those that it has let go of."""
    HOLD = 14
    """``<`` The number of an array that came otherwise than with a task: is it there, and may we keep it?"""
    ALLOCATE = 15
    """``<`` A length in bytes: a new array is wanted."""
    GRANTED = 16
    """``>`` Address, length and number of what ``HOLD`` or ``ALLOCATE`` asked for; the worker keeps it."""
    DENIED = 17
    """``>`` One line: why not."""


class Frame(NamedTuple):
    """A frame as received."""

    kind: Kind
    number: int
    nanoseconds: int
    parts: list[bytearray]


def pack_numbers(numbers: Iterable[int]) -> bytes:
    """Numbers, of tasks for one, as a part.

    >>> unpack_numbers(pack_numbers([3, 4]))
    (3, 4)
    """
    listed = list(numbers)
    return struct.pack(f"<{len(listed)}Q", *listed)


def unpack_numbers(part: bytes | bytearray) -> tuple[int, ...]:
    """The numbers of a part. Raises ``ProtocolError`` if it is none of whole numbers."""
    if len(part) % 8:
        raise ProtocolError(f"a list of numbers has {len(part)} bytes")
    return struct.unpack(f"<{len(part) // 8}Q", part)


class FrameWriter:
    """Frames on their way out. Not for several threads at once."""

    def __init__(self, stream: socket.socket) -> None:
        if stream.family in {socket.AF_INET, socket.AF_INET6}:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = stream
        self._waiting: deque[bytes | memoryview] = deque()
        self.waiting_bytes = 0
        """How much has not been taken by the kernel yet."""

    def put(
        self,
        kind: Kind,
        *parts: bytes | memoryview | Sequence[bytes | memoryview],
        number: int = 0,
        nanoseconds: int = 0,
    ) -> None:
        """Appends a frame. A part may come in pieces. What is large is not copied: it must stay as it is until sent."""
        whole = [(part,) if isinstance(part, bytes | memoryview) else part for part in parts]
        lengths = [sum(map(len, pieces)) for pieces in whole]
        if len(lengths) > PARTS_MAX or any(length > PART_BYTES_MAX for length in lengths):
            raise ProtocolError(f"a frame of {len(lengths)} parts and {sum(lengths)} bytes is too large")
        head = _HEADER.pack(MAGIC, kind, len(lengths), number, nanoseconds) + struct.pack(f"<{len(lengths)}Q", *lengths)
        total = len(head) + sum(lengths)
        pieces = (head, *(piece for pieces in whole for piece in pieces if len(piece)))
        if total <= _JOINED_BYTES_MAX:
            self._waiting.append(b"".join(pieces))
        else:
            self._waiting.extend(pieces)
        self.waiting_bytes += total

    def send(self) -> bool:
        """Sends what the stream takes; whether that was all. Raises ``OSError`` if the stream is broken."""
        while self._waiting:
            try:
                sent = self._stream.sendmsg(list(islice(self._waiting, _VECTORS_MAX)))
            except BlockingIOError:
                return False
            self.waiting_bytes -= sent
            while sent:
                first = self._waiting[0]
                if len(first) > sent:
                    self._waiting[0] = memoryview(first)[sent:]
                    break
                sent -= len(first)
                self._waiting.popleft()
        return True


class FrameReader:
    """Frames on their way in. Not for several threads at once."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._staging = bytearray(_STAGING_BYTES)
        self._view = memoryview(self._staging)
        self._start = self._end = 0
        self._head: tuple[Kind, int, int] | None = None
        self._lengths: deque[int] = deque()
        self._parts: list[bytearray] = []
        self._part = bytearray()
        """A part that is larger than what has come of it; while it has one, staging is empty."""
        self._missing = 0

    def read(self) -> list[Frame]:
        """Takes once what is there, and returns the frames that this completes.

        Raises ``EOFError`` at the end of the stream, ``BlockingIOError`` if there is nothing and the socket does not
        wait, another ``OSError`` if it is broken, and ``ProtocolError`` if this is not what a worker or executor says.
        """
        self._receive()
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _receive(self) -> None:
        if self._missing:
            count = self._stream.recv_into(memoryview(self._part)[-self._missing :])
            self._missing -= count
        else:
            left = self._end - self._start
            self._view[:left] = self._view[self._start : self._end]
            self._start, self._end = 0, left
            count = self._stream.recv_into(self._view[left:])
            self._end += count
        if count == 0:
            raise EOFError

    def _next(self) -> Frame | None:
        if self._head is None and not self._take_head():
            return None
        while self._missing == 0:
            if self._part:
                self._parts.append(self._part)
                self._part = bytearray()
            if not self._lengths:
                assert self._head is not None
                frame = Frame(*self._head, self._parts)
                self._head, self._parts = None, []
                return frame
            self._take_part(self._lengths.popleft())
        return None

    def _take_head(self) -> bool:
        room = self._end - self._start
        if room < _HEADER.size:
            return False
        magic, number_of_kind, count, number, nanoseconds = _HEADER.unpack_from(self._staging, self._start)
        if magic != MAGIC:
            raise ProtocolError(f"it does not speak the protocol of workers ({MAGIC.decode()}) but says {magic!r}")
        if count > PARTS_MAX:
            raise ProtocolError(f"a frame has {count} parts, and {PARTS_MAX} at most")
        if room < _HEADER.size + 8 * count:
            return False
        lengths = struct.unpack_from(f"<{count}Q", self._staging, self._start + _HEADER.size)
        if any(length > PART_BYTES_MAX for length in lengths):
            raise ProtocolError(f"a part has {max(lengths)} bytes, and {PART_BYTES_MAX} at most")
        try:
            kind = Kind(number_of_kind)
        except ValueError:
            raise ProtocolError(f"there is no frame of kind {number_of_kind}") from None
        self._head = (kind, number, nanoseconds)
        self._lengths.extend(lengths)
        self._start += _HEADER.size + 8 * count
        return True

    def _take_part(self, length: int) -> None:
        here = min(length, self._end - self._start)
        piece = self._staging[self._start : self._start + here]
        self._start += here
        if here == length:
            self._parts.append(piece)
            return
        self._part = bytearray(length)
        self._part[:here] = piece
        self._missing = length - here
