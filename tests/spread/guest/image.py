"""The guest's kernel and initramfs.

The kernel is Debian's for clouds, taken out of its package, which is downloaded and not installed; where that cannot
be, MEGALITH_GUEST_KERNEL names a kernel. The initramfs holds busybox, `checksum` and `init`.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from programs.native import need

VARIABLE = "MEGALITH_GUEST_KERNEL"
PACKAGE = "linux-image-cloud-amd64"
APPLETS = ("sh", "mount", "grep", "awk", "cat", "seq", "sha256sum", "poweroff", "sleep")
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Image:
    """What QEMU needs to start the guest, and the checksum program to compare with."""

    kernel: Path
    initramfs: Path
    checksum: Path


def make(directory: Path) -> Image:
    """Makes the guest in `directory`; skips the test where something for it is missing."""
    busybox = need("busybox", "busybox-static")
    checksum = directory / "checksum"
    source = str(_HERE / "checksum.c")
    subprocess.run(
        [need("gcc", "gcc"), "-O2", "-static", "-pthread", source, "-o", str(checksum)], check=True, timeout=60
    )
    initramfs = directory / "initramfs"
    initramfs.write_bytes(
        _archive(Path(busybox).read_bytes(), checksum.read_bytes(), _HERE.joinpath("init").read_bytes())
    )
    return Image(_kernel(directory), initramfs, checksum)


def _kernel(directory: Path) -> Path:
    if named := os.environ.get(VARIABLE):
        return Path(named)
    need("apt-get", "apt")
    # The package of the newest kernel is the one thing that this one depends on.
    depends = subprocess.run(["apt-cache", "depends", PACKAGE], capture_output=True, text=True, timeout=60, check=False)
    found = [
        line.split()[-1] for line in depends.stdout.splitlines() if line.strip().startswith("Depends: linux-image")
    ]
    if not found:
        pytest.skip(f"apt knows no {PACKAGE}: set {VARIABLE} to a kernel for the guest")
    download = subprocess.run(
        ["apt-get", "download", "-qq", found[0]],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    packages = list(directory.glob("linux-image-*.deb"))
    if not packages:
        pytest.skip(f"{found[0]} cannot be downloaded ({download.stderr.strip()}): set {VARIABLE}")
    tree = directory / "package"
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(tree)], check=True, timeout=120)
    kernel = directory / "vmlinuz"
    shutil.copy(next(tree.glob("boot/vmlinuz-*")), kernel)
    shutil.rmtree(tree)
    return kernel


def _archive(busybox: bytes, checksum: bytes, init: bytes) -> bytes:
    """A cpio archive in the form that the kernel unpacks ("newc")."""
    directories = ("bin", "dev", "proc", "sys", "tmp")
    entries = [(name, 0o040755, b"") for name in directories]
    entries += [("bin/busybox", 0o100755, busybox), ("bin/checksum", 0o100755, checksum), ("init", 0o100755, init)]
    entries += [(f"bin/{applet}", 0o120777, b"busybox") for applet in APPLETS]
    entries.append(("TRAILER!!!", 0, b""))
    return b"".join(_entry(number, *entry) for number, entry in enumerate(entries, 1))


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(f"{field:08x}".encode() for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
