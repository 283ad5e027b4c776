"""What is said of an address."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from megalith import symbols
from megalith.symbols import Symbols, region

SOURCE = """\
#include <stdint.h>
char before[5000] = {1};
uint64_t counter[8] __attribute__((aligned(4096))) = {1};
char lock[64] = {1};
char large[9000] = {1};
char zeros[100000];
int main(void) { return before[0] + counter[0] + lock[0] + large[0] + zeros[0]; }
"""


@pytest.fixture(scope="module", params=["-pie", "-no-pie"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("program")
    (directory / "main.c").write_text(SOURCE)
    path = directory / "main"
    flags = ["-fPIE", "-pie"] if request.param == "-pie" else ["-fno-pie", "-no-pie"]
    subprocess.run(["gcc", *flags, "-o", path, directory / "main.c"], check=True)
    return path


def address_of(program: Path, name: str) -> int:
    lines = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout.splitlines()
    (address,) = [int(line.split()[0], 16) for line in lines if line.split()[-1] == name]
    return address + (symbols.EXECUTABLE_BASE if address < 0x400000 else 0)


def test_variables_have_names(program: Path) -> None:
    known = Symbols(program)
    page = address_of(program, "counter")
    assert page % 4096 == 0
    assert "counter" in known.what(page)
    assert "large" in known.what(page)
    assert known.what(address_of(program, "zeros") + 8192 & ~4095) == "zeros"
    assert known.what(page + (16 << 20)) == "heap"


def test_a_stripped_program_has_no_names(program: Path, tmp_path: Path) -> None:
    page = address_of(program, "counter")
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-o", stripped, program], check=True)
    assert Symbols(stripped).what(page) == "data of stripped"


def test_without_nm(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert Symbols(program).what(address_of(program, "counter")) == "data of main"


def test_what_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    for path in (tmp_path / "script", tmp_path / "none"):
        assert Symbols(path).what(symbols.EXECUTABLE_BASE) == "program or heap"


def test_regions() -> None:
    assert region(0x5FFF_FFFE_F000) == "first stack"
    assert region(0x4FFF_F000_0000) == "mapping (library, large allocation, thread's stack)"
    assert region(0x40_4000) == "program or heap"
