"""A file that the program has mapped cannot be read any more."""

import subprocess
from pathlib import Path

import pytest

import cli
import processes
from programs.native import need


@pytest.fixture(scope="session")
def bad_disk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The library of `bad_disk.c`, built."""
    library = tmp_path_factory.mktemp("bad-disk") / "bad_disk.so"
    source = Path(__file__).with_name("bad_disk.c")
    compiler = [need("gcc", "gcc"), "-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*compiler, str(source), "-o", str(library)], check=True, timeout=60)
    return str(library)


def test_a_mapped_file_that_cannot_be_read_ends_the_run(
    megalith: None, mark: str, scratch: Path, victim: str, bad_disk: str, tmp_path: Path
) -> None:
    """Never other bytes in its place."""
    mapped = tmp_path / "mapped"
    mapped.write_bytes(b"A" * 4096)
    inode = str(mapped.stat().st_ino)
    environment = processes.environment(mark, TMPDIR=str(scratch), LD_PRELOAD=bad_disk)
    command = [*cli.local(3, "16M"), victim, "mapped", str(mapped)]
    well = cli.run(*command, env=environment, timeout=60)
    assert (well.returncode, well.stdout) == (0, b"65\n"), well
    outcome = cli.run(*command, env=environment | {"BAD_INODE": inode}, timeout=60)
    assert outcome.returncode == cli.EXIT_LOST, outcome
    assert outcome.stdout == b""
    assert len(outcome.complaint) == 1, outcome.complaint
    assert "a file that the program has mapped cannot be read: Input/output error" in outcome.complaint[0]
    assert processes.left_after(mark, 3) == []
    assert list(scratch.iterdir()) == []
