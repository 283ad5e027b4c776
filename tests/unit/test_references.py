"""Who refers to arrays: home's half and the worker's, by themselves and with each other, in any order of events."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from megalith.exceptions import ProtocolError
from megalith.frames import Frame, Kind, pack_numbers, unpack_numbers
from megalith.holdings import Holdings
from megalith.references import Holder, Noting, References, note

WORKERS = 2
BLOCKS = 2
"""At a time: few, so that they meet themselves again."""


class Block:
    """At home: its end frees the bytes. In a worker: the bytes must be there as long as it is."""

    def __init__(self, serial: int, address: int = 0, length: int = 0) -> None:
        self.address = address
        self.length = length
        self.serial = serial
        self.made_by: str | None = None


class Home:
    """What gives out blocks."""

    def __init__(self) -> None:
        self.there: weakref.WeakValueDictionary[int, Block] = weakref.WeakValueDictionary()
        self._serials = itertools.count(1)
        self.references = References(self.make, self.there.get)

    def make(self, length: int) -> Block:
        if length > 100:
            raise MemoryError("too long")
        serial = next(self._serials)
        self.there[serial] = block = Block(serial, address=serial << 12, length=length)
        return block


def frame(kind: Kind, *parts: bytes, number: int = 0) -> Frame:
    return Frame(kind, number, 0, [bytearray(part) for part in parts])


def holding(held: Iterable[int], let_go: Iterable[int]) -> Frame:
    return frame(Kind.HOLDING, pack_numbers(held), pack_numbers(let_go))


def test_noting_is_for_its_own_thread_and_length() -> None:
    note("before")
    with Noting() as outer:
        note("a")
        with Noting() as inner:
            note("b")
        note("c")
    note("after")
    assert (outer, inner) == (["a", "c"], ["b"])


def test_a_worker_asks_and_is_answered() -> None:
    home = Home()
    holder = home.references.holder("a worker on b")
    made = holder.hear(frame(Kind.ALLOCATE, pack_numbers([10]), number=7))
    assert made == (Kind.GRANTED, pack_numbers([1 << 12, 10, 1]), 7)
    assert home.there[1].made_by == "a worker on b"
    other = home.references.holder("another")
    assert other.hear(frame(Kind.HOLD, pack_numbers([1]), number=8)) == (*made[:2], 8)
    assert holder.hear(holding([], [1])) is None
    assert 1 in home.there
    other.drop()
    assert 1 not in home.there
    denied = holder.hear(frame(Kind.HOLD, pack_numbers([1]), number=9))
    assert denied is not None
    assert denied.kind is Kind.DENIED
    assert b"has been freed" in denied.part
    assert holder.hear(frame(Kind.ALLOCATE, pack_numbers([101]), number=3)) == (Kind.DENIED, b"too long", 3)


def test_what_a_machine_lends_ends_with_it() -> None:
    home = Home()
    holder = home.references.holder("w")
    assert unpack_numbers(holder.lend(4, [home.make(1), home.make(1)])) == (1, 2)
    assert holder.serials == {1, 2}
    home.references.drop()
    assert not home.there
    holder.lend(5, [home.make(1)])
    assert holder.serials == set()
    for kind in (Kind.ALLOCATE, Kind.HOLD):
        reply = holder.hear(frame(kind, pack_numbers([1])))
        assert reply is not None
        assert reply.kind is Kind.DENIED


@pytest.mark.parametrize(
    "said",
    [
        holding([1], []),
        holding([], [1]),
        frame(Kind.HOLDING, b""),
        frame(Kind.HOLD, pack_numbers([1, 2])),
        frame(Kind.ALLOCATE),
        frame(Kind.HOLD, b"1234567"),
        frame(Kind.READY),
    ],
)
def test_what_cannot_be_said_is_refused(said: Frame) -> None:
    with pytest.raises(ProtocolError):
        Home().references.holder("w").hear(said)


def test_what_comes_with_a_task_and_goes_with_it_is_not_told() -> None:
    holdings = Holdings()
    block: Any = holdings.arrive(1, lambda: Block(1))
    assert holdings.arrive(1, lambda: Block(1)) is block
    del block
    assert holdings.news() == ([], [])
    assert not holdings.is_known


def test_what_is_on_its_way_is_not_let_go_of() -> None:
    holdings = Holdings()
    block: Any = holdings.grant(1, lambda: Block(1))
    holdings.pin([1])
    del block
    assert holdings.news() == ([], [])
    holdings.unpin([1])
    assert holdings.news() == ([], [1])
    assert not holdings.is_known


def test_what_comes_again_before_it_was_let_go_of_is_kept() -> None:
    holdings = Holdings()
    block: Any = holdings.arrive(1, lambda: Block(1))
    assert holdings.news() == ([1], [])
    del block
    block = holdings.arrive(1, lambda: Block(1))
    assert holdings.news() == ([], [])
    del block
    assert holdings.news() == ([], [1])


def test_what_ends_twice_is_let_go_of_once() -> None:
    holdings = Holdings()
    block: Any = holdings.grant(1, lambda: Block(1))
    del block
    block = holdings.arrive(1, lambda: Block(1))
    del block
    assert holdings.news() == ([], [1])
    assert holdings.news() == ([], [])


@dataclass
class Worker:
    """A worker with its stream, as :mod:`megalith.link` drives it."""

    holder: Holder
    holdings: Holdings = field(default_factory=Holdings)
    mine: list[Block] = field(default_factory=list)
    """What its program refers to."""
    to: deque[Frame] = field(default_factory=deque)
    back: deque[Frame] = field(default_factory=deque)
    lent: dict[int, tuple[int, ...]] = field(default_factory=dict)
    asked: dict[int, tuple[int, object]] = field(default_factory=dict)
    """Question: what it asks for, and what the sender keeps meanwhile."""

    def tell(self) -> None:
        held, let_go = self.holdings.news()
        if held or let_go:
            self.back.append(holding(held, let_go))


class Lives(RuleBasedStateMachine):
    """Home and workers pass blocks to each other; what anybody has is there, and in the end nothing is."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Home()
        self.mine: list[Block] = []
        self.workers = [self.new_worker() for _ in range(WORKERS)]
        self.numbers = itertools.count(1)
        self.killed = False

    def new_worker(self) -> Worker:
        return Worker(self.home.references.holder("w"))

    @precondition(lambda self: len(self.home.there) < BLOCKS)
    @rule()
    def make(self) -> None:
        self.mine.append(self.home.make(1))

    @precondition(lambda self: self.mine)
    @rule(which=st.integers(0, 99))
    def drop(self, which: int) -> None:
        del self.mine[which % len(self.mine)]

    @rule(to=st.integers(0, WORKERS - 1), which=st.lists(st.integers(0, 99), max_size=2))
    def submit(self, to: int, which: list[int]) -> None:
        worker, number = self.workers[to], next(self.numbers)
        blocks = [self.mine[index % len(self.mine)] for index in which if self.mine]
        if blocks:
            worker.to.append(frame(Kind.LENT, worker.holder.lend(number, blocks), number=number))
        serials = pack_numbers(block.serial for block in blocks)
        worker.to.append(frame(Kind.TASK, serials, number=number))

    @rule(
        at=st.integers(0, WORKERS - 1),
        keeps=st.integers(0, 2),
        returns=st.integers(0, 2),
        drops=st.integers(0, 2),
        again=st.booleans(),
    )
    def hear_at_worker(self, at: int, keeps: int, returns: int, drops: int, again: bool) -> None:
        worker = self.workers[at]
        if not worker.to:
            return
        said = worker.to.popleft()
        if said.kind is Kind.LENT:
            worker.lent[said.number] = unpack_numbers(said.parts[0])
        elif said.kind is Kind.TASK and again:
            worker.lent.pop(said.number, None)
            worker.back.append(frame(Kind.GIVEN_BACK, number=said.number))
        elif said.kind is Kind.TASK:
            self.run_task(worker, said, keeps, returns, drops)
        else:
            wanted, _sender = worker.asked.pop(said.number)
            if said.kind is Kind.GRANTED:
                serial = unpack_numbers(said.parts[0])[2]
                worker.mine.append(worker.holdings.grant(serial, lambda: Block(serial)))
            else:
                assert self.killed, "who asks for what the sender has gets it"
            if wanted:
                worker.holdings.unpin([wanted])

    def run_task(self, worker: Worker, task: Frame, keeps: int, returns: int, drops: int) -> None:
        serials = unpack_numbers(task.parts[0])
        assert set(serials) <= set(worker.lent.pop(task.number, ()))
        arguments = [worker.holdings.arrive(serial, lambda serial=serial: Block(serial)) for serial in serials]  # type: ignore[misc]
        worker.mine += arguments[:keeps]
        answer = [block.serial for block in (worker.mine + arguments)[:returns]]
        worker.holdings.pin(answer)
        arguments.clear()
        del worker.mine[:drops]
        worker.tell()
        worker.back.append(frame(Kind.RESULT, pack_numbers(answer), number=task.number))
        worker.holdings.unpin(answer)

    @rule(at=st.integers(0, WORKERS - 1), keeps=st.booleans())
    def hear_at_home(self, at: int, keeps: bool) -> None:
        worker = self.workers[at]
        if not worker.back:
            return
        said = worker.back.popleft()
        if said.kind is Kind.RESULT:
            found = [self.home.there.get(serial) for serial in unpack_numbers(said.parts[0])]
            worker.holder.returned(said.number)
            assert None not in found, "a result has what it had"
            self.mine += [block for block in found if block is not None and keeps]
        elif said.kind is Kind.GIVEN_BACK:
            worker.holder.returned(said.number)
        elif (reply := worker.holder.hear(said)) is not None:
            worker.to.append(frame(reply.kind, reply.part, number=reply.number))

    @rule(at=st.integers(0, WORKERS - 1), which=st.integers(0, 99))
    def drop_at_worker(self, at: int, which: int) -> None:
        mine = self.workers[at].mine
        if mine:
            del mine[which % len(mine)]

    @rule(at=st.integers(0, WORKERS - 1))
    def tell(self, at: int) -> None:
        self.workers[at].tell()

    @precondition(lambda self: len(self.home.there) < BLOCKS)
    @rule(at=st.integers(0, WORKERS - 1))
    def make_at_worker(self, at: int) -> None:
        worker, number = self.workers[at], next(self.numbers)
        worker.asked[number] = (0, None)
        worker.back.append(frame(Kind.ALLOCATE, pack_numbers([1]), number=number))

    @rule(giver=st.integers(-1, WORKERS - 1), taker=st.integers(0, WORKERS - 1), which=st.integers(0, 99))
    def pass_otherwise(self, giver: int, taker: int, which: int) -> None:
        """Not through the executor: the giver keeps it until the taker has it."""
        theirs, worker = self.mine if giver < 0 else self.workers[giver].mine, self.workers[taker]
        if not theirs:
            return
        block = theirs[which % len(theirs)]
        known = worker.holdings.get(block.serial)
        if known is not None:
            worker.mine.append(known)
            return
        number = next(self.numbers)
        worker.asked[number] = (block.serial, block)
        worker.holdings.pin([block.serial])
        worker.back.append(frame(Kind.HOLD, pack_numbers([block.serial]), number=number))

    @rule(at=st.integers(0, WORKERS - 1))
    def kill(self, at: int) -> None:
        self.killed = True
        self.workers[at].holder.drop()
        self.workers[at] = self.new_worker()

    @invariant()
    def all_is_there(self) -> None:
        for worker in self.workers:
            for block in worker.mine:
                assert block.serial in self.home.there

    def teardown(self) -> None:
        self.mine.clear()
        for _ in range(3):  # News and answers bring others, but not for ever.
            for at, worker in enumerate(self.workers):
                while worker.to or worker.back:
                    self.hear_at_worker(at, 0, 1, 0, False)
                    self.hear_at_home(at, False)
                worker.mine.clear()
                worker.tell()
        gc.collect(0)
        assert not dict(self.home.there)
        assert all(not worker.holder.serials and not worker.holdings.is_known for worker in self.workers)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
