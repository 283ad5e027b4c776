"""Whoever has no certificate of the cluster is not let in, is told nothing, and is written down once.

The hosts are namespaces, whose agents have keys; strangers come from the namespace of one of them.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

import cli
from failures.test_not_started import assert_one_line
from hosts import Hosts, HostsFactory, keys, why_no_namespaces
from megalith import certificates

# Speaks to ADDRESS as it is told, and prints what it gets: bytes, or the alert.
STRANGER = """
import json, socket, ssl, sys
told = json.loads(sys.argv[1])
host, _, port = told["address"].rpartition(":")
with socket.create_connection((host, int(port)), timeout=10) as plain:
    if told["words"] is not None:
        plain.sendall(told["words"].encode("latin-1"))
        answer = plain.recv(4096)
    elif told["versions"] is None:
        answer = plain.recv(4096)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = ssl.TLSVersion[told["versions"]]
        context.set_alpn_protocols(["megalith"])
        if told["certificate"]:
            context.load_cert_chain(told["certificate"], told["key"])
        try:
            with context.wrap_socket(plain) as secure:
                secure.sendall(b"MEGALITH" + bytes(24))
                answer = secure.recv(4096)
        except ssl.SSLError as error:
            print("alert", error.reason)
            raise SystemExit
print("answer", answer)
"""


def visit(
    hosts: Hosts,
    *,
    words: bytes | None = None,
    versions: str | None = "TLSv1_3",
    shown: certificates.Identity | None = None,
) -> str:
    """What a stranger on host a gets from b's agent."""
    certificate, key = hosts.base / "stranger.pem", hosts.base / "stranger.key"
    if shown is not None:
        certificate.write_text(certificates.chain_pem(shown.chain))
        key.write_text(certificates.key_pem(shown.key))
    told = {
        "address": hosts["b"].address,
        "words": None if words is None else words.decode("latin-1"),
        "versions": versions,
        "certificate": str(certificate) if shown else None,
        "key": str(key),
    }
    outcome = hosts.command_on(hosts["a"], [sys.executable, "-c", STRANGER, json.dumps(told)], timeout=30)
    assert outcome.returncode == 0, outcome
    return outcome.stdout.decode().strip()


def refusals(hosts: Hosts) -> list[str]:
    """What b's agent has written of strangers."""
    return [line for line in hosts["b"].log.read_text().splitlines() if " was not let in: " in line]


def session_authority() -> certificates.Authority:
    directory = keys.of("a")
    key = certificates.parse_key((directory / "ca.key").read_text())
    return certificates.Authority(key, certificates.parse_chain((directory / "ca.pem").read_text())[0])


def test_strangers(hosts: HostsFactory) -> None:
    made = hosts(2, memory="16M", need_namespaces=True)
    now, ours = certificates.utc_now(), session_authority()

    def made_at(days: int) -> certificates.Identity:
        return certificates.new_host(ours, "a", now + timedelta(days=days))

    foreign = certificates.new_host(certificates.new_authority(now), "a", now)
    hello = b"MEGALITH" + bytes(24)
    for _ in range(2):
        assert "CERTIFICATE_REQUIRED" in visit(made)
        assert "CERTIFICATE_EXPIRED" in visit(made, shown=made_at(-400))
        assert "CERTIFICATE_EXPIRED" in visit(made, shown=made_at(2))
        assert "UNKNOWN_CA" in visit(made, shown=foreign)
        assert "PROTOCOL_VERSION" in visit(made, versions="TLSv1_2")
        # A record of type 21, an alert, and nothing else.
        assert visit(made, words=b"GET / HTTP/1.0\r\n\r\n" + bytes(16)).startswith("answer b'\\x15\\x03")
        assert visit(made, words=hello).startswith("answer b'\\x15\\x03")
        assert visit(made, versions=None) == "answer b''"
    address = made["a"].address.partition(":")[0]
    wanted = [
        "it shows no certificate",
        "its certificate is not good: it has expired",
        "its certificate is not good: it is not valid yet, by the clock here",
        "its certificate is not good: it is of another cluster",
        "it speaks no TLS 1.3",
        "these bytes are no TLS",
        "it speaks plaintext, and this host has keys",
        "it did not end the handshake in time",
    ]
    assert refusals(made) == [f"megalith agent: {address} was not let in: {reason}" for reason in wanted]
    # None of it has changed anything for those who belong.
    outcome = made.run(["echo", "hello"], options=["--quiet"])
    assert (outcome.returncode, outcome.stdout) == (0, b"hello\n"), outcome


@pytest.mark.parametrize(("who", "part"), [("a", "b: its agent speaks TLS"), ("b", "b: its agent speaks plaintext")])
def test_one_host_without_keys(hosts: HostsFactory, who: str, part: str) -> None:
    made = hosts(2, memory="16M", need_namespaces=True)
    made.stop(made[who])
    made.launch(made[who], security=["--plaintext"])
    made.await_ready(made[who])
    assert "PLAINTEXT on 10.77.0." in made[who].log.read_text()
    assert_one_line(made.run(["true"], options=["--quiet"]), cli.EXIT_CANNOT_START, "host b", part)


def test_a_host_with_the_keys_of_another_cluster(hosts: HostsFactory, tmp_path: Path) -> None:
    made = hosts(2, memory="16M", need_namespaces=True)
    made.stop(made["b"])
    foreign = str(tmp_path / "foreign")
    assert cli.run("init", "--name", "b", "--keys", foreign).returncode == 0
    made.launch(made["b"], security=["--keys", foreign])
    made.await_ready(made["b"])
    outcome = made.run(["true"], options=["--quiet"])
    assert_one_line(outcome, cli.EXIT_CANNOT_START, "host b", "its certificate is not good: it is of another cluster")


def test_an_agent_needs_keys_of_its_own_name(hosts: HostsFactory) -> None:
    made = hosts(2, memory="16M", need_namespaces=True)
    made.stop(made["b"])
    made.launch(made["b"], security=["--keys", str(keys.of("a"))])
    agent = made["b"].agent
    assert agent is not None
    assert agent.wait(timeout=20) != 0
    assert "it is for a host of another name" in made["b"].log.read_text().splitlines()[-1]


def test_new_keys_need_no_restart(hosts: HostsFactory, tmp_path: Path) -> None:
    """The whole change of a CA, under agents that go on running, with a run after each step."""
    made = hosts(2, memory="16M", need_namespaces=True)
    own = {"a": tmp_path / "a", "b": tmp_path / "b"}
    assert cli.run("init", "--name", "a", "--keys", str(own["a"])).returncode == 0

    def join_b(*more: str) -> None:
        token = tmp_path / "token"
        token.write_bytes(cli.run("token", "b", "--keys", str(own["a"])).stdout)
        assert cli.run("init", "--join", str(token), "--keys", str(own["b"]), *more).returncode == 0

    join_b()
    for name, directory in own.items():
        made.stop(made[name])
        made.launch(made[name], security=["--keys", str(directory)])
        made.await_ready(made[name])

    def works(step: str) -> None:
        outcome = made.run(["echo", step], options=["--quiet", "--spread"])
        assert (outcome.returncode, outcome.stdout) == (0, f"{step}\n".encode()), (step, outcome)

    works("made")
    assert cli.run("init", "--rotate", "--keys", str(own["a"])).returncode == 0
    works("rotated")
    join_b("--force")
    works("joined")
    for name in ("b", "a"):
        assert cli.run("init", "--forget-old", "--keys", str(own[name])).returncode == 0
        works(f"forgotten by {name}")
    assert refusals(made) == []


# Counts the packets of this network that have WORD in them, until its input ends.
SNIFFER = """
import select, socket, sys
every = socket.htons(3)
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every) as network:
    network.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
    print("ready", flush=True)
    seen = found = 0
    while True:
        ready, _, _ = select.select([network, sys.stdin], [], [])
        if network in ready:
            packet = network.recv(1 << 17)
            seen, found = seen + 1, found + (sys.argv[1].encode() in packet)
        elif ready:
            break
print(seen, found)
"""


@pytest.mark.parametrize("plaintext", [True, False])
def test_what_goes_between_hosts_cannot_be_read(megalith: None, victim: str, plaintext: bool) -> None:
    """With plaintext it can be: so it is the keys that keep it from being read."""
    if reason := why_no_namespaces():
        pytest.skip(reason)
    word = "what-nobody-else-is-to-know"
    with Hosts(2, memory=["16M", "96M"], plaintext=plaintext) as made:
        made.start()
        sniffer = made.spawn(
            made["b"],
            [sys.executable, "-c", SNIFFER, word],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert sniffer.stdout is not None
        assert sniffer.stdout.readline() == b"ready\n"
        outcome = made.run([victim, "secret", "32", word], options=["--quiet"])
        assert (outcome.returncode, outcome.stdout) == (0, b"kept\n"), outcome
        counted, errors = sniffer.communicate(timeout=30)
        assert errors == b""
        seen, found = map(int, counted.split())
    assert seen > 100
    assert (found > 0) == plaintext


@contextmanager
def opened(made: Hosts) -> Iterator[None]:
    """Lets everybody at b's sockets, as an operator's mistake could."""
    paths = [made.base, made["b"].directory, *made["b"].directory.glob("*.sock")]
    before = [path.stat().st_mode & 0o777 for path in paths]
    for path in paths:
        path.chmod(0o777)
    try:
        yield
    finally:
        for path, mode in zip(paths, before, strict=True):
            path.chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
@pytest.mark.parametrize(("name", "kind"), [("control", socket.SOCK_STREAM), ("client", socket.SOCK_SEQPACKET)])
def test_local_sockets_are_the_users_own(hosts: HostsFactory, name: str, kind: socket.SocketKind) -> None:
    made = hosts(2, memory="16M")
    path = made["b"].directory / f"{name}.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    words = b"{}\n" if name == "control" else bytes(40)
    with opened(made):
        assert _answer(path, kind, words, uid=0) != b""
        assert _answer(path, kind, words, uid=65534) == b""


def _answer(path: Path, kind: socket.SocketKind, words: bytes, *, uid: int) -> bytes:
    """What an agent answers that user; nothing, if it closes."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX, kind) as client:
                client.settimeout(10)
                client.connect(str(path))
                try:
                    client.sendall(words)
                    os.write(write, b"+" + client.recv(4096))
                except ConnectionError:
                    os.write(write, b"+")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    assert said.startswith(b"+"), "it could not even connect"
    return said[1:]
