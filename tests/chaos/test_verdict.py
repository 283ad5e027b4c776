"""The judge knows right from wrong, and the proxy where frames begin: nothing here starts an agent."""

import struct
from random import Random

import pytest

from chaos.plan import ABOUT_BODIES, ENDING, HARMLESS, SILENT, Fault, Kind, make
from chaos.play import plan_of
from chaos.programs import NAMES, THREADED
from chaos.proxy import Frames
from chaos.verdict import Class, Done, Seen, bound_s, judge

NAMED = ("a", "b", "c")
LOST_AFTER_S = 2.0
LOST_B = "megalith: host b was lost: connection closed; the program was killed"


def done(kind: Kind, host: str = "b", *, at_s: float = 1.0, for_s: float = 0.0, started: bool = True) -> Done:
    return Done(Fault(kind, host, started, at_s, for_s), at_s, started)


def seen(code: int, *stderr: str, right: bool = False, seconds: float = 3.0, stalled_s: float = 0.0) -> Seen:
    return Seen(code, seconds, stderr, right or code == 0, stalled_s)


def verdict(of: Seen, *dones: Done) -> Class:
    return judge(of, dones, NAMED, LOST_AFTER_S).kind


def test_endings_that_are_allowed() -> None:
    assert verdict(seen(0)) == Class.RIGHT
    assert verdict(seen(0), done(Kind.PAUSE_AGENT, for_s=0.5)) == Class.RIGHT
    assert verdict(seen(120, LOST_B), done(Kind.KILL_AGENT)) == Class.LOST
    assert verdict(seen(120, LOST_B), done(Kind.STOP_BODY)) == Class.LOST
    assert verdict(seen(120, "megalith: host a was lost: x; y"), done(Kind.KILL_HOME, "a")) == Class.LOST
    assert verdict(seen(125, "megalith: host b: no agent"), done(Kind.KILL_AGENT, started=False)) == Class.NOT_STARTED
    assert verdict(seen(-9), done(Kind.KILL_RUN, "a")) == Class.BY_SIGNAL
    assert verdict(seen(137), done(Kind.KILL_PROGRAM, "a")) == Class.BY_SIGNAL
    full = "sort: write failed: ./sortX: No space left on device"
    assert verdict(seen(2, full), done(Kind.FULL_DISK, "a")) == Class.FAILED


WRONG = {
    "another result": (Seen(0, 3, (), right=False, stalled_s=0), ()),
    "a loss for no reason": (seen(120, LOST_B), ()),
    "a loss after what harms nobody": (
        seen(120, LOST_B),
        (done(Kind.CUT, for_s=0.3), done(Kind.PAUSE_BODY, for_s=0.3)),
    ),
    "another host's name": (seen(120, "megalith: host c was lost: x"), (done(Kind.KILL_AGENT),)),
    "a loss without a line": (seen(120), (done(Kind.KILL_AGENT),)),
    "two lines": (seen(120, "megalith: host b: what", LOST_B), (done(Kind.KILL_AGENT),)),
    "not started, though it was": (seen(125, "megalith: host b"), (done(Kind.KILL_AGENT),)),
    "a crash": (seen(1, "Traceback (most recent call last):"), (done(Kind.KILL_AGENT),)),
    "a crash on a full disk": (seen(1, "OSError: [Errno 5]"), (done(Kind.FULL_DISK, "a"),)),
    "our own crash on a full disk": (
        seen(1, '  File "/x/python/megalith/view.py", line 1, in f', "OSError: [Errno 28] No space left on device"),
        (done(Kind.FULL_DISK, "a"),),
    ),
    "complaints of a run that was right": (seen(0, "megalith: oops"), ()),
    "exhausted memory": (
        seen(137, "megalith: memory exhausted, the program was killed"),
        (done(Kind.KILL_PROGRAM, "a"),),
    ),
    "a segmentation fault": (seen(139), (done(Kind.SEVER),)),
    "right long after a host was lost": (seen(0, seconds=60), (done(Kind.KILL_AGENT),)),
}


@pytest.mark.parametrize("name", WRONG)
def test_endings_that_are_not(name: str) -> None:
    of, dones = WRONG[name]
    assert verdict(of, *dones) == Class.WRONG


def test_a_computer_that_stood_still_proves_nothing() -> None:
    silent = "megalith: host b was lost: no sign of life for 2000 ms; the program was killed"
    assert verdict(seen(120, silent, stalled_s=1.5)) == Class.STALLED
    assert verdict(seen(120, silent, stalled_s=0.1)) == Class.WRONG
    assert verdict(seen(120, LOST_B, stalled_s=1.5)) == Class.WRONG


def test_what_ends_a_run_bounds_it() -> None:
    assert bound_s([], LOST_AFTER_S) > 60
    assert bound_s([done(Kind.PAUSE_PROGRAM, "a", for_s=3)], LOST_AFTER_S) > 60
    for kind in ENDING - {Kind.FULL_DISK, Kind.TIGHT_MEMORY}:
        assert bound_s([done(kind, at_s=2)], LOST_AFTER_S) < 2 + 2 * LOST_AFTER_S + 10, kind


def test_plans_come_from_their_seeds() -> None:
    assert make(5, NAMES, THREADED) == make(5, NAMES, THREADED)
    plans = [plan_of(seed) for seed in range(300)]
    assert len(set(plans)) == 300
    for plan in plans:
        assert plan.rounds[-1].faults == ()
        for one in plan.rounds:
            kinds = [fault.kind for fault in one.faults]
            assert len(SILENT.intersection(kinds)) <= 1, "two silences might be a loss"
            assert len(ENDING.intersection(kinds)) <= 1
            if ABOUT_BODIES.intersection(kinds):
                assert one.mode == "spread"
                assert one.workload in THREADED
    assert frozenset().union(*(plan.kinds for plan in plans)) == frozenset(Kind)
    assert frozenset(Kind) == HARMLESS | ENDING


def hello(purpose: int, body: bytes = bytes(40)) -> bytes:
    return b"MEGALITH" + struct.pack("<I16sI", 2, bytes(16), len(body) + 4) + struct.pack("<I", purpose) + body


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("<II", len(payload) | kind << 24, 7) + payload


def in_pieces(data: bytes, random: Random) -> list[bytes]:
    pieces = []
    while data:
        cut = random.randint(1, 60)
        pieces.append(data[:cut])
        data = data[cut:]
    return pieces


@pytest.mark.parametrize("seed", range(20))
def test_only_heads_of_frames_are_spoilt(seed: int) -> None:
    random = Random(seed)
    sent = [frame(random.randrange(6), random.randbytes(random.randrange(200))) for _ in range(20)]
    start = hello(0)
    frames = Frames(dials=True)
    got, harmed_after = b"", None
    for piece in in_pieces(start + b"".join(sent), random):
        passed, harmed = frames.pass_on(piece, random if harmed_after is None else None)
        assert len(passed) == len(piece)
        if harmed:
            harmed_after = len(got)
        got += passed
    original = start + b"".join(sent)
    changed = [at for at, (a, b) in enumerate(zip(got, original, strict=True)) if a != b]
    assert len(changed) == (harmed_after is not None)
    heads = [len(start) + sum(map(len, sent[:n])) for n in range(len(sent))]
    for at in changed:
        head = max(head for head in heads if head <= at)
        assert at - head in {2, 3}
        (word,) = struct.unpack_from("<I", got, head)
        assert word >> 24 > 5 or word & 0xFFFFFF > 1 << 20, "a receiver must notice"


def test_replies_and_channels_and_what_is_encrypted() -> None:
    random = Random(1)
    back = Frames(dials=False)
    reply = b"MEGALITH" + struct.pack("<III", 2, 0, 5) + b"names"
    assert back.pass_on(reply, random) == (reply, False)
    spoilt, harmed = back.pass_on(frame(0, b"page"), random)
    assert harmed
    assert spoilt != frame(0, b"page")
    channel = Frames(dials=True)
    assert channel.pass_on(hello(1) + b"anything" * 9, random) == (hello(1) + b"anything" * 9, False)
    assert channel.channel
    secret = Frames(dials=True)
    assert secret.pass_on(b"\x16\x03\x01" + bytes(200), None) == (b"\x16\x03\x01" + bytes(200), False)
    assert secret.opaque
    assert secret.pass_on(bytes(50), random)[1]
