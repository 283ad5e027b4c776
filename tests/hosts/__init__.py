"""Several hosts on one machine, for tests: namespaces with memory limits, or plain processes on loopback.

With root, each host is a network namespace on a private bridge, has keys, and, if asked, a memory cgroup; without,
hosts are processes with ports of their own, which is enough for everything but limits and cut cables. Either
way a host runs one agent, and everything is gone when the `with` block, the test, or the interpreter ends.
"""

from hosts.agents import Host, Hosts
from hosts.factory import HostsFactory
from hosts.privilege import why_no_limits, why_no_namespaces

__all__ = ["Host", "Hosts", "HostsFactory", "why_no_limits", "why_no_namespaces"]
