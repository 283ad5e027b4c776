"""Network namespaces that stand for hosts, joined by a bridge that has a namespace of its own.

Nothing of the machine's own network is touched: each link is made with both ends inside the namespaces, so
addresses may be the same in every run.

```text
 mgl-<pid>-<n>-a          mgl-<pid>-<n>-net          mgl-<pid>-<n>-b
┌──────────────────┐     ┌──────────────────┐      ┌──────────────────┐
│ eth0 10.77.0.1 ──┼─────┼ to-a bridge to-b ┼──────┼─ eth0 10.77.0.2  │
└──────────────────┘     └──────────────────┘      └──────────────────┘
```
"""

import itertools
import json
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import final

PREFIX = "mgl"
_RUN = Path("/run/netns")
_SETTLED_S_MAX = 10.0
_serial = itertools.count(1)


def ip(*arguments: str) -> str:
    """Runs ip(8); its complaint becomes the error's text."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=20)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def namespaces(pid: int | None = None) -> list[str]:
    """Names of the namespaces that a test run made: that of `pid`, or any."""
    prefix = f"{PREFIX}-" if pid is None else f"{PREFIX}-{pid}-"
    return sorted(p.name for p in _RUN.glob(f"{prefix}*")) if _RUN.is_dir() else []


def sweep() -> None:
    """Removes what a test run that was itself killed has left behind."""
    for name in namespaces():
        pid = name.removeprefix(f"{PREFIX}-").partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with suppress(OSError):  # another run may sweep at the same time
                ip("netns", "delete", name)


@final
class Network:
    """One bridge and the namespaces on it."""

    def __init__(self) -> None:
        self._stem = f"{PREFIX}-{os.getpid()}-{next(_serial)}"
        self._bridge = f"{self._stem}-net"
        self._made: list[str] = []
        try:
            self._make(self._bridge)
            ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
            ip("-n", self._bridge, "link", "set", "bridge", "up")
        except BaseException:
            self.remove()
            raise

    @property
    def stem(self) -> str:
        """The part that all names of this network begin with."""
        return self._stem

    def join(self, host: str) -> str:
        """Makes the namespace of `host` and links it to the bridge; returns its address."""
        space = self.namespace(host)
        address = f"10.77.0.{len(self._made)}"
        self._make(space)
        ip(*f"link add eth0 netns {space} type veth peer name {_port(host)} netns {self._bridge}".split())
        ip("-n", self._bridge, "link", "set", _port(host), "master", "bridge", "up")
        ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        return address

    def namespace(self, host: str) -> str:
        """The name of the namespace of `host`."""
        return f"{self._stem}-{host}"

    def enter(self, host: str) -> list[str]:
        """The words before a command that make it run in the namespace of `host`, as the same process."""
        return ["nsenter", f"--net={_RUN / self.namespace(host)}", "--"]

    def cut(self, host: str) -> None:
        """Pulls the cable of `host`: packets vanish, connections see nothing."""
        ip("-n", self._bridge, "link", "set", _port(host), "down")

    def mend(self, host: str) -> None:
        """Plugs the cable in again."""
        ip("-n", self._bridge, "link", "set", _port(host), "up")

    def settle(self) -> None:
        """Waits until mended cables carry packets, and has hosts forget which neighbours did not answer.

        The kernel takes up to a second to see that a cable is back, and a question to a neighbour that was asked
        before may fail after. Raises TimeoutError.
        """
        end = time.monotonic() + _SETTLED_S_MAX
        while not all(state == "forwarding" for state in self._port_states()):
            if time.monotonic() > end:
                raise TimeoutError(f"not all cables of {self._stem} carry after {_SETTLED_S_MAX:g} s")
            time.sleep(0.05)
        for space in self._made:
            if space != self._bridge:
                ip("-n", space, "neighbour", "flush", "dev", "eth0")

    def _port_states(self) -> list[str]:
        ports = json.loads(ip("-n", self._bridge, "-json", "-details", "link", "show", "master", "bridge"))
        return [port["linkinfo"]["info_slave_data"]["state"] for port in ports]

    def remove(self) -> None:
        """Deletes the namespaces, and with them their links. Processes inside must have ended."""
        while self._made:
            with suppress(OSError):
                ip("netns", "delete", self._made[-1])
            self._made.pop()

    def _make(self, name: str) -> None:
        ip("netns", "add", name)
        self._made.append(name)
        ip("-n", name, "link", "set", "lo", "up")


def _port(host: str) -> str:
    return f"to-{host}"  # a bare "a" would be read as "address"
