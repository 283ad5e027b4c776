"""``megalith.run`` from Python, on fake agents."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cli_driver import Cli


def python(cli: Cli, code: str, wish: str = "{}") -> str:
    environment = cli.environment | {"FAKE": wish}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert cli.leftovers() == []
    return done.stdout


def test_completed(cli: Cli, tmp_path: Path) -> None:
    code = f"""
import os, megalith
seen = []
out = os.open({str(tmp_path / "out")!r}, os.O_WRONLY | os.O_CREAT)
done = megalith.run(["sh", "-c", "sleep 1.5; echo $V; kill -TERM $$"], hosts=2, memory_per_host="64M",
                    env={{"V": "7", "PATH": os.environ["PATH"]}}, stdout=out, watch=seen.append)
print(done.returncode, done.report.exit_code, done.report.ended_by, done.report.memory, bool(seen))
"""
    assert python(cli, code) == f"-15 143 signal {128 << 20} True\n"
    assert (tmp_path / "out").read_text() == "7\n"


def test_a_thread_may_run_a_program(cli: Cli) -> None:
    code = """
import threading, megalith
found = []
def work(): found.append(megalith.run(["true"], memory_per_host="64M").returncode)
thread = threading.Thread(target=work); thread.start(); thread.join(); print(found)
"""
    assert python(cli, code) == "[0]\n"


def test_failures_are_exceptions_with_reports(cli: Cli) -> None:
    code = """
import megalith
try: megalith.run(["sleep", "60"], memory_per_host="64M")
except megalith.MemoryExhausted as error: print(error.report.exit_code, error.report.hosts[0].held)
"""
    assert python(cli, code, '{"then": "full"}') == f"137 {64 << 20}\n"
    code = """
import megalith
for argv, options in ((["no-such-program"], {}), (["true"], {"hosts": 0}), (["true"], {"hosts": "none.toml"}),
                      (["true"], {"memory_per_host": "2GB"})):
    try: megalith.run(argv, **options)
    except megalith.MegalithError as error: print(type(error).__name__)
"""
    assert python(cli, code).split() == ["ProgramNotFound", "HostsFileError", "HostsFileError", "SizeError"]
