"""What this process may do: each answer is None, or the reason why not, fit for a skip message."""

import functools
import os
import shutil

from hosts import cgroup, network


@functools.cache
def why_no_namespaces() -> str | None:
    """Why hosts cannot be network namespaces here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(tool) is None:
            return f"{tool} is missing: apt-get install {package}"
    network.sweep()
    cgroup.sweep(network.PREFIX)
    try:
        network.Network().remove()
    except OSError as error:
        return f"network namespaces do not work here: {error}"
    return None


@functools.cache
def why_no_limits() -> str | None:
    """Why hosts cannot have a memory limit here."""
    return why_no_namespaces() or cgroup.why_not()
