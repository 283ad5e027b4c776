"""``megalith run --hosts`` and ``megalith agent``, from outside."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_driver import Cli

Agent = Callable[..., str]


def hosts_file(cli: Cli, hosts: dict[str, str], *, directories: bool = True, head: str = "") -> Path:
    path = cli.home / "hosts.toml"
    text = head
    for name, address in hosts.items():
        text += f'[[host]]\nname = "{name}"\naddress = "{address}"\nmemory = "64M"\n'
        if directories:
            text += f'directory = "{cli.home / name}"\n'
    path.write_text(text)
    return path


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_run_on_agents_that_live_on(cli: Cli, agent: Agent) -> None:
    path = hosts_file(cli, {"a": agent("a"), "b": agent("b")})
    for _ in range(2):
        done = cli("run", "--hosts", str(path), "--", "echo", "hello")
        assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
        assert "a " in done.stderr


def test_home_may_be_another(cli: Cli, agent: Agent) -> None:
    path = hosts_file(cli, {"a": agent("a"), "b": agent("b")})
    done = cli("run", "--hosts", str(path), "--home", "b", "--json", "--", "true")
    assert done.returncode == 0, done.stderr
    assert done.stderr.index('"name": "b"') < done.stderr.index('"name": "a"')


def test_the_default_directory_needs_no_telling(cli: Cli, agent: Agent) -> None:
    address = agent("a", address=free_address())
    path = hosts_file(cli, {"a": address}, directories=False)
    done = cli("run", "--hosts", str(path), "--", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    directory = cli.home / "xdg" / "megalith" / address
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "control.sock").stat().st_mode & 0o777 == 0o600


def one_line(cli: Cli, path: Path, words: str) -> None:
    done = cli("run", "--hosts", str(path), "--", "true")
    assert done.returncode == 125
    assert words in done.stderr
    assert done.stderr.startswith("megalith: ")
    assert done.stderr.count("\n") == 1


def test_no_file(cli: Cli) -> None:
    one_line(cli, cli.home / "none.toml", "none.toml: No such file or directory")


def test_no_agent_here_says_how_to_start_it(cli: Cli) -> None:
    path = hosts_file(cli, {"a": "10.0.0.1:7070"}, directories=False, head='cluster = "lab"\n')
    one_line(cli, path, "start it here with: megalith agent --name a --listen 10.0.0.1:7070 --memory 64M --cluster lab")


def test_a_host_out_of_reach(cli: Cli, agent: Agent) -> None:
    path = hosts_file(cli, {"a": agent("a"), "b": free_address()})
    one_line(cli, path, "host b cannot be reached: 127.0.0.1:")


@pytest.mark.parametrize("kind", ["version", "cluster", "refused", "name", "timeout"])
def test_hosts_that_do_not_fit(cli: Cli, agent: Agent, kind: str) -> None:
    cli.environment["FAKE_FAIL"] = kind
    path = hosts_file(cli, {"a": agent("a")})
    one_line(cli, path, "host b")


def test_nonsense_in_the_file(cli: Cli) -> None:
    path = cli.home / "hosts.toml"
    path.write_text("[[host]]\nname='a'\n")
    one_line(cli, path, "host 1: address is missing")


def test_a_home_that_is_not_there(cli: Cli, agent: Agent) -> None:
    path = hosts_file(cli, {"a": agent("a")})
    done = cli("run", "--hosts", str(path), "--home", "z", "--", "true")
    assert (done.returncode, done.stderr) == (125, "megalith: --home z: no such host; the file has a\n")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_ends_cleanly(cli: Cli, signum: int) -> None:
    process = cli.popen("agent", "--name", "a", "--listen", "127.0.0.1:0", "--memory", "64M", "--dir", f"{cli.home}/a")
    assert process.stderr is not None
    assert process.stderr.readline().endswith("with 64.0 MiB\n")
    os.kill(process.pid, signum)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert not (cli.home / "a").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--listen", "127.0.0.1:0"], 2, "--listen with port 0 needs --dir"),
        (["--listen", "here"], 2, "argument --listen: 'here' is not an address"),
        (["--listen", "127.0.0.1:9", "--memory", "x"], 2, "argument --memory: 'x' is not a size"),
        (["--listen", "127.0.0.1:9", "--name", "a b"], 2, "argument --name: 'a b' is not a name"),
        (["--listen", "127.0.0.1:9", "--dir", "/" + "d" * 120], 125, "too long for a socket's path"),
        (["--listen", "192.0.2.1:9", "--dir", "DIR", "--plaintext"], 1, "192.0.2.1:9: Cannot assign requested address"),
        (
            ["--listen", "192.0.2.1:9", "--keys", "DIR"],
            125,
            "there are no keys in DIR: make a cluster with 'megalith init'",
        ),
        (["--listen", "192.0.2.1:9", "--keys", "DIR"], 125, "or add --plaintext"),
        (["--listen", "127.0.0.1:9", "--keys", "DIR"], 125, "there are no keys in DIR"),
        (["--listen", "127.0.0.1:9", "--keys", "DIR", "--plaintext"], 2, "--plaintext does without --keys"),
    ],
)
def test_an_agent_that_cannot_start_says_so_in_one_line(cli: Cli, words: list[str], code: int, message: str) -> None:
    words = [word.replace("DIR", str(cli.home / "a")) for word in words]
    done = cli("agent", "--name", "a", "--memory", "64M", *words)
    assert done.returncode == code
    assert message.replace("DIR", str(cli.home / "a")) in done.stderr
    loud = done.stderr.startswith("megalith agent: PLAINTEXT on 192.0.2.1:9: ")
    assert loud == (code == 1)
    assert done.stderr.count("\n") == 1 + loud


def test_an_agent_keeps_out_of_a_directory_that_others_may_enter(cli: Cli) -> None:
    (cli.home / "open").mkdir()
    (cli.home / "open").chmod(0o777)
    done = cli("agent", "--name", "a", "--listen", "127.0.0.1:0", "--memory", "64M", "--dir", f"{cli.home}/open")
    assert done.returncode == 125
    assert f"chmod 700 {cli.home}/open" in done.stderr
