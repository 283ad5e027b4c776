"""A worker's end of the stream, with a test for an executor."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from megalith.exceptions import AgentError, ProtocolError
from megalith.frames import Frame, FrameReader, Kind, pack_numbers, unpack_numbers
from megalith.link import Link

LIMIT_S = 30.0


class Block:
    def __init__(self, address: int, length: int, serial: int) -> None:
        self.place = (address, length, serial)
        self.serial = serial


class Home:
    """The other end."""

    def __init__(self) -> None:
        self._stream, theirs = socket.socketpair()
        self._stream.settimeout(LIMIT_S)
        self._theirs = theirs
        self._reader = FrameReader(self._stream)
        self._heard: list[Frame] = []
        self.link = Link(theirs)

    def hears(self) -> tuple[Kind, int, list[tuple[int, ...]]]:
        while not self._heard:
            self._heard = self._reader.read()
        said = self._heard.pop(0)
        return said.kind, said.number, [unpack_numbers(part) for part in said.parts]

    def says(self, kind: Kind, part: bytes, number: int) -> None:
        self.link.answered(Frame(kind, number, 0, [bytearray(part)]))

    def keeps(self) -> bool:
        return self.link.holds

    def close(self) -> None:
        self._stream.close()
        self._theirs.close()


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.close()


def aside(call: Callable[[], Any]) -> Future[Any]:
    """What it returns or raises, in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def test_what_is_asked_for_is_had_and_let_go_of(home: Home) -> None:
    asked = aside(lambda: home.link.allocate(100, Block))
    kind, number, parts = home.hears()
    assert (kind, parts) == (Kind.ALLOCATE, [(100,)])
    assert not home.keeps()
    home.says(Kind.GRANTED, pack_numbers((4096, 100, 7)), number)
    assert asked.result(LIMIT_S).place == (4096, 100, 7)
    assert home.keeps()
    again = home.link.block((4096, 100, 7), Block)
    assert again is asked.result(), "one object for each, and nothing is asked"
    del asked, again
    assert home.hears() == (Kind.HOLDING, 0, [(), (7,)]), "without anybody's asking"
    assert not home.keeps()


def test_what_is_denied_is_an_error(home: Home) -> None:
    asked = aside(lambda: home.link.block((4096, 100, 7), Block))
    kind, number, parts = home.hears()
    assert (kind, parts) == (Kind.HOLD, [(7,)])
    home.says(Kind.DENIED, b"it has been freed", number)
    with pytest.raises(ValueError, match="0x1000 cannot be had: it has been freed"):
        asked.result(LIMIT_S)
    asked = aside(lambda: home.link.allocate(100, Block))
    home.says(Kind.DENIED, b"no room", home.hears()[1])
    with pytest.raises(MemoryError, match="no room"):
        asked.result(LIMIT_S)
    with pytest.raises(MemoryError, match="in one piece"):
        home.link.allocate(1 << 63, Block)


def test_what_was_lent_and_kept_is_told_before_the_answer(home: Home) -> None:
    for task in (1, 2):
        home.link.lend(Frame(Kind.LENT, task, 0, [bytearray(pack_numbers((7, 8)))]))
    with home.link.arriving(1):
        kept, gone = (home.link.block((4096 * serial, 100, serial), Block) for serial in (7, 8))
    del gone
    home.link.answer(Kind.RESULT, b"", blocks=[], number=1, nanoseconds=0)
    assert home.hears() == (Kind.HOLDING, 0, [(7,), ()])
    assert home.hears()[:2] == (Kind.RESULT, 1)
    home.link.forget(2)
    with home.link.arriving(2):
        asked = aside(lambda: home.link.block((4096 * 8, 100, 8), Block))
        assert home.hears()[0] is Kind.HOLD, "the task was given back"
    blocks = [kept]
    del kept
    home.link.answer(Kind.RESULT, b"", blocks=blocks, number=3, nanoseconds=0)
    assert home.hears()[:2] == (Kind.RESULT, 3)
    assert home.hears() == (Kind.HOLDING, 0, [(), (7,)]), "after the answer that has it"
    assert not asked.done()


def test_who_cannot_hear_the_answer_does_not_ask(home: Home) -> None:
    home.link.listen_here()
    with pytest.raises(AgentError, match="in the thread that hears the answers"):
        home.link.allocate(100, Block)

    refused: list[AgentError] = []

    class Pieces(list[bytes]):
        """A part that asks while it is put on the stream, as a finalizer might."""

        def __iter__(self) -> Iterator[bytes]:
            with pytest.raises(AgentError, match="in the middle of something that is sent") as caught:
                other.link.allocate(100, Block)
            refused.append(caught.value)
            return super().__iter__()

    other = Home()
    other.link.send(Kind.GIVEN_BACK, Pieces([pack_numbers((1,))]))
    assert refused
    assert other.hears() == (Kind.GIVEN_BACK, 0, [(1,)])
    other.close()


@pytest.mark.parametrize(
    "said",
    [
        Frame(Kind.GRANTED, 1, 0, [bytearray(24)]),
        Frame(Kind.GRANTED, 0, 0, []),
        Frame(Kind.DENIED, 5, 0, [bytearray(b"no")]),
    ],
)
def test_answers_to_nothing_are_refused(home: Home, said: Frame) -> None:
    with pytest.raises(ProtocolError, match=f"does not say {said.kind.name} to question"):
        home.link.answered(said)
    with pytest.raises(ProtocolError, match="LENT with 0 parts"):
        home.link.lend(Frame(Kind.LENT, 1, 0, []))


def test_a_question_that_nobody_waits_for_any_more_keeps_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: threading.Event) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Event, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            home.link.allocate(100, Block)
    home.says(Kind.GRANTED, pack_numbers((4096, 100, 7)), home.hears()[1])
    assert home.hears() == (Kind.HOLDING, 0, [(), (7,)])
