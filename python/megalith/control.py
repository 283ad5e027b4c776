"""The client's side of an agent's ``control.sock`` (docs/architecture.md, "Control protocol").

One connection is one machine: it lives while the connection does. Lines of JSON come in, typed events
go out; nothing here decides anything.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, assert_never

from megalith.exceptions import AgentError, JoinError
from megalith.report import HostFigures, ThreadFigures

LINE_BYTES_MAX: Final = 1 << 20
AGENT_TIMEOUT_S: Final = 5.0
"""How long the agent may take to accept a connection, and to read what it is told."""


@dataclass(frozen=True, slots=True)
class Member:
    """A host as the home agent is told of it."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The machine exists."""

    hosts: tuple[HostFigures, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The machine could not be made; the connection ends."""

    kind: str
    host: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Status:
    """A sign of life, with figures."""

    hosts: tuple[HostFigures, ...]
    threads: tuple[ThreadFigures, ...] = ()
    """In spread mode."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A host is gone; the machine's clients have been killed."""

    host: str
    detail: str


@dataclass(frozen=True, slots=True)
class Full:
    """The budgets are used up; the machine's clients have been killed."""

    hosts: tuple[HostFigures, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """The machine has ended as asked; the last figures."""

    hosts: tuple[HostFigures, ...]
    threads: tuple[ThreadFigures, ...] = ()


@dataclass(frozen=True, slots=True)
class Shared:
    """A shared space is open, or could not be opened."""

    space: int | None
    detail: str = ""
    """Why not."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is at its end without having been asked to: the agent is gone."""


Event = Opened | Failed | Status | Lost | Full | Closed | Shared | Ended


def parse_event(line: bytes) -> Event:
    """One line of the agent's, as an event; raises AgentError if it is none, whatever it is."""
    try:
        data = json.loads(line)
        match data["event"]:
            case "opened":
                return Opened(tuple(HostFigures.opened(host) for host in data["hosts"]))
            case "failed":
                host = data.get("host")
                return Failed(str(data["kind"]), None if host is None else str(host), str(data["detail"]))
            case "status":
                return Status(_figures(data), _threads(data))
            case "lost":
                return Lost(str(data["host"]), str(data["detail"]))
            case "full":
                return Full(_figures(data))
            case "closed":
                return Closed(_figures(data), _threads(data))
            case "shared":
                space = data["space"]
                return Shared(None if space is None else int(space), str(data.get("detail", "")))
            case other:
                raise ValueError(f"unknown event {other!r}")
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        shown = line[:200].decode(errors="replace").strip()
        raise AgentError(f"the home agent said something that is no event ({error!r}): {shown}") from None


def _figures(data: dict[str, Any]) -> tuple[HostFigures, ...]:
    return tuple(HostFigures.from_wire(host) for host in data["hosts"])


def _threads(data: dict[str, Any]) -> tuple[ThreadFigures, ...]:
    return tuple(ThreadFigures.from_wire(thread) for thread in data.get("threads", ()))


class Control:
    """A connection to the home host's agent."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._ended = False

    @classmethod
    def connect(cls, path: Path) -> Control:
        """Connects.

        Raises:
            OSError: (FileNotFoundError, ConnectionRefusedError) no agent is there.
            AgentError: one is, and has taken no connection for :data:`AGENT_TIMEOUT_S`.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # settimeout() would not wait at all: a Unix socket that does not block is refused where the queue is full.
            limit = struct.pack("ll", int(AGENT_TIMEOUT_S), int(AGENT_TIMEOUT_S % 1 * 1e6))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            connection.connect(str(path))
        except BlockingIOError:
            connection.close()
            raise AgentError(f"the home host's agent has taken no connection for {AGENT_TIMEOUT_S:g} s") from None
        except BaseException:
            connection.close()
            raise
        connection.setblocking(False)
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def abort(self) -> None:
        """Hangs up, so that a wait in another thread ends: it hears :class:`Ended`."""
        with suppress(OSError):  # Nobody is there any more.
            self._socket.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Closes this process's copy; another's is not concerned."""
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def open(
        self,
        *,
        machine: str,
        members: Iterable[Member],
        heartbeat_s: float,
        lost_after_s: float,
        join_timeout_s: float,
    ) -> Opened:
        """Makes the machine; ``members`` begins with the home host."""
        self._send(
            {
                "op": "open",
                "machine": machine,
                "members": [{"name": member.name, "address": member.address} for member in members],
                "home": 0,
                "heartbeat_ms": round(heartbeat_s * 1000),
                "lost_after_ms": round(lost_after_s * 1000),
                "join_timeout_ms": round(join_timeout_s * 1000),
            }
        )
        for event in self.wait(join_timeout_s + lost_after_s):
            match event:
                case Opened():
                    return event
                case Failed():
                    raise _join_error(event)
                case Lost():
                    raise _join_error(Failed("unreachable", event.host, event.detail))
                case Ended():
                    raise AgentError("the home host's agent ended while the machine was being made")
                case Status() | Full() | Closed() | Shared():
                    continue
                case _ as never:
                    assert_never(never)
        raise AgentError(f"the home host's agent has not answered for {join_timeout_s + lost_after_s:g} s")

    def move(self, pid: int, tid: int, host: int) -> None:
        """Orders a thread to the host of that number (home is 0). Where it went, the next :class:`Status` says."""
        self._send({"op": "move", "pid": pid, "thread": tid, "host": host})

    def share(self, timeout_s: float = AGENT_TIMEOUT_S) -> int:
        """Opens a shared space, which lives as long as the machine; its number.

        Raises AgentError if it cannot be opened, the machine ends, or the agent does not answer within ``timeout_s``.
        """
        self._send({"op": "share"})
        for event in self.wait(timeout_s):
            match event:
                case Shared(space=int(space)):
                    return space
                case Shared(detail=detail):
                    raise AgentError(f"the home host's agent can share no memory: {detail}")
                case Lost() | Full() | Closed() | Ended():
                    raise AgentError("the machine ended before its memory was shared")
                case Status() | Opened() | Failed():
                    continue
                case _ as never:
                    assert_never(never)
        raise AgentError(f"the home host's agent has not answered for {timeout_s:g} s")

    def unshare(self, space: int) -> None:
        """Ends a shared space: its memory is freed on all hosts."""
        self._send({"op": "unshare", "space": space})

    def close(self) -> None:
        """Asks for the machine's end; :class:`Closed` follows."""
        self._send({"op": "close"})

    def wait(self, timeout_s: float) -> Iterable[Event]:
        """Events as they come, for at most ``timeout_s`` in all."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                events = self._receive()
            except TimeoutError:
                return
            finally:
                self._socket.setblocking(False)
            yield from events
            if self._ended:
                return

    def events(self) -> list[Event]:
        """What has come so far, without waiting."""
        events: list[Event] = []
        while not self._ended:
            try:
                events += self._receive()
            except BlockingIOError:
                break
        return events

    def _receive(self) -> list[Event]:
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._ended = True
            return [Ended()]
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            raise AgentError(f"the home host's agent sent a line of more than {LINE_BYTES_MAX} bytes")
        self._buffer = bytearray(rest)
        return [parse_event(bytes(line)) for line in lines if line.strip()]

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.settimeout(AGENT_TIMEOUT_S)
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except TimeoutError:
            raise AgentError("the home host's agent does not read what it is told") from None
        except ConnectionError:
            pass  # The agent is gone; reading says so, with whatever it still had to say before.
        finally:
            self._socket.setblocking(False)


def _join_error(failed: Failed) -> JoinError:
    host = f"host {failed.host}" if failed.host else "the machine"
    what = {
        "unreachable": f"{host} cannot be reached",
        "version": f"{host} runs another version of Megalith",
        "cluster": f"{host} belongs to another cluster",
        "refused": f"{host} refused",
        "name": f"{host} goes by another name",
        "timeout": f"{host} did not answer in time",
        "keys": f"the keys of {host} and of another host do not fit",
    }.get(failed.kind, f"{host}: {failed.kind}")
    return JoinError(f"{what}: {failed.detail}", kind=failed.kind, host=failed.host)
