"""Each page's examples, in an interpreter of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import processes
from documents import page as driver
from generators import reads
from hosts import HostsFactory
from programs.native import need

ROOT = Path(__file__).resolve().parents[2]
SECONDS_MAX = 240

pytest.importorskip("numpy")


def pages() -> list[str]:
    """Pages that show something to run, and are written to be run."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in found if any(block_runs(block) for block in driver.blocks(path))]


def block_runs(block: driver.Block) -> bool:
    return block.kind != "console" or any(driver.commands(block))


def readme_needs(work: Path, hosts: HostsFactory) -> None:
    """A hosts file with agents that run, and an assembly and a file to work on."""
    agents = hosts(2, memory="256M", namespaces=False)
    (work / "hosts.toml").write_bytes(agents.file.read_bytes())
    source = reads.fastq(work / "reads.fq", genome_bases=5000, coverage=20)
    command = [need("velveth", "velvet"), "assembly", "21", "-short", "-fastq", str(source)]
    subprocess.run(command, cwd=work, check=True, capture_output=True, timeout=60)
    need("velvetg", "velvet")
    (work / "large.txt").write_text("".join(f"{number * 7919 % 10007}\n" for number in range(20_000)))


NEEDS: dict[str, Callable[[Path, HostsFactory], None]] = {"README.md": readme_needs}


@pytest.mark.parametrize("name", pages())
def test_page(name: str, megalith: None, hosts: HostsFactory, mark: str, work: Path) -> None:
    if prepare := NEEDS.get(name):
        prepare(work, hosts)
    done = subprocess.run(
        [sys.executable, "-P", driver.__file__, str(ROOT / name)],
        cwd=work,
        env=processes.environment(mark),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_driver_sees_what_is_not_as_the_page_says(work: Path) -> None:
    wrong = {
        "```python\nassert 1 + 1 == 3\n```\n": "line 2",
        "```pycon\n>>> 1 + 1\n3\n```\n": "Expected:",
        "```console\n$ echo good\nbad\n```\n": "and not",
        "```console\n$ false\n```\n": "ended with 1",
    }
    for text, complaint in wrong.items():
        path = work / "page.md"
        path.write_text(text)
        done = subprocess.run(
            [sys.executable, "-P", driver.__file__, str(path)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1, text
        assert complaint in done.stdout + done.stderr


def test_pages_are_found() -> None:
    assert {"README.md", "docs/tutorial.md", "docs/python.md"} <= set(pages())
