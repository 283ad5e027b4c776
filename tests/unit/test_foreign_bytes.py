"""Whatever a hosts file, an agent or a user says: what it means, or the documented exception, in one line.

The examples are those that once raised something else.
"""

from __future__ import annotations

import copy
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megalith.control import Closed, Control, Ended, Failed, Full, Lost, Opened, Status, parse_event
from megalith.exceptions import AgentError, HostsFileError, SizeError
from megalith.hostsfile import FILE_BYTES_MAX, HOSTS_MAX, NAME, Hosts, parse_hosts, read_hosts, valid_address
from megalith.sizes import parse_budget, parse_size
from test_control import FIGURES, SPREAD, THREAD

settings.register_profile("megalith", deadline=None, derandomize=True, database=None, max_examples=100)
settings.load_profile("megalith")

DEEP = 100_000
"""Brackets within brackets: more than Python's parsers follow."""
DIGITS = "9" * 5000
"""More than Python makes a number of."""


def check_line(error: Exception) -> None:
    assert "\n" not in str(error)


def hosts_or_reason(content: bytes) -> Hosts | None:
    try:
        hosts = parse_hosts(content)
    except HostsFileError as error:
        check_line(error)
        return None
    assert 1 <= len(hosts.hosts) <= HOSTS_MAX
    for host in hosts.hosts:
        assert NAME.fullmatch(host.name)
        assert valid_address(host.address)
        assert host.address.isascii()
        assert host.directory.is_absolute()
        assert "\0" not in str(host.directory)
    return hosts


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")))
@example(b"host = " + b"[" * DEEP)
@example(b"x = " + DIGITS.encode())
@example(b"#" * (FILE_BYTES_MAX + 1))
def test_any_bytes_are_a_hosts_file_or_are_refused(content: bytes) -> None:
    hosts_or_reason(content)


def toml(value: object) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{toml(str(key))} = {toml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case str():
            shown = (f"\\U{ord(char):08x}" if not char.isalnum() or char in '"\\' else char for char in value)
            return '"' + "".join(shown) + '"'
        case _:
            return json.dumps(value)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "a",
        "b",
        "h:1",
        "10.0.0.1:7070",
        "[::1]:7070",
        "2T",
        "1.5G",
        "/run/a",
        "a:\u0663",
        "/a\0b",
        DIGITS,
        f"{DIGITS}.5T",
    ]
)
NUMBERS = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(TEXTS | NUMBERS | st.booleans(), lambda inner: st.lists(inner, max_size=3), max_leaves=5)
ENTRY = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "c"]) | VALUES, "address": st.sampled_from(["h:1", "h:2", "h:3"]) | VALUES},
    optional={"memory": VALUES, "directory": VALUES, "port": VALUES},
)
FILE = st.fixed_dictionaries(
    {"host": st.lists(ENTRY, max_size=4) | VALUES}, optional={"cluster": VALUES, "hosts": VALUES}
)


@given(FILE)
@example({"host": [{"name": "a", "address": "h:1", "memory": DIGITS}]})
@example({"host": [{"name": "a", "address": "h:1", "memory": f"{DIGITS}.5T"}]})
@example({"host": [{"name": "a", "address": "h:\u0663"}]})
@example({"host": [{"name": "a", "address": "h:1", "directory": "/a\0b"}]})
def test_any_tables_are_a_hosts_file_or_are_refused(table: dict[str, object]) -> None:
    hosts_or_reason("\n".join(f"{key} = {toml(value)}" for key, value in table.items()).encode())


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
def test_these_tables_do_reach_what_is_accepted(names: list[str]) -> None:
    hosts = hosts_or_reason(toml_file([{"name": name, "address": f"{name}:1"} for name in names]))
    assert hosts is not None
    assert [host.name for host in hosts.hosts] == names


def toml_file(entries: list[dict[str, str]]) -> bytes:
    return f"host = {toml(entries)}".encode()


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(HostsFileError, match="more than 1024 KiB"):
        read_hosts(path)


@given(TEXTS | st.from_regex(r"\A\d{1,30}(\.\d{1,30})? ?[kKmMgGtT]?(ib|iB)?\Z"))
@example(DIGITS)
@example(f"{DIGITS}.5T")
@example("\u0663G")
def test_any_text_is_a_size_or_is_refused(text: str) -> None:
    for parse in (parse_size, parse_budget):
        try:
            assert parse(text) >= 0
        except SizeError as error:
            check_line(error)


EVENTS = (Opened, Failed, Status, Lost, Full, Closed)


def event_or_reason(line: bytes) -> object:
    try:
        event = parse_event(line)
    except AgentError:
        return None
    assert isinstance(event, EVENTS)
    return event


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * DEEP)
@example(b'{"event": ' + DIGITS.encode() + b"}")
def test_any_line_is_an_event_or_is_refused(line: bytes) -> None:
    event_or_reason(line)


WHOLE: list[dict[str, Any]] = [
    {"event": "opened", "hosts": [FIGURES | SPREAD]},
    {"event": "failed", "kind": "refused", "host": "b", "detail": "why"},
    {
        "event": "status",
        "hosts": [FIGURES, FIGURES | SPREAD | {"hot": [{"page": 4096, "pid": 7, "moves": 9}]}],
        "threads": [THREAD | {"waited_ms": {"b": 7}}],
    },
    {"event": "lost", "host": "b", "detail": "gone"},
    {"event": "full", "hosts": [FIGURES]},
    {"event": "closed", "hosts": [FIGURES], "threads": [THREAD]},
]


def places(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all that is in a JSON value, itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inner for place in places(item, (*at, key)))]


def changed(whole: object, place: tuple[Any, ...], value: object) -> object:
    """A copy with another value in a place."""
    if not place:
        return value
    result: Any = copy.deepcopy(whole)
    inner = result
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return result


PLACES = [(whole, place) for whole in WHOLE for place in places(whole)]


@given(st.sampled_from(PLACES), JSON)
@example((WHOLE[2], ("threads", 0, "waited_ms")), [])
@example((WHOLE[2], ("hosts", 1, "load")), 10**400)
@example((WHOLE[2], ("hosts", 0, "fault_us", "p50")), float("nan"))
@example((WHOLE[2], ("hosts",)), {})
def test_an_event_with_a_changed_part_is_one_or_is_refused(
    where: tuple[dict[str, Any], tuple[Any, ...]], value: object
) -> None:
    event_or_reason(json.dumps(changed(*where, value)).encode())


def test_the_events_that_are_changed_are_events() -> None:
    assert all(event_or_reason(json.dumps(whole).encode()) for whole in WHOLE)


@given(st.lists(st.sampled_from(WHOLE), max_size=3), st.binary(max_size=20), st.lists(st.integers(1, 400), max_size=5))
def test_a_stream_in_any_pieces_is_its_events_or_is_refused(
    events: list[dict[str, Any]], rest: bytes, cuts: list[int]
) -> None:
    stream = b"".join(json.dumps(event).encode() + b"\n" for event in events) + rest
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    got: list[object] = []
    with Control(ours) as control, theirs:
        at = 0
        try:
            for cut in [*cuts, len(stream)]:
                theirs.sendall(stream[at : at + cut])
                at += cut
                got += control.events()
            theirs.close()
            got += control.events()
        except AgentError:
            assert b"\n" in rest
        else:
            assert len(got) == len(events) + 1
            assert got[-1] == Ended()
