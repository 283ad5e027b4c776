"""Runs the command line as a user does, with the fake core in place of the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FAKE = HERE / "fake"
PACKAGE = HERE.parent.parent / "python"


class Cli:
    """Runs ``megalith`` with the fake core, and looks after what it leaves behind."""

    def __init__(self, runtime: Path, home: Path) -> None:
        self.home = home
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{FAKE}:{PACKAGE}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "FAKE_RUNTIME": str(runtime),
            "TMPDIR": str(home / "tmp"),
            "XDG_RUNTIME_DIR": str(home / "xdg"),
            "LC_ALL": "C.UTF-8",
        }
        (home / "tmp").mkdir()
        (home / "xdg").mkdir(mode=0o700)

    def popen(self, *words: str, wish: dict[str, Any] | None = None, **options: Any) -> subprocess.Popen[str]:
        environment = self.environment | {"FAKE": json.dumps(wish or {})}
        command = [sys.executable, "-P", "-m", "megalith", *words]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
        return subprocess.Popen(command, text=True, env=environment, **options)

    def __call__(
        self, *words: str, wish: dict[str, Any] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        with self.popen(*words, wish=wish, **options) as process:
            try:
                out, err = process.communicate(timeout=60)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def leftovers(self) -> list[str]:
        """Agents and directories of local hosts that are still there."""
        found = [str(path) for path in (self.home / "tmp").iterdir()]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environ = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if f"TMPDIR={self.home / 'tmp'}".encode() in environ.split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found
