from __future__ import annotations

from pathlib import Path

import pytest

from megalith.exceptions import HostsFileError
from megalith.hostsfile import is_loopback, read_hosts, valid_address

A = '[[host]]\nname = "a"\naddress = "10.0.0.1:7070"\n'
B = '[[host]]\nname = "b"\naddress = "10.0.0.2:7070"\n'


def hosts_file(directory: Path, text: str) -> Path:
    path = directory / "hosts.toml"
    path.write_text(text)
    return path


def test_the_first_host_is_home_unless_another_is_named(tmp_path: Path) -> None:
    hosts = read_hosts(hosts_file(tmp_path, 'cluster = "lab"\n' + A + 'memory = "2T"\n' + B))
    assert hosts.cluster == "lab"
    assert hosts.home.name == "a"
    assert [host.name for host in hosts.with_home("b").hosts] == ["b", "a"]
    with pytest.raises(HostsFileError, match="--home c: no such host; the file has a, b"):
        hosts.with_home("c")


def test_the_command_that_starts_an_agent_is_whole(tmp_path: Path) -> None:
    text = 'cluster = "lab"\n' + A + 'memory = "2T"\n' + B + 'directory = "/run/b"\n'
    hosts = read_hosts(hosts_file(tmp_path, text))
    first, second = (host.start_command(hosts.cluster) for host in hosts.hosts)
    assert first == "megalith agent --name a --listen 10.0.0.1:7070 --memory 2T --cluster lab"
    assert second == "megalith agent --name b --listen 10.0.0.2:7070 --memory SIZE --dir /run/b --cluster lab"


def test_the_directory_comes_from_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hosts_file(tmp_path, A)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert read_hosts(path).home.directory == Path("/run/user/7/megalith/10.0.0.1:7070")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    directory = read_hosts(path).home.directory
    assert directory.parent.name.startswith("megalith-")
    assert directory.name == "10.0.0.1:7070"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("host = [", "not TOML"),
        ("", "no hosts"),
        ("[host]\n", "two brackets"),
        ("clusters = 1\n" + A, "unknown key 'clusters'; known are cluster, host"),
        ("cluster = 1\n" + A, "cluster must be a text"),
        (A + 'port = "1"\n', "host 1: unknown key 'port'"),
        (A + "memory = 2\n", "host 1: memory must be a text"),
        (A + 'memory = "2GB"\n', "host 1: memory: '2GB' is not a size"),
        (A + 'directory = "here"\n', "host 1: directory 'here' must be an absolute path"),
        (A + '[[host]]\nname = "b"\n', "host 2: address is missing"),
        (A + '[[host]]\naddress = "x:1"\n', "host 2: name is missing"),
        (A.replace('"a"', '"a b"'), "host 1: bad name 'a b'"),
        (A.replace("10.0.0.1:7070", "10.0.0.1"), "host 1: bad address '10.0.0.1'"),
        (A + B.replace('"b"', '"a"'), "two hosts have the same name 'a'"),
        (A + B.replace("0.2", "0.1"), "two hosts have the same address '10.0.0.1:7070'"),
        ("".join(f'[[host]]\nname = "h{n}"\naddress = "h{n}:1"\n' for n in range(65)), "65 hosts; at most 64"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = hosts_file(tmp_path, text)
    with pytest.raises(HostsFileError) as caught:
        read_hosts(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostsFileError, match="No such file"):
        read_hosts(tmp_path / "none")
    with pytest.raises(HostsFileError, match="Is a directory"):
        read_hosts(tmp_path)
    (tmp_path / "latin").write_bytes(b"# \xe9\n")
    with pytest.raises(HostsFileError, match="not UTF-8"):
        read_hosts(tmp_path / "latin")


@pytest.mark.parametrize("address", ["10.0.0.1:7070", "node-3.lab:1", "[fe80::1]:65535", "localhost:7"])
def test_addresses(address: str) -> None:
    assert valid_address(address)


@pytest.mark.parametrize(
    "address", ["", ":1", "a", "a:", "a:0", "a:65536", "fe80::1:7", "a/b:1", "../x:1", "-a:1", "a:1 "]
)
def test_what_is_no_address(address: str) -> None:
    assert not valid_address(address)


def test_this_computers_own_addresses() -> None:
    for address, ours in {"127.0.0.1:1": True, "[::1]:1": True, "10.0.0.1:1": False, "localhost:1": False}.items():
        assert is_loopback(address) is ours
