"""Who refers to a machine's arrays, counted at home (docs/python.md, "Who owns an array").

The bytes of an array are a *block*, with a serial number. At home it is an object that arrays keep alive; with its end
the bytes are freed on all hosts. For what workers refer to, a :class:`Holder` for each of them keeps it alive, too:

- *lent*: it went with a task that is not answered yet;
- *held*: the worker has said that it keeps it, has asked for it, or has had it made.

A worker says before each answer what it keeps and has not told, so there is no moment in between; what it does not have
any more it says at its leisure. One block counts once for a worker, however many arrays of it that has.

How a block is passed on:

1. home → worker, with a task: lent, until the answer.
2. worker → home, in an answer: home reads the answer before it takes the loan back, and a worker lets nothing go that
   is in an answer which it has not sent.
3. in any other way, as Dask's workers pass it to each other: who gets it asks home for it, and waits for the answer,
   while who sent it still has it.

A worker that has ended has nothing: :meth:`Holder.drop`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, final

from megalith.exceptions import MegalithError, ProtocolError
from megalith.frames import Frame, Kind, pack_numbers, unpack_numbers


class Block(Protocol):
    """What is counted; :class:`megalith.arrays.Block`."""

    address: int
    length: int
    serial: int
    made_by: str | None


class Reply(NamedTuple):
    """A frame for a worker, in answer to one of its own."""

    kind: Kind
    part: bytes
    number: int


_notes: Final = threading.local()


@final
class Noting:
    """Collects the blocks that this thread pickles as addresses, for the length of a ``with``."""

    def __init__(self) -> None:
        self.blocks: list[Any] = []

    def __enter__(self) -> list[Any]:
        self._outer = getattr(_notes, "blocks", None)
        _notes.blocks = self.blocks
        return self.blocks

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _notes.blocks = self._outer


def note(block: Any) -> None:
    """The block has been pickled as its address, in this thread."""
    blocks = getattr(_notes, "blocks", None)
    if blocks is not None:
        blocks.append(block)


@final
class References:
    """What the workers of a machine refer to.

    Args:
        allocate: makes a new block of so many bytes; raises MemoryError, or a MegalithError.
        find: the block of a serial number, or ``None`` if it has been freed.
    """

    def __init__(self, allocate: Callable[[int], Block], find: Callable[[int], Block | None]) -> None:
        self._allocate = allocate
        self._find = find
        self._holders: set[Holder] = set()

    def holder(self, name: str) -> Holder:
        """For a new worker; ``name`` is for people."""
        holder = Holder(self, name)
        self._holders.add(holder)
        return holder

    def drop(self) -> None:
        """No worker refers to anything any more, nor will one: the machine has ended."""
        for holder in list(self._holders):
            holder.drop()

    def find(self, serial: int) -> Block | None:
        """The block of that number, if somebody refers to it."""
        return self._find(serial)

    def allocate(self, length: int, made_by: str) -> Block:
        """A new block. Raises as ``allocate`` above."""
        block = self._allocate(length)
        block.made_by = made_by
        return block

    def forget(self, holder: Holder) -> None:
        """It holds nothing, and will not."""
        self._holders.discard(holder)


@final
class Holder:
    """What one worker refers to. For its executor's thread; :meth:`drop` for any."""

    def __init__(self, references: References, name: str) -> None:
        self._references = references
        self._name = name
        self._lent: dict[int, Sequence[Block]] = {}
        """By the number of the task."""
        self._held: dict[int, Block] = {}
        """By their serial numbers."""
        self._over = False

    @property
    def serials(self) -> set[int]:
        """Of all that is kept for this worker."""
        lent = {block.serial for blocks in list(self._lent.values()) for block in blocks}
        return lent | set(self._held)

    def lend(self, task: int, blocks: Sequence[Block]) -> bytes:
        """Keeps blocks until :meth:`returned`; the part of the frame that says so to the worker, ahead of the task."""
        if not self._over:
            self._lent[task] = blocks
        return pack_numbers({block.serial for block in blocks})

    def returned(self, task: int) -> None:
        """The task is answered, and the answer is read; or it was given back."""
        self._lent.pop(task, None)

    def hear(self, frame: Frame) -> Reply | None:
        """What the worker says of blocks, and what it gets for an answer.

        Raises ProtocolError for what it cannot say.
        """
        numbers = [unpack_numbers(part) for part in frame.parts]
        match frame.kind, numbers:
            case Kind.HOLDING, [held, let_go]:
                self._change(held, let_go)
                return None
            case Kind.HOLD, [[serial]]:
                return self._hold(serial, frame.number)
            case Kind.ALLOCATE, [[length]]:
                return self._make(length, frame.number)
        raise ProtocolError(f"a worker does not say {frame.kind.name} with {len(frame.parts)} parts")

    def drop(self) -> None:
        """The worker has ended."""
        self._over = True
        self._references.forget(self)
        # Blocks end at the end of this, and not in the middle of a dictionary.
        lent, self._lent, held, self._held = self._lent, {}, self._held, {}
        del lent, held

    def _change(self, held: Iterable[int], let_go: Iterable[int]) -> None:
        if self._over:
            return
        for serial in held:
            block = self._references.find(serial)
            if block is None:
                raise ProtocolError(f"a worker keeps array {serial}, which has been freed")
            self._held[serial] = block
        for serial in let_go:
            if self._held.pop(serial, None) is None:
                raise ProtocolError(f"a worker lets go of array {serial}, which it has not")

    def _hold(self, serial: int, number: int) -> Reply:
        block = None if self._over else self._references.find(serial)
        if block is None:
            why = "the array has been freed: nobody referred to it any more when it came here"
            return Reply(Kind.DENIED, why.encode(), number)
        return self._grant(block, number)

    def _make(self, length: int, number: int) -> Reply:
        if self._over:
            return Reply(Kind.DENIED, b"the machine has ended", number)
        try:
            block = self._references.allocate(length, self._name)
        except (MemoryError, MegalithError) as error:
            return Reply(Kind.DENIED, str(error).encode(errors="replace"), number)
        return self._grant(block, number)

    def _grant(self, block: Block, number: int) -> Reply:
        self._held[block.serial] = block
        return Reply(Kind.GRANTED, pack_numbers((block.address, block.length, block.serial)), number)
