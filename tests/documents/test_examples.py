"""The examples, at sizes that are over soon; each checks its own result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import processes

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SMALL = {
    "kmers": ["--k", "15", "--reads", "3000", "--memory-per-host", "16M"],
    "bloom": ["--samples", "2048", "--rows-log2", "16", "--kmers", "4000", "--memory-per-host", "16M"],
    "larger": ["--mib", "24", "--memory-per-host", "16M"],
}
SAYS = {
    "kmers": ["a plain count in one process is the same"],
    "bloom": ["none was missed", "false finds"],
    "larger": ["sort:", "svd:", "fit:", "the same"],
}

pytest.importorskip("numpy")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")


def run(name: str, *words: str, mark: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *words]
    environment = processes.environment(mark)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_all_are_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SMALL) == set(SAYS)


@pytest.mark.parametrize("name", SMALL)
def test_example(name: str, megalith: None, mark: str, work: Path) -> None:
    done = run(name, *SMALL[name], mark=mark, cwd=work)
    if "apt install bowtie2-examples" in done.stderr:
        pytest.skip("the lambda phage reads are missing: apt-get install bowtie2-examples")
    assert done.returncode == 0, done.stderr
    for words in SAYS[name]:
        assert words in done.stdout
    assert "<svg" in (work / f"build/examples/{name}.svg").read_text()[:1000]
    assert not processes.marked(mark), "it leaves nothing behind"


@pytest.mark.parametrize("name", SMALL)
def test_help(name: str, mark: str, work: Path) -> None:
    done = run(name, "--help", mark=mark, cwd=work)
    assert done.returncode == 0, done.stderr
    assert "--memory-per-host" in done.stdout
