"""Frames, pickles, the backlog and the handshake, each by itself; and the examples in the documentation of all."""

from __future__ import annotations

import doctest
import importlib
import io
import pickle
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from megalith import handshake
from megalith.backlog import Backlog
from megalith.exceptions import ProtocolError
from megalith.frames import PARTS_MAX, Frame, FrameReader, FrameWriter, Kind, unpack_numbers
from megalith.pickling import OUT_OF_BAND_BYTES, dumps, loads, register, unregister


@pytest.mark.parametrize(
    "name", ["backlog", "chunks", "executor", "frames", "handshake", "here", "pickling", "pool", "seats", "worker"]
)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"megalith.{name}"))
    assert result.failed == 0


class Trickle:
    """A stream that takes and gives a few bytes at a time, or says that it would wait."""

    family = socket.AF_UNIX

    def __init__(self, sizes: list[int]) -> None:
        self.bytes = io.BytesIO()
        self._sizes = sizes
        self._turn = 0

    def _size(self) -> int:
        self._turn += 1
        size = self._sizes[self._turn % len(self._sizes)]
        if size == 0:
            raise BlockingIOError
        return size

    def sendmsg(self, pieces: list[bytes]) -> int:
        return self.bytes.write(b"".join(bytes(piece) for piece in pieces)[: self._size()])

    def recv_into(self, view: memoryview) -> int:
        return self.bytes.readinto(view[: self._size()])


PARTS = st.lists(st.one_of(st.binary(max_size=200), st.integers(0, 400_000).map(bytes)), max_size=5)


@settings(deadline=None, max_examples=60)
@given(
    frames=st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**64 - 1), PARTS), max_size=6),
    sizes=st.lists(st.sampled_from([0, 1, 7, 29, 1000, 70_000, 10**6]), min_size=1).filter(lambda s: max(s) > 900),
)
def test_frames_arrive_as_they_were_sent_however_the_stream_cuts_them(
    frames: list[tuple[Kind, int, list[bytes]]], sizes: list[int]
) -> None:
    stream = Trickle(sizes)
    writer = FrameWriter(stream)  # type: ignore[arg-type]
    for kind, number, parts in frames:
        writer.put(kind, *[(part[:3], memoryview(part)[3:]) for part in parts], number=number, nanoseconds=7)
    while not writer.send():
        pass
    assert writer.waiting_bytes == 0
    stream.bytes.seek(0)
    reader = FrameReader(stream)  # type: ignore[arg-type]
    read = [(f.kind, f.number, [bytes(part) for part in f.parts], f.nanoseconds) for f in everything(reader)]
    assert read == [(*frame, 7) for frame in frames]


def everything(reader: FrameReader) -> Iterator[Frame]:
    while True:
        try:
            yield from reader.read()
        except BlockingIOError:
            continue
        except EOFError:
            return


def head(magic: bytes = b"MLW1", kind: int = Kind.TASK, count: int = 0, lengths: tuple[int, ...] = ()) -> bytes:
    return struct.pack("<4sBxxxIQQ", magic, kind, count, 0, 0) + struct.pack(f"<{len(lengths)}Q", *lengths)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: somebody\r\n", "b'GET '"),
        (head(magic=b"MLW2"), "b'MLW2'"),
        (head(kind=0), "kind 0"),
        (head(kind=99), "kind 99"),
        (head(count=PARTS_MAX + 1), "parts"),
        (head(count=1, lengths=(1 << 60,)), f"{1 << 60} bytes"),
    ],
)
def test_what_is_no_frame_is_refused(said: bytes, why: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(said)
        with pytest.raises(ProtocolError, match=why):
            FrameReader(ours).read()


def test_frames_that_are_too_large_are_not_sent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ProtocolError, match="too large"):
        FrameWriter(ours).put(Kind.TASK, *[b""] * (PARTS_MAX + 1))
    with pytest.raises(ProtocolError, match="9 bytes"):
        unpack_numbers(bytes(9))


def test_large_bytes_and_buffers_are_not_copied() -> None:
    large = bytes(1 << 20)
    array = bytearray(OUT_OF_BAND_BYTES)
    pickled = dumps((large, pickle.PickleBuffer(array), pickle.PickleBuffer(array[:10])))
    assert any(piece is large for piece in pickled.body)
    assert [buffer.obj for buffer in pickled.buffers] == [array]
    array[0] = 9
    assert pickled.buffers[0][0] == 9
    body = b"".join(pickled.body)
    assert loads([body, *pickled.buffers]) == (large, array, bytes(10))


def test_more_buffers_than_a_frame_has_parts_go_into_the_pickle() -> None:
    many = [pickle.PickleBuffer(bytes([n % 256]) * OUT_OF_BAND_BYTES) for n in range(PARTS_MAX + 5)]
    pickled = dumps(many)
    assert len(pickled.buffers) < PARTS_MAX
    assert [bytes(one) for one in loads([b"".join(pickled.body), *pickled.buffers])] == [bytes(one) for one in many]


class Thing:
    """Has a reducer in tests."""

    def __init__(self, word: str) -> None:
        self.word = word


def test_own_reducers_go_before_registered_ones_and_both_before_pickle() -> None:
    def through(thing: Thing, **more: object) -> str:
        pickled = dumps(thing, **more)  # type: ignore[arg-type]
        word = loads([b"".join(pickled.body)]).word
        assert isinstance(word, str)
        return word

    register(Thing, lambda thing: (Thing, ("registered",)) if thing.word else NotImplemented)
    try:
        assert through(Thing("x")) == "registered"
        assert through(Thing("x"), reducers={Thing: lambda thing: (Thing, ("own",))}) == "own"
        assert through(Thing("")) == ""
    finally:
        unregister(Thing)
    assert through(Thing("x")) == "x"
    with pytest.raises(TypeError):
        dumps(threading.Lock())


@pytest.mark.parametrize("said", [b"", b"[]", b"{}", b'{"versions": 3, "path": []}', b'{"versions": {}, "path": [1]}'])
def test_what_is_no_greeting_is_refused(said: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a greeting"):
        handshake.understand(said)
    assert handshake.understand(handshake.hello())["versions"] == handshake.versions()
    assert "executor none" in (handshake.disagreement({}) or "")


@dataclass(frozen=True)
class Job:
    number: int
    prefers: str | None


OVERTAKEN_MAX = 4


class BacklogLife(RuleBasedStateMachine):
    """The backlog against a list that is searched from its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog: Backlog[Job] = Backlog(OVERTAKEN_MAX)
        self.model: list[Job] = []
        self.taken: list[Job] = []
        self.numbers = 0

    @rule(prefers=st.sampled_from([None, "a", "b", "c"]))
    def put(self, prefers: str | None) -> None:
        self.numbers += 1
        job = Job(self.numbers, prefers)
        self.backlog.put(job)
        self.model.append(job)

    @rule(host=st.sampled_from("abd"), open_hosts=st.sets(st.sampled_from("abc")))
    def take(self, host: str, open_hosts: set[str]) -> None:
        mine = [job for job in self.model if job.prefers in {None, host} or job.prefers not in open_hosts]
        expected = mine[0] if mine else None
        own = [job for job in mine if job.prefers == host]
        if own and expected is not None and own[0].number - expected.number < OVERTAKEN_MAX:
            expected = own[0]
        assert self.backlog.take(host, open_hosts) == expected
        if expected is not None:
            self.model.remove(expected)
            self.taken.append(expected)

    @rule(which=st.integers(0, 5))
    def put_back(self, which: int) -> None:
        if self.taken:
            job = self.taken.pop(which % len(self.taken))
            self.backlog.put_back(job)
            self.model = sorted([*self.model, job], key=lambda job: job.number)

    @rule()
    def clear(self) -> None:
        assert self.backlog.clear() == self.model
        self.model = []

    @invariant()
    def same_length(self) -> None:
        assert len(self.backlog) == len(self.model) == sum(self.backlog.waiting().values())


BacklogLife.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
TestBacklog = BacklogLife.TestCase
