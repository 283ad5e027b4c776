"""Where a plan is played: hosts in namespaces with memory limits, proxies between them, all files on a small disk."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self, final

from chaos.disk import Disk
from chaos.programs import MIB
from chaos.proxy import Proxy, Weather
from hosts import Host, Hosts, cgroup

_DISK_MIB: Final = 160
_LIMIT_BYTES: Final = 1 << 30
"""Of each host, until it is tightened."""
_PROXY_PORT: Final = 7071


@final
class Arena:
    """Hosts whose agents have budgets of `mib` MiB, home first, and keys unless `plaintext`. A context manager."""

    def __init__(self, mib: Sequence[int], *, plaintext: bool) -> None:
        self._cleanup = ExitStack()
        self.weather: dict[str, Weather] = {}
        self.proxies: dict[str, Proxy] = {}
        try:
            self._make(mib, plaintext)
        except BaseException:
            self._cleanup.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def _make(self, mib: Sequence[int], plaintext: bool) -> None:
        self.disk = Disk(_DISK_MIB)
        self._cleanup.callback(self.disk.remove)
        budgets = [f"{budget}M" for budget in mib]
        under = self.disk.path
        self.hosts = Hosts(len(mib), memory=budgets, limit_bytes=_LIMIT_BYTES, plaintext=plaintext, under=under)
        self._cleanup.callback(self.hosts.close)
        self._cleanup.callback(self._close_proxies)
        network = self.hosts.network
        assert network is not None
        addresses = {host.address.partition(":")[0]: host.name for host in self.hosts.all}
        for host in self.hosts.all:
            ip, _, port = host.address.partition(":")
            self.weather[host.name] = Weather()
            self.proxies[host.name] = Proxy(
                host.name,
                network.namespace(host.name),
                (ip, _PROXY_PORT),
                (ip, int(port)),
                addresses.__getitem__,
                self.weather,
            )
        listed = self.hosts.file.read_text(encoding="utf-8")
        self.hosts.file.write_text(listed.replace(':7070"', f':{_PROXY_PORT}"'), encoding="utf-8")
        self.hosts.start()

    def _close_proxies(self) -> None:
        for proxy in self.proxies.values():
            proxy.close()

    @property
    def names(self) -> tuple[str, ...]:
        """All hosts, home first."""
        return tuple(host.name for host in self.hosts.all)

    def others(self, name: str) -> list[str]:
        """All hosts but one."""
        return [other for other in self.names if other != name]

    def change_weather(self, name: str, *, delay_s: float = 0.0, bytes_per_s: float = float("inf")) -> None:
        """The links of a host become so, at once."""
        self.weather[name] = Weather(delay_s, bytes_per_s)
        for proxy in self.proxies.values():
            proxy.refresh()

    def harm(self, name: str, other: str) -> None:
        """Spoils the next frame between two hosts. Of two hosts the later one is dialled, so its proxy has the link."""
        near, far = sorted((name, other))
        self.proxies[far].harm(near)

    @property
    def harmed(self) -> int:
        """How many frames were spoilt."""
        return sum(proxy.harmed for proxy in self.proxies.values())

    def calm(self) -> None:
        """No frame is waited for that might be spoilt, and all links are as they are by themselves."""
        for proxy in self.proxies.values():
            proxy.calm()
        for name in self.names:
            self.change_weather(name)

    def sever(self, name: str) -> None:
        """Breaks all connections of a host."""
        self.proxies[name].sever(name)
        for other in self.others(name):
            self.proxies[other].sever(name)

    def group(self, name: str) -> cgroup.MemoryGroup:
        """The memory group of a host."""
        group = self.hosts[name].group
        assert group is not None
        return group

    def tighten(self, name: str) -> None:
        """The host may take next to no memory more than it has."""
        group = self.group(name)
        for spare_mib in (1, 2, 4, 8, 16):
            try:
                group.limit(group.usage_bytes() + spare_mib * MIB)
            except OSError:  # it has grown meanwhile
                continue
            return

    def loosen(self, name: str) -> None:
        """As it was."""
        self.group(name).limit(_LIMIT_BYTES)

    def living(self) -> list[Host]:
        """Hosts whose agents run."""
        return [host for host in self.hosts.all if host.agent is not None and host.agent.poll() is None]

    def revive(self) -> list[str]:
        """Starts the agents that have died, on a network that is whole; returns their names."""
        if self.hosts.network is not None:
            self.hosts.network.settle()
        dead = [host for host in self.hosts.all if host not in self.living()]
        for host in dead:
            self.hosts.launch(host)
        for host in dead:
            self.hosts.await_ready(host)
        return [host.name for host in dead]

    def work(self, name: str) -> Path:
        """A fresh working directory on the small disk."""
        path = self.hosts.base / name
        path.mkdir()
        return path
