"""A worker's end of the stream to its executor: what it sends, and what it asks of home about arrays.

Locks: one, held while something is put on the stream and sent, so that what home hears of arrays is in the order in
which it became so here (:mod:`megalith.holdings`). The thread that listens takes it for answers. Code of the user's
never runs with it held, except for finalizers, which come at any time: one that asks there is refused.

Answers come to the thread that listens; so whoever asks waits for that one, and it asks nothing itself.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, final

from megalith.exceptions import AgentError, ProtocolError
from megalith.frames import Frame, FrameWriter, Kind, pack_numbers, unpack_numbers
from megalith.holdings import Holdings

LAG_S: Final = 0.01
"""What has ended is told after that, so that much of it goes together; with an answer, if one is sent before."""

Part: TypeAlias = "bytes | memoryview | Sequence[bytes | memoryview]"
Make: TypeAlias = Callable[[int, int, int], Any]
"""From address, length and number to the block."""


@final
class _Question:
    """Asked of home, and not answered yet. It keeps its block, so what nobody waits for any more is let go of."""

    def __init__(self, make: Make, serials: tuple[int, ...]) -> None:
        self.make = make
        self.serials = serials
        """What it asks for, where that is known."""
        self.answered = threading.Event()
        self.block: Any = None
        self.why = ""


@final
class Link:
    """A worker has one, for all its threads."""

    def __init__(self, stream: socket.socket) -> None:
        self._writer = FrameWriter(stream)
        self._lock = threading.Lock()
        self._sender: int | None = None
        """The thread that has the lock."""
        self._listener: int | None = None
        self._holdings = Holdings()
        self._lent: dict[int, frozenset[int]] = {}
        """By the number of the task."""
        self._arriving = threading.local()
        self._questions: dict[int, _Question] = {}
        self._numbers = itertools.count(1)
        self._teller: threading.Thread | None = None
        self._pid = os.getpid()

    def send(self, kind: Kind, *parts: Part, number: int = 0) -> None:
        """Raises OSError if the stream is broken."""
        with self._locked():
            self._writer.put(kind, *parts, number=number)
            self._writer.send()

    def listen_here(self) -> None:
        """This thread is the one that reads the stream."""
        self._listener = threading.get_ident()

    # Of tasks.

    def lend(self, frame: Frame) -> None:
        """``LENT`` has come. Raises ProtocolError for one that says nothing."""
        if len(frame.parts) != 1:
            raise ProtocolError(f"an executor does not say LENT with {len(frame.parts)} parts")
        self._lent[frame.number] = frozenset(unpack_numbers(frame.parts[0]))

    def forget(self, task: int) -> None:
        """The task is given back."""
        self._lent.pop(task, None)

    @contextmanager
    def arriving(self, task: int) -> Iterator[None]:
        """While a task is unpickled, in this thread."""
        self._arriving.serials = self._lent.pop(task, frozenset())
        try:
            yield
        finally:
            self._arriving.serials = frozenset()

    def answer(self, kind: Kind, *parts: Part, blocks: list[Any], number: int, nanoseconds: int) -> None:
        """Sends what became of a task, behind what this worker keeps of what the task has brought.

        ``blocks`` are those in the answer; the list is emptied. Raises OSError if the stream is broken.
        """
        serials = {block.serial for block in blocks}
        with self._locked():
            self._holdings.pin(serials)
            blocks.clear()
            self._put_news()
            self._writer.put(kind, *parts, number=number, nanoseconds=nanoseconds)
            self._writer.send()
            self._holdings.unpin(serials)

    def tell(self) -> None:
        """Tells home what has changed here, if anything has. Raises OSError if the stream is broken."""
        with self._locked():
            self._put_news()
            self._writer.send()

    @property
    def holds(self) -> bool:
        """Whether home keeps anything for this worker, beside tasks."""
        return self._holdings.is_known

    # Of arrays.

    def block(self, place: tuple[int, int, int], make: Make) -> Any:
        """The block of that address, length and number, which has come here; it is kept until its end.

        Raises ValueError if it has been freed, AgentError where home cannot be asked.
        """
        serial = place[2]
        block = self._holdings.get(serial)
        if block is not None:
            return block
        if serial in getattr(self._arriving, "serials", ()):
            with self._locked():
                return self._holdings.arrive(serial, lambda: make(*place))
        question = self._ask(Kind.HOLD, serial, _Question(make, (serial,)))
        if question.block is None:
            raise ValueError(f"the array at {place[0]:#x} cannot be had: {question.why}")
        return question.block

    def allocate(self, length: int, make: Make) -> Any:
        """A new block. Raises MemoryError if home has no addresses for it, AgentError where home cannot be asked."""
        if length >= 1 << 63:
            raise MemoryError(f"no {length} bytes of the machine's addresses are free in one piece")
        question = self._ask(Kind.ALLOCATE, length, _Question(make, ()))
        if question.block is None:
            raise MemoryError(question.why)
        return question.block

    def answered(self, frame: Frame) -> None:
        """``GRANTED`` or ``DENIED`` has come. Raises ProtocolError for what answers no question."""
        question = self._questions.pop(frame.number, None)
        if question is None or len(frame.parts) != 1:
            raise ProtocolError(f"an executor does not say {frame.kind.name} to question {frame.number}")
        with self._locked():
            if frame.kind is Kind.GRANTED:
                place = unpack_numbers(frame.parts[0])
                if len(place) != 3:
                    raise ProtocolError(f"an executor does not say GRANTED with {len(place)} numbers")
                address, length, serial = place
                question.block = self._holdings.grant(serial, lambda: question.make(address, length, serial))
            else:
                question.why = frame.parts[0].decode(errors="replace")
            self._holdings.unpin(question.serials)
            self._begin_to_tell()
        question.answered.set()

    def _ask(self, kind: Kind, value: int, question: _Question) -> _Question:
        if threading.get_ident() == self._listener:
            raise AgentError("a finalizer cannot ask for arrays of the machine in the thread that hears the answers")
        with self._locked():
            number = next(self._numbers)
            self._questions[number] = question
            self._holdings.pin(question.serials)
            self._writer.put(kind, pack_numbers((value,)), number=number)
            self._writer.send()
        question.answered.wait()  # The process ends with the stream.
        return question

    @contextmanager
    def _locked(self) -> Iterator[None]:
        own = threading.get_ident()
        if self._sender == own:
            raise AgentError("a finalizer cannot have arrays of the machine in the middle of something that is sent")
        if os.getpid() != self._pid:
            raise AgentError("this process was forked by a worker of a machine, and is none itself")
        with self._lock:
            self._sender = own
            try:
                yield
            finally:
                self._sender = None

    def _put_news(self) -> None:
        held, let_go = self._holdings.news()
        if held or let_go:
            self._writer.put(Kind.HOLDING, pack_numbers(held), pack_numbers(let_go))
            self._begin_to_tell()

    def _begin_to_tell(self) -> None:
        """From the first array on that home keeps for us, a thread tells of those that have ended."""
        if self._teller is None and self._holdings.is_known:
            self._teller = threading.Thread(target=self._keep_telling, name="megalith-references", daemon=True)
            self._teller.start()

    def _keep_telling(self) -> None:
        while True:
            self._holdings.wait()
            time.sleep(LAG_S)
            try:
                self.tell()
            except OSError:
                return  # The listener ends the process.


_link: list[Link] = []


def set_current(link: Link) -> None:
    """This process is a worker, and that is its link."""
    _link[:] = [link]


def current() -> Link | None:
    """This process's, if it is a worker."""
    return _link[0] if _link else None
