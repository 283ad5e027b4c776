"""What the tools of the field show of the hosts: every one a NUMA node, with all that may be used."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from megalith.distance import FARTHEST, distances
from programs.native import need
from spread.machine import THREE, Machine, run

pytestmark = pytest.mark.parametrize("machine", [THREE], ids=lambda machine: machine.name, indirect=True)


def seen(machine: Machine, mark: str, directory: Path, *argv: str) -> tuple[str, dict[str, Any]]:
    """What a tool prints, and the run's report."""
    place = directory / "run"
    place.mkdir(exist_ok=True)
    ended = run(machine, argv, directory=place, mark=mark, memory="64M", timeout=60)
    assert ended.returncode == 0, ended.said
    report: dict[str, Any] = json.loads(directory.joinpath("run.report.json").read_text(encoding="utf-8"))
    return ended.stdout.decode(), report


def cpus(report: dict[str, Any]) -> list[int]:
    return [host["cpus"] for host in report["spread"]["hosts"]]


def test_numactl_shows_measured_distances(machine: Machine, mark: str, directory: Path) -> None:
    text, report = seen(machine, mark, directory, need("numactl", "numactl"), "-H")
    assert "available: 3 nodes (0-2)" in text
    assert text.count(" size: 64 MB") == 3
    shown = [[int(word) for word in row.split()] for row in re.findall(r"^ +\d: (.*)$", text, re.MULTILINE)]
    assert [len(row) for row in shown] == [3, 3, 3]
    assert shown == [list(column) for column in zip(*shown, strict=True)], "the same both ways"
    # The shortest round trips of the whole run are at most as long as those when it began.
    least = distances([host["rtt_us"] for host in report["hosts"]])
    for a, b in ((a, b) for a in range(3) for b in range(3)):
        assert report["hosts"][a]["rtt_us"][b] > 0 or a == b
        assert (shown[a][b] == 10) if a == b else (least[a][b] <= shown[a][b] < FARTHEST), text


def test_lstopo_shows_all_nodes_and_cpus(machine: Machine, mark: str, directory: Path) -> None:
    lstopo = need("lstopo-no-graphics", "hwloc-nox")
    text, report = seen(machine, mark, directory, lstopo, "--of", "console", "--no-io")
    # In any order: hwloc puts nodes together of which it finds that they are nearer to each other than to the rest.
    assert sorted(int(number) for number in re.findall(r"NUMANode L#\d+ \(P#(\d+) 64MB\)", text)) == [0, 1, 2], text
    pus = sorted(int(number) for number in re.findall(r"PU L#\d+ \(P#(\d+)\)", text))
    assert pus == list(range(sum(cpus(report)))), text


@pytest.mark.parametrize(
    ("group", "suffix"), [("cpuset//", ""), ("cpuset/some/group/", ""), ("", ".effective"), ("a.slice/", ".effective")]
)
def test_a_control_group_may_use_all(machine: Machine, mark: str, directory: Path, group: str, suffix: str) -> None:
    """Of version 1 and 2, whichever this computer has."""
    files = [f"/sys/fs/cgroup/{group}cpuset.{what}{suffix}" for what in ("cpus", "mems")]
    text, report = seen(machine, mark, directory, need("cat", "coreutils"), *files)
    assert text == f"0-{sum(cpus(report)) - 1}\n0-2\n"
