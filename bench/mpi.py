"""Open MPI between hosts that are network namespaces of this computer, over TCP alone.

Two things would make it see one computer where there are to be several. It tells computers apart by their names, so
each namespace's processes get a name of their own (unshare(1) --uts). And it starts its daemon on another host with
ssh: a script takes its place, which enters that host's namespace, so no sshd is needed. Namespaces do share
`/dev/shm`: the transports are named (`ob1` over `tcp` and `self`), and what is not named is not used, even between
two processes of one host, so no message goes through shared memory.
"""

import shlex
import subprocess
from pathlib import Path

from hosts import Host, Hosts

ENV = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
_INTERFACE = "eth0"
_NAMED = ("unshare", "--uts", "--", "sh", "-c", 'hostname "$0" && exec "$@"')


def version() -> str:
    """What mpirun calls itself, such as `mpirun (Open MPI) 4.1.4`. OSError where it is another's.

    FileNotFoundError where there is none.
    """
    said = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=False, timeout=20).stdout
    first = said.partition("\n")[0]
    if "Open MPI" not in first and "OpenRTE" not in first:
        raise OSError(f"mpirun is not Open MPI's: {first or 'it says nothing'}")
    return first


def command(hosts: Hosts, program: Path, processes_per_host: int) -> list[str]:
    """The words that, spawned on the home host, run `program` on all hosts."""
    per_host = str(processes_per_host)
    settings = {
        "plm_rsh_agent": str(_remote_shell(hosts)),
        "orte_tmpdir_base": str(hosts.scratch),
        "oob_tcp_if_include": _INTERFACE,
        "pml": "ob1",
        "btl": "tcp,self",
        "btl_tcp_if_include": _INTERFACE,
        # Processes that share a CPU must not spin while they wait for each other.
        "mpi_yield_when_idle": "0" if processes_per_host == 1 else "1",
    }
    words = ["mpirun", "--host", ",".join(f"{host.name}:{per_host}" for host in hosts.all)]
    words += ["-np", str(processes_per_host * len(hosts.all)), "--bind-to", "none"]
    for name, value in settings.items():
        words += ["--mca", name, value]
    return [*_NAMED, hosts.home.name, *words, str(program)]


def _remote_shell(hosts: Hosts) -> Path:
    """The script that stands in for ssh: `SCRIPT HOST COMMAND…`."""
    script = hosts.base / "remote-shell"
    if not script.exists():
        cases = "".join(f'{host.name}) exec {shlex.join(_shell(host))} "$*" ;;\n' for host in hosts.all)
        unknown = '*) echo "no host $host" >&2; exit 255 ;;\n'
        script.write_text(f"#!/bin/sh\nhost=$1\nshift\ncase $host in\n{cases}{unknown}esac\n", encoding="utf-8")
        script.chmod(0o700)
    return script


def _shell(host: Host) -> list[str]:
    """The words before a command line that a shell on `host` is to run."""
    return [*host.enter, *_NAMED, host.name, "sh", "-c"]
