"""The control protocol, as docs/architecture.md has it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from megalith.control import Closed, Control, Ended, Full, Lost, Member, Opened, Shared, Status, parse_event
from megalith.exceptions import AgentError, JoinError
from megalith.report import FaultTimes, HostFigures, HotPage, ThreadFigures

FIGURES: dict[str, Any] = {
    "name": "a",
    "budget": 8192,
    "held": 4096,
    "peak": 8192,
    "mapped": 4096,
    "stowed": 0,
    "stowed_pages": 0,
    "faults": {"first_touch": 1, "local": 2, "remote": 3, "minor": 4, "write": 5},
    "bytes_in": 1,
    "bytes_out": 2,
    "evicted_pages": 3,
    "handed_over_pages": 4,
    "received_pages": 5,
    "fault_us": {"p50": 1.5, "p99": None},
}


def line(**message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def test_events_are_typed() -> None:
    status = parse_event(line(event="status", hosts=[FIGURES]))
    assert isinstance(status, Status)
    assert status.hosts[0].faults.total == 15
    assert status.hosts[0].fault_us == FaultTimes(1.5, None)
    assert parse_event(line(event="closed", hosts=[FIGURES])) == Closed(status.hosts)
    assert parse_event(line(event="full", hosts=[FIGURES])) == Full(status.hosts)
    assert parse_event(line(event="lost", host="b", detail="gone")) == Lost("b", "gone")
    opened = parse_event(line(event="opened", hosts=[{"name": "a", "budget": 7}]))
    assert opened == Opened((HostFigures("a", 7),))
    assert parse_event(line(event="shared", space=5)) == Shared(5)
    assert parse_event(line(event="shared", space=None, detail="why")) == Shared(None, "why")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (line(event="status", hosts=[FIGURES]) + line(event="shared", space=5), 5),
        (line(event="shared", space=None, detail="too many"), "can share no memory: too many"),
        (line(event="lost", host="b", detail="gone"), "ended before its memory was shared"),
        (b"", "has not answered for 0.2 s"),
    ],
)
def test_a_space_is_shared_or_the_reason_said(answer: bytes, outcome: int | str) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs, Control(ours) as control:
        theirs.sendall(answer)
        if isinstance(outcome, int):
            assert control.share(timeout_s=5.0) == outcome
        else:
            with pytest.raises(AgentError, match=outcome):
                control.share(timeout_s=0.2 if not answer else 5.0)
        assert theirs.recv(100) == line(op="share")


THREAD = {"pid": 7, "tid": 8, "name": "w", "host": "a", "cpu_ms": 90, "moves": 2, "why": "ordered"}
SPREAD = {
    "cpus": 4,
    "load": 1.25,
    "invalidated_pages": 6,
    "forwarded_pages": 7,
    "dwelled": 8,
    "rtt_us": [0, 35, None],
    "pages_from": [0, 12],
}


def test_spread_mode_has_more_to_say() -> None:
    hot = [{"page": 4096, "pid": 7, "moves": 9}]
    status = parse_event(line(event="status", hosts=[FIGURES | SPREAD | {"hot": hot}], threads=[THREAD]))
    assert isinstance(status, Status)
    assert status.threads == (ThreadFigures(7, 8, "w", "a", 90, 2, "ordered"),)
    host = status.hosts[0]
    assert (host.cpus, host.load, host.invalidated_pages, host.forwarded_pages, host.dwelled) == (4, 1.25, 6, 7, 8)
    assert host.hot == (HotPage(4096, 7, 9),)
    assert host.rtt_us == (0, 35, None)
    assert host.pages_from == (0, 12)
    opened = parse_event(line(event="opened", hosts=[FIGURES | SPREAD]))
    assert opened == Opened((HostFigures("a", 8192, cpus=4, rtt_us=(0, 35, None)),))


def test_agents_that_say_less_are_understood() -> None:
    status = parse_event(line(event="status", hosts=[FIGURES]))
    assert isinstance(status, Status)
    assert status.threads == ()
    assert (status.hosts[0].cpus, status.hosts[0].load, status.hosts[0].hot) == (None, None, ())
    assert status.hosts[0].rtt_us == ()


@pytest.mark.parametrize(
    "text",
    [
        line(event="status", hosts=[FIGURES | {"cpus": "4"}]),
        line(event="status", hosts=[FIGURES | {"load": -1}]),
        line(event="status", hosts=[FIGURES | {"rtt_us": [0, -1]}]),
        line(event="status", hosts=[FIGURES | {"pages_from": [0, None]}]),
        line(event="status", hosts=[FIGURES | {"hot": [{"page": 1}]}]),
        line(event="status", hosts=[FIGURES], threads=[THREAD | {"cpu_ms": 0.5}]),
        line(event="status", hosts=[FIGURES], threads=[{"pid": 7}]),
        b"",
        b"[]",
        b"{}",
        b"\xff",
        line(event="sing"),
        line(event="status"),
        line(event="status", hosts=[FIGURES | {"held": -1}]),
        line(event="status", hosts=[FIGURES | {"held": 1.5}]),
        line(event="status", hosts=[FIGURES | {"held": True}]),
        line(event="status", hosts=[FIGURES | {"fault_us": {"p50": "1"}}]),
        line(event="status", hosts=[{key: FIGURES[key] for key in FIGURES if key != "peak"}]),
    ],
)
def test_what_is_no_event_is_refused(text: bytes) -> None:
    with pytest.raises(AgentError, match="is no event"):
        parse_event(text)


@pytest.fixture
def pair() -> Iterator[tuple[Control, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with Control(ours) as control, theirs:
        yield control, theirs


def test_lines_may_come_in_pieces(pair: tuple[Control, socket.socket]) -> None:
    control, agent = pair
    text = line(event="lost", host="b", detail="gone")
    agent.sendall(text[:10])
    assert control.events() == []
    agent.sendall(text[10:] + text)
    assert control.events() == [Lost("b", "gone")] * 2
    agent.close()
    assert control.events() == [Ended()]
    assert control.events() == []


def answer(agent: socket.socket, *lines: bytes) -> Callable[[], dict[str, Any]]:
    """Answers one message; the result is that message."""
    heard: list[bytes] = []

    def serve() -> None:
        heard.append(agent.recv(65536))
        for text in lines:
            agent.sendall(text)
        agent.close()

    thread = threading.Thread(target=serve)
    thread.start()

    def message() -> dict[str, Any]:
        thread.join()
        result: dict[str, Any] = json.loads(heard[0])
        return result

    return message


def open_machine(control: Control) -> Opened:
    members = [Member("a", "h:1"), Member("b", "h:2")]
    return control.open(machine="0" * 16, members=members, heartbeat_s=0.5, lost_after_s=3, join_timeout_s=1)


def test_open_says_what_the_protocol_asks_for(pair: tuple[Control, socket.socket]) -> None:
    control, agent = pair
    message = answer(agent, line(event="opened", hosts=[{"name": "a", "budget": 7}]))
    assert open_machine(control).hosts[0].budget == 7
    assert message() == {
        "op": "open",
        "machine": "0" * 16,
        "members": [{"name": "a", "address": "h:1"}, {"name": "b", "address": "h:2"}],
        "home": 0,
        "heartbeat_ms": 500,
        "lost_after_ms": 3000,
        "join_timeout_ms": 1000,
    }


def test_an_order_to_move(pair: tuple[Control, socket.socket]) -> None:
    control, agent = pair
    control.move(7, 8, 1)
    assert json.loads(agent.recv(65536)) == {"op": "move", "pid": 7, "thread": 8, "host": 1}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("unreachable", "host b cannot be reached: why"),
        ("version", "host b runs another version of Megalith: why"),
        ("cluster", "host b belongs to another cluster: why"),
        ("refused", "host b refused: why"),
        ("name", "host b goes by another name: why"),
        ("timeout", "host b did not answer in time: why"),
        ("novel", "host b: novel: why"),
    ],
)
def test_a_machine_that_cannot_be_made_says_why(pair: tuple[Control, socket.socket], kind: str, words: str) -> None:
    control, agent = pair
    message = answer(agent, line(event="failed", kind=kind, host="b", detail="why"))
    with pytest.raises(JoinError) as caught:
        open_machine(control)
    message()
    assert str(caught.value) == words
    assert (caught.value.kind, caught.value.host) == (kind, "b")


def test_an_agent_that_ends_or_stays_silent_is_not_waited_for(pair: tuple[Control, socket.socket]) -> None:
    control, agent = pair
    message = answer(agent)
    with pytest.raises(AgentError, match="ended while the machine was being made"):
        open_machine(control)
    message()


def test_silence_has_an_end() -> None:
    ours, theirs = socket.socketpair()
    with Control(ours) as control, theirs, pytest.raises(AgentError, match=r"has not answered for 0\.2 s"):
        control.open(machine="0" * 16, members=[], heartbeat_s=0.1, lost_after_s=0.1, join_timeout_s=0.1)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Control.connect(tmp_path / "control.sock")


def test_an_agent_that_takes_no_connections_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stopped one does, once its queue is full."""
    monkeypatch.setattr("megalith.control.AGENT_TIMEOUT_S", 0.2)
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        with pytest.raises(AgentError, match=r"has taken no connection for 0\.2 s"):
            Control.connect(path)
