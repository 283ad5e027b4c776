"""The files that show the whole machine, read by the tools that read them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from megalith.distance import distance, distances
from megalith.report import Faults, HostFigures
from megalith.topology import cpu_list, cpu_mask
from megalith.view import Source, View

GIB = 1 << 30
HOSTS = (
    HostFigures("a", 4 * GIB, held=GIB, mapped=GIB // 2, stowed=GIB // 2, load=1.0),
    HostFigures("b", 2 * GIB, faults=Faults(first_touch=7), received_pages=3, handed_over_pages=2, rtt_us=(30, 0)),
)
CPUS = (2, 3)

CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: One
physical id\t: 0
siblings\t: 2
core id\t\t: 0
cpu cores\t: 1
apicid\t\t: 0
flags\t\t: fpu sse2 avx

processor\t: 1
vendor_id\t: GenuineIntel
model name\t: One
physical id\t: 0
siblings\t: 2
core id\t\t: 0
cpu cores\t: 1
apicid\t\t: 1
flags\t\t: fpu sse2 avx

"""
STAT = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 9 9 9 9 9 9 9 9 9 9\nintr 5 1 2\nctxt 77\nbtime 1700000000\nprocesses 3\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "home"
    cpu = root / "sys/devices/system/cpu/cpu0"
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(CPUINFO)
    (root / "proc/stat").write_text(STAT)
    (cpu / "topology").mkdir(parents=True)
    (cpu / "topology/thread_siblings_list").write_text("0-1\n")
    for index, level, shared in ((0, 1, "0-1"), (1, 3, "0-7")):
        cache = cpu / f"cache/index{index}"
        cache.mkdir(parents=True)
        facts = {"level": level, "type": "Unified", "size": f"{level * 32}K", "shared_cpu_list": shared}
        facts |= {"coherency_line_size": 64, "number_of_sets": 64, "ways_of_associativity": level * 8}
        for name, fact in facts.items():
            (cache / name).write_text(f"{fact}\n")
    return root


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "view"
    path.mkdir()
    return path


@pytest.fixture
def view(directory: Path, source: Path) -> View:
    return View(directory, CPUS, HOSTS, Source(source))


@pytest.fixture
def root(view: View, directory: Path) -> Path:
    return directory


def read(root: Path, path: str) -> str:
    return (root / path).read_text()


def test_sets_are_written_as_the_kernel_does() -> None:
    assert cpu_list([]) == ""
    assert cpu_list([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert cpu_mask([0, 1], 2) == "3"
    assert cpu_mask([1], 8) == "02"
    assert cpu_mask(range(40), 40) == "ff,ffffffff"
    assert cpu_mask([0], 33) == "0,00000001"


def test_every_cpu_of_every_host_is_there(root: Path) -> None:
    entries = read(root, "proc/cpuinfo").split("\n\n")
    assert entries.pop() == ""
    assert [entry.splitlines()[0] for entry in entries] == [f"processor\t: {n}" for n in range(5)]
    assert (
        "physical id\t: 1\nsiblings\t: 3\ncore id\t\t: 2\ncpu cores\t: 3\napicid\t\t: 4\nflags\t\t: fpu sse2 avx"
        in entries[4]
    )
    assert read(root, "sys/devices/system/cpu/online") == "0-4\n"
    assert read(root, "sys/devices/system/cpu/cpu3/topology/core_siblings_list") == "2-4\n"
    assert read(root, "sys/devices/system/cpu/cpu3/topology/thread_siblings_list") == "3\n"


def test_caches_end_with_their_host(root: Path) -> None:
    cache = "sys/devices/system/cpu/cpu3/cache"
    assert read(root, f"{cache}/index0/shared_cpu_list") == "3\n", "what home's core alone uses"
    assert read(root, f"{cache}/index1/shared_cpu_list") == "2-4\n", "what home's cores share"
    assert read(root, f"{cache}/index1/size") == "96K\n"


def test_every_host_is_a_node(root: Path) -> None:
    node = "sys/devices/system/node"
    assert read(root, f"{node}/online") == "0-1\n"
    assert read(root, f"{node}/node1/cpulist") == "2-4\n"
    assert read(root, f"{node}/node1/cpumap") == "1c\n"
    assert read(root, f"{node}/node1/distance") == f"{distance(30)} 10\n"
    assert read(root, f"{node}/node0/distance") == f"10 {distance(30)}\n"
    assert (root / node / "node1/cpu3/topology/core_id").read_text() == "1\n"
    assert (root / "sys/devices/system/cpu/cpu3/node1/cpulist").read_text() == "2-4\n"
    assert "numa_hit 7\nnuma_miss 3\nnuma_foreign 2\n" in read(root, f"{node}/node1/numastat")


def test_a_control_group_may_use_all(root: Path) -> None:
    assert read(root, "sys/fs/cgroup/cpuset.cpus") == "0-4\n"
    assert read(root, "sys/fs/cgroup/cpuset.mems") == "0-1\n"


def test_links_stay_inside(root: Path) -> None:
    links = [path for path in root.rglob("*") if path.is_symlink()]
    assert len(links) == 10
    assert all(path.resolve().is_relative_to(root.resolve()) for path in links)


def test_memory_is_what_the_hosts_lend(root: Path, view: View) -> None:
    assert read(root, "sysinfo") == f"{6 * GIB} {5 * GIB}\n"
    assert "MemTotal:        6291456 kB\nMemFree:         5242880 kB\n" in read(root, "proc/meminfo")
    assert "Node 1 MemTotal:        2097152 kB" in read(root, "sys/devices/system/node/node1/meminfo")
    view.refresh((HOSTS[0], HostFigures("b", 2 * GIB, held=2 * GIB)), 0.5)
    assert read(root, "sysinfo") == f"{6 * GIB} {3 * GIB}\n"
    assert "Node 1 MemFree:               0 kB" in read(root, "sys/devices/system/node/node1/meminfo")


def test_time_goes_on(root: Path, view: View) -> None:
    lines = read(root, "proc/stat").splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["cpu", *(f"cpu{n}" for n in range(5))]
    assert lines[6:] == ["intr 5 1 2", "ctxt 77", "btime 1700000000", "processes 3"]
    view.refresh(HOSTS, 10.0)
    ticks = os.sysconf("SC_CLK_TCK")
    lines = read(root, "proc/stat").splitlines()
    assert lines[1] == f"cpu0 {5 * ticks} 0 0 {5 * ticks} 0 0 0 0 0 0", "one of two CPUs was busy"
    assert lines[3] == f"cpu2 0 0 0 {10 * ticks} 0 0 0 0 0 0"
    assert lines[0] == f"cpu  {10 * ticks} 0 0 {40 * ticks} 0 0 0 0 0 0"


def test_nothing_lies_about(root: Path, view: View) -> None:
    view.refresh(HOSTS, 0.5)
    assert {path.name for path in root.iterdir()} == {"proc", "sys", "sysinfo"}


def tool(*words: str, **environment: str) -> str:
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    return subprocess.run(
        words, env=os.environ | {"LC_ALL": "C"} | environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.fixture
def real(directory: Path) -> Path:
    """Made of this computer's own files."""
    View(directory, CPUS, HOSTS)
    return directory


def test_lscpu_shows_it(real: Path) -> None:
    lines = tool("lscpu", "--sysroot", str(real)).splitlines()
    shown = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert shown["CPU(s)"] == "5"
    assert shown["On-line CPU(s) list"] == "0-4"
    assert shown["Socket(s)"] == "2"
    assert shown["Thread(s) per core"] == "1"
    assert shown["NUMA node(s)"] == "2"
    assert shown["NUMA node1 CPU(s)"] == "2-4"


def test_numactl_would_print_the_distances_of_three_hosts(tmp_path: Path, source: Path) -> None:
    hosts = [
        HostFigures(name, GIB, rtt_us=row) for name, row in (("a", (0, 900, 20)), ("b", (900, 0, None)), ("c", ()))
    ]
    View(tmp_path, (1, 1, 1), hosts, Source(source))
    rows = [read(tmp_path, f"sys/devices/system/node/node{n}/distance").split() for n in range(3)]
    assert rows == [[str(d) for d in row] for row in distances([host.rtt_us for host in hosts])]
    assert int(rows[0][2]) < int(rows[0][1])


def test_lstopo_shows_it(real: Path) -> None:
    text = tool("lstopo-no-graphics", "--of", "console", "--no-io", "--input", str(real), "--input-format", "fsroot")
    assert text.startswith("Machine (6144MB total)"), text
    assert "NUMANode L#1 (P#1 2048MB)" in text
    assert text.count("PU L#") == 5
