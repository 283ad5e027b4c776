"""redis-server, natively and under megalith, fed the same commands and asked for the digest of all it holds.

redis-benchmark adds its load with fixed keys (no -r), so that its result is the same however its clients
interleave. Redis forks only to save, which is switched off.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import cli
import processes
from programs.compare import HOSTS, MIB, Stage, wait_until
from programs.native import need

KEYS = 60_000
VALUE_BYTES_MAX = 1500
CONFIG = """
port 0
unixsocket {directory}/r.sock
save ""
appendonly no
enable-debug-command yes
activedefrag no
dir {directory}
"""


def test_redis(stage: Stage) -> None:
    server, client, bench = (
        need(name, package)
        for name, package in (
            ("redis-server", "redis-server"),
            ("redis-cli", "redis-tools"),
            ("redis-benchmark", "redis-tools"),
        )
    )
    commands = stage.directory / "commands"
    write_commands(commands)

    with serving(stage, "native", [server]) as (process, directory):
        native = load(directory, commands, client, bench)
        peak_bytes = _high_water_bytes(process.pid)
    report = stage.directory / "report.json"
    memory = f"{peak_bytes // 2 // MIB}M"
    words = cli.command(*cli.local(HOSTS, memory, report=report), server)
    with serving(stage, "megalith", words) as (_, directory):
        assert load(directory, commands, client, bench) == native
    assert cli.Report(report).total("handed_over_pages") > 0


@contextmanager
def serving(stage: Stage, name: str, words: list[str]) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A server on a socket in its own directory; it is asked to end at the end, and must end with 0."""
    directory = stage.directory / name
    config = directory / "redis.conf"
    config.write_text(CONFIG.format(directory=directory), encoding="utf-8")
    socket = directory / "r.sock"
    environment = processes.environment(stage.mark, TMPDIR=str(stage.directory / "tmp"))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*words, str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    wait_until(
        lambda: socket.exists() or process.poll() is not None, seconds_max=20, what=(directory / "log").read_text()
    )
    assert process.poll() is None, (directory / "log").read_text()
    yield process, directory
    subprocess.run(["redis-cli", "-s", str(socket), "shutdown", "nosave"], check=True, timeout=20, capture_output=True)
    assert process.wait(timeout=20) == 0, (directory / "log").read_text()


def write_commands(path: Path) -> None:
    """Strings, hashes, lists, sorted sets, deletions; the same on every run."""
    random = Random(7)
    with path.open("w", encoding="ascii") as out:
        for number in range(KEYS):
            value = random.randbytes(random.randrange(1, VALUE_BYTES_MAX // 2)).hex()
            out.write(f"SET key:{number} {value}\r\n")
            match random.randrange(5):
                case 0:
                    out.write(f"HSET hash:{number % 500} field:{number} {value[:40]}\r\n")
                case 1:
                    out.write(f"ZADD sorted:{number % 10} {random.randrange(10**6)} member:{number}\r\n")
                case 2:
                    out.write(f"RPUSH list:{number % 20} {value[:20]}\r\n")
                case 3:
                    out.write(f"DEL key:{random.randrange(number + 1)}\r\n")
                case _:
                    out.write(f"APPEND key:{random.randrange(number + 1)} more\r\n")


def load(directory: Path, commands: Path, client: str, bench: str) -> tuple[bytes, bytes]:
    """Feeds the server; returns its digest and its number of keys."""
    socket = str(directory / "r.sock")
    with commands.open("rb") as source:
        piped = subprocess.run(
            [client, "-s", socket, "--pipe"], stdin=source, capture_output=True, check=True, timeout=60
        )
    assert b"errors: 0" in piped.stdout, piped.stdout
    tests = "set,get,incr,lpush,rpush,sadd,hset,spop,zadd,mset"
    subprocess.run(
        [bench, "-s", socket, "-q", "-n", "3000", "-c", "10", "-P", "8", "-t", tests],
        capture_output=True,
        check=True,
        timeout=60,
    )
    digest, size = (
        subprocess.run([client, "-s", socket, *ask], capture_output=True, check=True, timeout=30).stdout
        for ask in (["debug", "digest"], ["dbsize"])
    )
    assert len(digest.strip()) == 40, digest
    assert digest.strip(b"\n0"), "all zeros: the server is empty"
    return digest, size


def _high_water_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no VmHWM")
