"""A client that loads memcached over a Unix socket from several connections at once, and knows every answer."""

import io
import socket
import threading
from pathlib import Path
from random import Random


class WrongAnswerError(AssertionError):
    """The server answered what it should not have."""


def load(path: Path, *, connections: int, rounds: int) -> int:
    """Talks to the server until every connection has made its rounds; returns the number of answers checked."""
    failures: list[BaseException] = []
    checked = [0] * connections

    def talk(number: int) -> None:
        try:
            checked[number] = _talk(path, number, rounds)
        except BaseException as error:  # raised again below
            failures.append(error)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(checked)


def _talk(path: Path, number: int, rounds: int) -> int:
    """One connection, whose keys are its own; what they hold is known."""
    random = Random(number)
    known: dict[str, bytes] = {}
    checked = 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        stream = connection.makefile("rwb")
        for _ in range(rounds):
            key = f"c{number}-{random.randrange(60)}"
            match random.randrange(5):
                case 0 | 1:
                    value = random.randbytes(random.choice([3, 100, 1000, 9000]))
                    _expect(stream, f"set {key} 0 0 {len(value)}\r\n".encode() + value + b"\r\n", b"STORED\r\n")
                    known[key] = value
                case 2:
                    _expect(stream, f"delete {key}\r\n".encode(), b"DELETED\r\n" if key in known else b"NOT_FOUND\r\n")
                    known.pop(key, None)
                case 3 if key in known:
                    _expect(stream, f"append {key} 0 0 4\r\nmore\r\n".encode(), b"STORED\r\n")
                    known[key] += b"more"
                case _:
                    answer = b"END\r\n"
                    if (held := known.get(key)) is not None:
                        answer = f"VALUE {key} 0 {len(held)}\r\n".encode() + held + b"\r\nEND\r\n"
                    _expect(stream, f"get {key}\r\n".encode(), answer)
            checked += 1
        for _ in range(rounds // 10):  # a counter that all share: sums are checked by `total`
            stream.write(b"incr shared 1\r\n")
            stream.flush()
            if not stream.readline().strip().isdigit():
                raise WrongAnswerError("incr")
    return checked


def total(path: Path) -> int:
    """What the shared counter has come to."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        stream = connection.makefile("rwb")
        stream.write(b"get shared\r\n")
        stream.flush()
        stream.readline()
        return int(stream.readline())


def prepare(path: Path) -> None:
    """Makes the shared counter."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        _expect(connection.makefile("rwb"), b"set shared 0 0 1\r\n0\r\n", b"STORED\r\n")


def _expect(stream: io.BufferedRWPair, request: bytes, answer: bytes) -> None:
    stream.write(request)
    stream.flush()
    got = b""
    while len(got) < len(answer):
        part = stream.read(len(answer) - len(got))
        if not part:
            break
        got += part
    if got != answer:
        raise WrongAnswerError(f"{request[:60]!r}: {got[:80]!r} and not {answer[:80]!r}")
