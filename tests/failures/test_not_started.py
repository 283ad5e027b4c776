"""What cannot be started is said in one line, with the exit code that tells why."""

import signal
import socket
import threading
import time
from pathlib import Path

import pytest

import cli
import processes
from hosts import HostsFactory


def run(mark: str, scratch: Path, *words: str) -> cli.Outcome:
    return cli.run("run", "--quiet", *words, env=processes.environment(mark, TMPDIR=str(scratch)), timeout=30)


def assert_one_line(outcome: cli.Outcome, code: int, *parts: str) -> None:
    assert outcome.returncode == code, outcome
    assert outcome.stdout == b""
    assert len(outcome.complaint) == 1, outcome.complaint
    for part in parts:
        assert part in outcome.complaint[0], outcome.complaint[0]


def test_missing_program(megalith: None, mark: str, scratch: Path) -> None:
    assert_one_line(run(mark, scratch, "--local", "2", "--", "no-such-program"), cli.EXIT_NOT_FOUND, "no-such-program")


@pytest.mark.parametrize("kind", ["mode", "directory", "content"])
def test_not_executable(megalith: None, mark: str, scratch: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "directory":
        target.mkdir()
    else:
        target.write_text("neither a script nor a program")
        target.chmod(0o755 if kind == "content" else 0o644)
    assert_one_line(run(mark, scratch, "--local", "2", "--", str(target)), cli.EXIT_NOT_EXECUTABLE, str(target))


HOSTS_FILES = {
    "not TOML": ("[[host", "not TOML"),
    "empty": ("", "no hosts"),
    "no address": ('[[host]]\nname = "a"\n', "address"),
    "bad address": ('[[host]]\nname = "a"\naddress = "nowhere"\n', "nowhere"),
    "unknown key": ('[[host]]\nname = "a"\naddress = "10.0.0.1:1"\nram = "2G"\n', "ram"),
    "same name": ('[[host]]\nname = "a"\naddress = "h:1"\n[[host]]\nname = "a"\naddress = "h:2"\n', "same name"),
}


@pytest.mark.parametrize("kind", HOSTS_FILES)
def test_bad_hosts_file(megalith: None, mark: str, scratch: Path, tmp_path: Path, kind: str) -> None:
    content, part = HOSTS_FILES[kind]
    file = tmp_path / "hosts.toml"
    file.write_text(content)
    outcome = run(mark, scratch, "--hosts", str(file), "--", "true")
    assert_one_line(outcome, cli.EXIT_CANNOT_START, str(file), part)


def test_missing_hosts_file(megalith: None, mark: str, scratch: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "none.toml")
    assert_one_line(run(mark, scratch, "--hosts", file, "--", "true"), cli.EXIT_CANNOT_START, file)


def test_home_agent_is_not_running(hosts: HostsFactory) -> None:
    made = hosts(2, memory="16M")
    made.stop(made.home)
    assert_one_line(made.run(["true"], options=["--quiet"]), cli.EXIT_CANNOT_START, "host a", "megalith agent")


def test_remote_agent_is_not_running(hosts: HostsFactory) -> None:
    made = hosts(3, memory="16M")
    made.stop(made["c"])
    outcome = made.run(["true"], options=["--quiet"])
    assert_one_line(outcome, cli.EXIT_CANNOT_START, "host c", "cannot be reached")
    assert outcome.seconds < 15


def test_remote_host_does_not_answer(hosts: HostsFactory) -> None:
    """No refusal comes: packets vanish."""
    made = hosts(3, memory="16M", need_namespaces=True)
    made.cut("b")
    outcome = made.run(["true"], options=["--quiet"])
    assert_one_line(outcome, cli.EXIT_CANNOT_START, "host b")
    assert outcome.seconds < 15


def test_agent_of_another_cluster(hosts: HostsFactory) -> None:
    made = hosts(2, memory="16M")
    made.stop(made["b"])
    made.launch(made["b"], cluster="another")
    made.await_ready(made["b"])
    assert_one_line(made.run(["true"], options=["--quiet"]), cli.EXIT_CANNOT_START, "host b", "cluster")


def test_agent_of_another_name(hosts: HostsFactory) -> None:
    made = hosts(2, memory="16M")
    made.file.write_text(made.file.read_text().replace('name = "b"', 'name = "z"'))
    assert_one_line(made.run(["true"], options=["--quiet"]), cli.EXIT_CANNOT_START, "host z")


SPEECHES = {
    "silence": b"",
    "HTTP": b"HTTP/1.0 400 Bad Request\r\n\r\n",
    "noise": b"\xff" * 4096,
}


@pytest.mark.parametrize("kind", SPEECHES)
def test_something_else_listens_there(hosts: HostsFactory, kind: str) -> None:
    outcome = run_beside(hosts, SPEECHES[kind])
    assert_one_line(outcome, cli.EXIT_CANNOT_START, "host b")
    assert outcome.seconds < 15


def test_agent_of_another_version(hosts: HostsFactory) -> None:
    """What every version says alike (crates/fabric, wire): its name, its version; then a status and no detail."""
    reply = b"MEGALITH" + (999).to_bytes(4, "little") + bytes(8)
    assert_one_line(run_beside(hosts, reply), cli.EXIT_CANNOT_START, "host b", "version", "999")


def run_beside(hosts: HostsFactory, speech: bytes) -> cli.Outcome:
    """Runs on two hosts, of which b is no agent: it says `speech` and no more."""
    made = hosts(1, memory="16M", namespaces=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=_speak, args=(server, speech), daemon=True).start()
        with made.file.open("a") as file:
            file.write(f'\n[[host]]\nname = "b"\naddress = "127.0.0.1:{port}"\n')
        return made.run(["true"], options=["--quiet"])


def _speak(server: socket.socket, speech: bytes) -> None:
    held = []  # connections stay open: silence is a test too
    while True:
        try:
            connection, _ = server.accept()
            connection.sendall(speech)
        except OSError:
            return
        held.append(connection)


def test_agent_address_is_taken(hosts: HostsFactory) -> None:
    made = hosts(1, memory="16M", namespaces=False)
    other = made.base / "other"
    outcome = made.command_on(
        made.home,
        cli.command(
            *("agent", "--name", "x", "--listen", made.home.address, "--memory", "16M"), *("--dir", str(other))
        ),
        timeout=20,
    )
    assert outcome.returncode == 1, outcome
    assert len(outcome.complaint) == 1, outcome.complaint
    assert made.home.address in outcome.complaint[0]


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_agent_directory_is_taken(hosts: HostsFactory, state: str) -> None:
    """Also by an agent that is stopped, and whose queue of connections is full."""
    made = hosts(1, memory="16M", namespaces=False)
    waiting = []
    if state == "stopped":
        made.kill(made.home.name, signal.SIGSTOP)
        waiting = fill(made.home.directory / "control.sock")
    outcome = made.command_on(
        made.home,
        cli.command(
            *("agent", "--name", "x", "--listen", "127.0.0.1:0", "--memory", "16M"),
            *("--dir", str(made.home.directory)),
        ),
        timeout=20,
    )
    assert outcome.returncode == 1, outcome
    assert len(outcome.complaint) == 1, outcome.complaint
    assert "another agent is running there" in outcome.complaint[0]
    for connection in waiting:
        connection.close()
    made.kill(made.home.name, signal.SIGCONT)


def fill(path: Path) -> list[socket.socket]:
    """Connections that nobody takes, so many that there is no room for one more."""
    made: list[socket.socket] = []
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            connection.connect(str(path))
        except BlockingIOError:
            connection.close()
            return made
        made.append(connection)


def test_who_wants_nothing_of_an_agent_is_let_go(hosts: HostsFactory) -> None:
    """There are places for 128 that say what they want."""
    made = hosts(1, memory="16M", namespaces=False)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(8)
        connection.connect(str(made.home.directory / "control.sock"))
        begun = time.monotonic()
        assert connection.recv(1) == b""
        assert 4 < time.monotonic() - begun < 7
