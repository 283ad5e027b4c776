"""The type of the `hosts` fixture."""

from typing import Protocol

from hosts.agents import Hosts


class HostsFactory(Protocol):
    """Makes hosts whose agents run; `count` hosts with a budget of `memory` each."""

    def __call__(
        self,
        count: int,
        *,
        memory: str,
        limit_bytes: int | None = None,
        need_namespaces: bool = False,
        namespaces: bool | None = None,
    ) -> Hosts: ...
