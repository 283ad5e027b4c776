"""gcc: a driver that starts cc1 and as by vfork; they run natively on the home host.

The program under megalith is the driver. Its children are ordinary processes, so nothing is evicted; what counts
is that the tree works and the object code is the same. `cc1` itself, which is large, runs under megalith too.
"""

from pathlib import Path

from generators import source
from programs.compare import Stage, tool_output
from programs.native import need


def test_driver_and_its_children(stage: Stage) -> None:
    source.c_program(stage.directory / "p.c", functions=40)
    gcc = need("gcc", "gcc")
    pair = stage.run([gcc, "-O2", "../p.c", "-o", "p"], evicts=False)
    pair.assert_same_files("p")
    assert tool_output(["./p"], pair.directory) == tool_output(["./p"], pair.native_directory)


def test_compiler_proper(stage: Stage) -> None:
    source.c_program(stage.directory / "p.c", functions=120)
    cc1 = tool_output([need("gcc", "gcc"), "-print-prog-name=cc1"], Path("/")).decode().strip()
    pair = stage.run([cc1, "-quiet", "-O1", "../p.c", "-o", "p.s"])
    pair.assert_same_files("p.s")
