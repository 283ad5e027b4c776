"""Futex words that the kernel writes, in evicted pages: it does not wait for them, so the runtime brings them first."""

import subprocess
from pathlib import Path

from programs.compare import Stage
from programs.native import need


def test_words_that_the_kernel_writes(stage: Stage) -> None:
    binary = stage.directory / "futexes"
    source = Path(__file__).with_name("futexes.c")
    command = [need("gcc", "gcc"), "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", str(source), "-o", str(binary)]
    subprocess.run(command, check=True, timeout=60)
    pair = stage.run([str(binary), "64"], hands_over=False)
    pair.assert_same_stdout()
    assert b"-14" not in pair.native.stdout, "EFAULT natively?"
