"""A Linux guest larger than any host: QEMU with four virtual CPUs, whose threads are on several hosts.

QEMU translates code (TCG), so it is one process of ordinary threads; nothing of it knows of the machine it runs on.
"""

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from programs.native import need
from spread import guest
from spread.machine import NATIVE, THREE, TWO, Machine, run

CPUS = 4
RAM_MIB = 512
WORK_MIB = 300
"""What the program in the guest fills: with the guest's own, more than one host's budget."""
BUDGET_MIB = 256


@dataclass(frozen=True)
class Seen:
    """What the guest said on its serial console."""

    cpus: int
    online: str
    memory_mib: int
    checksum: str
    shell: str


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> guest.Image:
    need("qemu-system-x86_64", "qemu-system-x86")
    return guest.make(tmp_path_factory.mktemp("guest"))


def qemu(image: guest.Image) -> list[str]:
    """The words that start the guest: no devices but a serial console."""
    console = f"console=ttyS0 quiet panic=-1 THREADS={CPUS} MIB={WORK_MIB}"
    return [
        need("qemu-system-x86_64", "qemu-system-x86"),
        *("-accel", "tcg,thread=multi,tb-size=32", "-smp", str(CPUS), "-m", str(RAM_MIB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append", console),
    ]


def heard(console: bytes) -> Seen:
    """Reads the guest's lines; each must be there."""
    text = console.decode(errors="replace").replace("\r", "")

    def line(pattern: str) -> str:
        found = re.search(rf"^guest: {pattern}$", text, re.MULTILINE)
        assert found, text[-3000:]
        return found[1]

    line("(done)")
    return Seen(
        int(line(r"cpus (\d+)")),
        line(r"online (\S+)"),
        int(line(r"memory (\d+)")),
        line(r"(checksum [0-9a-f]{16})"),
        line(r"([0-9a-f]{64})  -"),
    )


def expected(image: guest.Image) -> Seen:
    """The same work, natively and without a guest."""
    words = [str(image.checksum), str(CPUS), str(WORK_MIB)]
    checksum = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout.strip()
    sums = [hashlib.sha256("".join(f"{n}\n" for n in range(1, k * 1000 + 1)).encode()).hexdigest() for k in range(1, 5)]
    shell = hashlib.sha256("".join(f"{one}  -\n" for one in sums).encode()).hexdigest()
    return Seen(CPUS, f"0-{CPUS - 1}", 0, checksum, shell)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("machine", [NATIVE, TWO, THREE], ids=lambda machine: machine.name, indirect=True)
def test_guest_larger_than_a_host(machine: Machine, mark: str, directory: Path, image: guest.Image) -> None:
    work = directory / "work"
    work.mkdir()
    budget = BUDGET_MIB * 3 // max(machine.hosts, 1) if machine.hosts else 0
    assert budget < RAM_MIB
    ended = run(machine, qemu(image), directory=work, mark=mark, memory=f"{budget}M", timeout=3500)
    print(f"{ended.seconds:.0f} s on {machine.name}")
    assert ended.returncode == 0, (ended.stdout[-2000:], ended.said)
    seen, right = heard(ended.stdout), expected(image)
    assert (seen.cpus, seen.online, seen.checksum, seen.shell) == (
        right.cpus,
        right.online,
        right.checksum,
        right.shell,
    )
    assert seen.memory_mib > RAM_MIB * 8 // 10
    if not machine.native:
        assert ended.away_faults > 0, "no virtual CPU was away: it proves nothing"
