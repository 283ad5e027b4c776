"""The hosts file: which hosts make up the machine.

```toml
cluster = "lab"                 # optional; the agents' --cluster

[[host]]                        # the first host is home, unless --home says otherwise
name = "a"
address = "10.0.0.1:7070"
memory = "2T"                   # optional: a note, used in the command that starts the agent
directory = "/run/user/1/a"     # optional: the agent's --dir
```
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from megalith.exceptions import HostsFileError, SizeError
from megalith.paths import default_directory
from megalith.sizes import parse_budget

FILE_BYTES_MAX: Final = 1 << 20
HOSTS_MAX: Final = 64
"""More than a lab's worth, and what a set of sharers is allowed to cost."""

DEFAULT_CLUSTER: Final = "default"

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?):([0-9]{1,5})")
_FILE_KEYS: Final = {"cluster", "host"}
_HOST_KEYS: Final = {"name", "address", "memory", "directory"}


@dataclass(frozen=True, slots=True)
class Host:
    """One host of the file."""

    name: str
    address: str
    memory: str | None
    directory: Path

    def start_command(self, cluster: str | None) -> str:
        """The command that starts this host's agent."""
        words = ["megalith agent", f"--name {self.name}", f"--listen {self.address}"]
        words.append(f"--memory {self.memory or 'SIZE'}")
        if self.directory != default_directory(self.address):
            words.append(f"--dir {self.directory}")
        if cluster is not None:
            words.append(f"--cluster {cluster}")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Hosts:
    """A whole file, the home host first."""

    cluster: str | None
    hosts: tuple[Host, ...]

    @property
    def home(self) -> Host:
        return self.hosts[0]

    def with_home(self, name: str) -> Hosts:
        """The same hosts with ``name`` as the home host."""
        homes = [host for host in self.hosts if host.name == name]
        if not homes:
            known = ", ".join(host.name for host in self.hosts)
            raise HostsFileError(f"--home {name}: no such host; the file has {known}")
        rest = [host for host in self.hosts if host.name != name]
        return Hosts(self.cluster, (homes[0], *rest))


def valid_address(address: str, *, port_min: int = 1) -> bool:
    """Whether ``address`` has the form HOST:PORT (``10.0.0.1:7070``, ``node3:7070``, ``[fe80::1]:7070``)."""
    match = _ADDRESS.fullmatch(address)
    return match is not None and port_min <= int(match[2]) <= 65535


def is_loopback(address: str) -> bool:
    """Whether only this computer can be meant by ``address``."""
    import ipaddress

    try:
        return ipaddress.ip_address(address.rsplit(":", 1)[0].strip("[]")).is_loopback
    except ValueError:
        return False


def read_hosts(path: Path) -> Hosts:
    """Reads and checks a hosts file; raises HostsFileError if it is none, whatever is in it."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise HostsFileError(f"{path}: {error.strerror}") from None
    try:
        return parse_hosts(content)
    except HostsFileError as error:
        raise HostsFileError(f"{path}: {error}") from None


def parse_hosts(content: bytes) -> Hosts:
    """Checks what is in a hosts file; raises HostsFileError if that is none."""
    if len(content) > FILE_BYTES_MAX:
        raise HostsFileError(f"more than {FILE_BYTES_MAX >> 10} KiB")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise HostsFileError("not UTF-8 text") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise HostsFileError(f"not TOML: {error}") from None
    except (ValueError, RecursionError) as error:
        # A number of some thousand digits; brackets within brackets without end.
        raise HostsFileError(f"not TOML that can be read: {error}") from None
    return _hosts(data)


def _hosts(data: dict[str, Any]) -> Hosts:
    _refuse_unknown(data, _FILE_KEYS, "")
    cluster = _text(data, "cluster", "")
    entries = data.get("host", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise HostsFileError("write each host as [[host]], with two brackets")
    if not entries:
        raise HostsFileError("no hosts; add at least one [[host]] with a name and an address")
    if len(entries) > HOSTS_MAX:
        raise HostsFileError(f"{len(entries)} hosts; at most {HOSTS_MAX} make up a machine")
    hosts = tuple(_host(number, entry) for number, entry in enumerate(entries, start=1))
    for what, values in (("name", [h.name for h in hosts]), ("address", [h.address for h in hosts])):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise HostsFileError(f"two hosts have the same {what} {twice[0]!r}")
    return Hosts(cluster, hosts)


def _host(number: int, entry: dict[str, Any]) -> Host:
    where = f"host {number}: "
    _refuse_unknown(entry, _HOST_KEYS, where)
    name, address = _text(entry, "name", where), _text(entry, "address", where)
    if name is None or address is None:
        raise HostsFileError(f"{where}{'name' if name is None else 'address'} is missing")
    if not NAME.fullmatch(name):
        raise HostsFileError(f"{where}bad name {name!r}: letters, digits, '.', '_' and '-' only, at most 63")
    if not valid_address(address):
        raise HostsFileError(f"{where}bad address {address!r}: write it like 10.0.0.1:7070")
    memory = _text(entry, "memory", where)
    if memory is not None:
        try:
            parse_budget(memory)
        except SizeError as error:
            raise HostsFileError(f"{where}memory: {error}") from None
    directory = _text(entry, "directory", where)
    if directory is not None and ("\0" in directory or not Path(directory).is_absolute()):
        raise HostsFileError(f"{where}directory {directory!r} must be an absolute path")
    return Host(name, address, memory, Path(directory) if directory else default_directory(address))


def _refuse_unknown(table: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise HostsFileError(f"{where}unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _text(table: dict[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise HostsFileError(f"{where}{key} must be a text in quotes")
    return value
