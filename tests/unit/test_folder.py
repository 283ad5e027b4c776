"""Temporary folders leave with their makers, or with the next one."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from megalith.folder import sweep, temporary

PREFIX = "megalith-test-"

KILLED = f"""
import os, signal
from megalith.folder import temporary
with temporary({PREFIX!r}) as folder:
    (folder / "file").write_text("left")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_it_is_gone_afterwards(place: Path) -> None:
    with temporary(PREFIX) as folder:
        assert folder.parent == place
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.joinpath("file").write_text("x")
    assert list(place.iterdir()) == []


def test_what_a_killed_maker_left_goes_with_the_next(place: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", KILLED]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
    left = Path(done.stdout.strip())
    assert left.joinpath("file").exists(), done.stderr
    sweep(PREFIX)
    assert list(place.iterdir()) == []


def test_folders_in_use_and_others_stay(place: Path) -> None:
    stranger = place / f"{PREFIX}file"
    stranger.write_text("no folder")
    with temporary(PREFIX) as first, temporary(PREFIX) as second:
        sweep(PREFIX)
        assert first.is_dir()
        assert second.is_dir()
    assert list(place.iterdir()) == [stranger]
