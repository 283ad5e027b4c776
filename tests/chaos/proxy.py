"""A TCP proxy in front of each agent, which makes the network what a test wants.

Hosts dial each other by the addresses of the hosts file, and these are the proxies': each listens in its host's
namespace and passes everything on to the agent there. It moves bytes and understands little: only, on a link that is
not encrypted, where frames begin (docs/fabric.md), because a harmed byte elsewhere in them would go unnoticed.

One thread a proxy, which is all that touches its sockets; what others may call (`Proxy`'s public methods) leaves a
note and wakes it.
"""

import ctypes
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Final, final

_CLONE_NEWNET: Final = 0x40000000
_CHUNK_BYTES: Final = 128 << 10
_WAITING_BYTES_MAX: Final = 1 << 20
"""So much of a direction waits here; more waits with its sender."""
_CONNECT_S_MAX: Final = 1.0

_MAGIC: Final = b"MEGALITH"
_HELLO_BYTES: Final = 36
"""The hello's fixed part, and what it is for, with which its body begins."""
_REPLY_BYTES: Final = 20
_HEAD_BYTES: Final = 8


@dataclass
class Weather:
    """What a host's links are like; a link has the worse of its two ends."""

    delay_s: float = 0.0
    """Added to each direction."""
    bytes_per_s: float = float("inf")
    """The most that each direction of each connection carries."""


@final
class Frames:
    """Finds the frames in one direction of a connection, as its bytes go by."""

    def __init__(self, *, dials: bool) -> None:
        self._dials = dials
        self._head = b""
        self._head_bytes = _HELLO_BYTES if dials else _REPLY_BYTES
        self._skip = 0
        self._framed = False
        self.channel = False
        """It carries no frames; of a hello alone."""
        self.opaque = False
        """It does not begin as agents begin that speak in the clear."""

    def pass_on(self, data: bytes, harm: Random | None) -> tuple[bytes, bool]:
        """Follows `data`; with `harm`, spoils it where a receiver must notice. Returns it, and whether it is spoilt."""
        harmed = False
        if self.opaque:
            return (_flip(data, harm.randrange(len(data)), 1 << harm.randrange(8)), True) if harm else (data, False)
        at = 0
        while at < len(data) and not self.channel and not self.opaque:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            start, piece = at, data[at : at + self._head_bytes - len(self._head)]
            whole = len(piece) == self._head_bytes
            self._head += piece
            at += len(piece)
            if len(self._head) < min(len(_MAGIC), self._head_bytes):
                continue
            if not self._framed and not self._head.startswith(_MAGIC):
                self.opaque = True
            elif len(self._head) == self._head_bytes:
                if harm and self._framed and whole and not harmed:
                    # The top bit of the kind, or of the length: no frame has either.
                    data, harmed = _flip(data, start + harm.choice((2, 3)), 0x80), True
                self._take_head()
        return data, harmed

    def _take_head(self) -> None:
        head, self._head = self._head, b""
        if self._framed:
            self._skip = int.from_bytes(head[:3], "little")
            return
        if self._dials:
            length, purpose = struct.unpack_from("<II", head, 28)
            self._skip, self.channel = length - 4, purpose != 0
        else:
            (self._skip,) = struct.unpack_from("<I", head, 16)
        self._framed, self._head_bytes = True, _HEAD_BYTES


def _flip(data: bytes, at: int, bits: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= bits
    return bytes(changed)


@dataclass(eq=False)
class _Stream:
    """One direction of a connection."""

    source: socket.socket
    target: socket.socket
    frames: Frames
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    """When it is due, and what."""
    waiting: int = 0
    free_at: float = 0.0
    ended: bool = False
    """The source has said all; and once the queue is empty the target is told."""
    told: bool = False
    blocked: bool = False


@dataclass(eq=False)
class _Connection:
    ends: frozenset[str]
    forth: _Stream
    back: _Stream

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return self.forth.source, self.forth.target


@final
class Proxy:
    """The proxy of one host: listens at `address` in namespace `namespace` and passes on to `agent`.

    `name_of` tells a host's name from its IP address, `weather` is shared by all proxies of a network.
    """

    def __init__(
        self,
        host: str,
        namespace: str,
        address: tuple[str, int],
        agent: tuple[str, int],
        name_of: Callable[[str], str],
        weather: dict[str, Weather],
    ) -> None:
        self.host = host
        self._namespace = namespace
        self._address = address
        self._agent = agent
        self._name_of = name_of
        self._weather = weather
        self._random = Random(host)
        self._connections: list[_Connection] = []
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._orders: deque[tuple[str, str]] = deque()
        self.harmed = 0
        """Frames that were spoilt so far."""
        self._to_harm: set[str] = set()
        self._ready: threading.Event = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name=f"proxy-{host}", daemon=True)
        self._thread.start()
        if not self._ready.wait(10):
            raise TimeoutError(f"the proxy of {host} did not start")
        if self._error:
            raise self._error

    def harm(self, other: str) -> None:
        """Spoils the next frame between this host and `other`."""
        self._order("harm", other)

    def calm(self) -> None:
        """Spoils nothing that was not spoilt yet."""
        self._order("calm", "")

    def sever(self, other: str) -> None:
        """Breaks every connection between this host and `other`, as a reset."""
        self._order("sever", other)

    def refresh(self) -> None:
        """The weather has changed."""
        self._order("refresh", "")

    def close(self) -> None:
        """Breaks all connections and ends."""
        self._order("close", "")
        self._thread.join(10)
        if self._thread.is_alive():
            raise TimeoutError(f"the proxy of {self.host} does not end")

    def _order(self, what: str, other: str) -> None:
        self._orders.append((what, other))
        with suppress(OSError):  # it has ended
            self._wake.send(b"\0")

    def _run(self) -> None:
        try:
            self._enter()
            listener = socket.create_server(self._address, backlog=64)
        except OSError as error:
            self._error = error
            self._ready.set()
            return
        listener.setblocking(False)
        self._ready.set()
        try:
            self._selector.register(listener, selectors.EVENT_READ)
            self._selector.register(self._woken, selectors.EVENT_READ)
            self._serve(listener)
        finally:
            for connection in self._connections[:]:
                self._break(connection)
            listener.close()
            self._selector.close()
            self._wake.close()
            self._woken.close()

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(f"/run/netns/{self._namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Of this thread alone: namespaces(7).
            if libc.setns(fd, _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"setns: {os.strerror(number)}")
        finally:
            os.close(fd)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            now = time.monotonic()
            due = [s.queue[0][0] for c in self._connections for s in (c.forth, c.back) if s.queue and not s.blocked]
            timeout = max(0.0, min(due) - now) if due else None
            for key, events in self._selector.select(timeout):
                if key.fileobj is listener:
                    self._accept(listener)
                elif key.fileobj is self._woken:
                    with suppress(BlockingIOError):
                        self._woken.recv(4096)
                elif isinstance(key.data, _Connection) and key.data in self._connections:
                    self._move(key.data, key.fileobj, events)
            while self._orders:
                what, other = self._orders.popleft()
                if what == "close":
                    return
                self._obey(what, other)
            now = time.monotonic()
            for connection in self._connections[:]:
                self._settle(connection, now)

    def _obey(self, what: str, other: str) -> None:
        if what == "harm":
            self._to_harm.add(other)
        elif what == "calm":
            self._to_harm.clear()
        elif what == "sever":
            for connection in self._connections[:]:
                if other in connection.ends:
                    self._break(connection)
        else:  # What waits because of the weather of before is due now.
            for connection in self._connections:
                for stream in (connection.forth, connection.back):
                    stream.queue = deque((0.0, data) for _, data in stream.queue)
                    stream.free_at = 0.0

    def _accept(self, listener: socket.socket) -> None:
        try:
            near, (source, _) = listener.accept()
        except OSError:
            return
        try:
            far = socket.create_connection(self._agent, timeout=_CONNECT_S_MAX)
        except OSError:
            _reset(near)
            return
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        forth = _Stream(near, far, Frames(dials=True))
        back = _Stream(far, near, Frames(dials=False))
        connection = _Connection(frozenset({self._name_of(source), self.host}), forth, back)
        self._connections.append(connection)
        for end in (near, far):
            self._selector.register(end, selectors.EVENT_READ, connection)

    def _move(self, connection: _Connection, end: object, events: int) -> None:
        for stream in (connection.forth, connection.back):
            if events & selectors.EVENT_WRITE and stream.target is end:
                stream.blocked = False
            if events & selectors.EVENT_READ and stream.source is end and not stream.ended:
                self._read(connection, stream)

    def _read(self, connection: _Connection, stream: _Stream) -> None:
        if stream.waiting >= _WAITING_BYTES_MAX:
            return
        try:
            data = stream.source.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._break(connection)
            return
        if not data:
            stream.ended = True
            return
        asked = self._to_harm & connection.ends
        # Both directions of a channel are as its hello says.
        stream.frames.channel |= connection.forth.frames.channel
        data, harmed = stream.frames.pass_on(data, self._random if asked else None)
        if harmed:
            self._to_harm -= asked
            self.harmed += 1
        weathers = [self._weather[name] for name in connection.ends if name in self._weather]
        now = time.monotonic()
        if (rate := min(w.bytes_per_s for w in weathers)) != float("inf"):
            stream.free_at = max(stream.free_at, now) + len(data) / rate
        due = max(stream.free_at, now) + max(w.delay_s for w in weathers)
        stream.queue.append((due, data))
        stream.waiting += len(data)

    def _settle(self, connection: _Connection, now: float) -> None:
        """Sends what is due, passes ends on, and says what is waited for."""
        for stream in (connection.forth, connection.back):
            while stream.queue and not stream.blocked and stream.queue[0][0] <= now:
                due, data = stream.queue.popleft()
                try:
                    sent = stream.target.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    self._break(connection)
                    return
                stream.waiting -= sent
                if sent < len(data):
                    stream.queue.appendleft((due, data[sent:]))
                    stream.blocked = True
            if stream.ended and not stream.queue and not stream.told:
                stream.told = True
                with suppress(OSError):
                    stream.target.shutdown(socket.SHUT_WR)
        if connection.forth.told and connection.back.told:
            self._forget(connection)
            for end in connection.sockets:
                end.close()
            return
        for end, reads, writes in (
            (connection.forth.source, connection.forth, connection.back),
            (connection.back.source, connection.back, connection.forth),
        ):
            wanted = 0
            if not reads.ended and reads.waiting < _WAITING_BYTES_MAX:
                wanted |= selectors.EVENT_READ
            if writes.blocked:
                wanted |= selectors.EVENT_WRITE
            self._watch(end, wanted, connection)

    def _watch(self, end: socket.socket, wanted: int, connection: _Connection) -> None:
        key = self._selector.get_map().get(end)
        if key is None and wanted:
            self._selector.register(end, wanted, connection)
        elif key is not None and not wanted:
            self._selector.unregister(end)
        elif key is not None and key.events != wanted:
            self._selector.modify(end, wanted, connection)

    def _forget(self, connection: _Connection) -> None:
        self._connections.remove(connection)
        for end in connection.sockets:
            if end in self._selector.get_map():
                self._selector.unregister(end)

    def _break(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._forget(connection)
            for end in connection.sockets:
                _reset(end)


def _reset(end: socket.socket) -> None:
    """Closes a socket so that its peer finds the connection broken, whatever waited to be sent."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
