"""Runs what a page of the documentation shows, in order, as its reader would: `python page.py PAGE`.

- `python` blocks run in one interpreter, one after the other, as if they were one program;
- `pycon` blocks run in the same one, and each result is compared with what the page says;
- `console` blocks: each command after the prompt `$ ` is run by bash, in the working directory. Where lines follow it,
  what it writes is compared with them; otherwise it must end with 0. Those with other prompts (`# `, `a$ `) are not
  run.

`...` on the page stands for anything. Line numbers in tracebacks are those of the page.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND_SECONDS_MAX = 120
_BLOCK = re.compile(r"^```(python|pycon|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A block of a page."""

    kind: str
    text: str
    line: int
    """The page's lines before it."""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that are run, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(found[1], found[2], text.count("\n", 0, found.start(2))) for found in _BLOCK.finditer(text)]


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with what the page says that it writes."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, re.sub(r"^\w*[$#] .*\n", "", output, flags=re.MULTILINE)


def run_python(page: Path, block: Block, names: dict[str, Any]) -> None:
    """Runs a block; raises what it raises."""
    exec(compile("\n" * block.line + block.text, page, "exec"), names)


def run_session(page: Path, block: Block, names: dict[str, Any]) -> None:
    """Runs a block with prompts; raises AssertionError if it says something else than the page."""
    example = doctest.DocTestParser().get_doctest(block.text, names, page.name, str(page), block.line)
    example.globs = names  # The parser has made a copy.
    found = doctest.DocTestRunner(optionflags=_FLAGS).run(example, clear_globs=False)
    assert found.attempted
    assert not found.failed, f"{page.name}:{block.line}: the session above is not as the page says"


def run_console(page: Path, block: Block, names: dict[str, Any]) -> None:
    """Runs a block's commands; raises AssertionError if one fails, or writes something else than the page says."""
    for command, expected in commands(block):
        # Not to a pipe, whose end would wait for what goes on in the background.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                ["bash", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=COMMAND_SECONDS_MAX,
                check=False,
            )
            output.seek(0)
            wrote = output.read()
        where = f"{page.name}:{block.line}: {command}"
        assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{wrote}"
        as_said = doctest.OutputChecker().check_output(expected, wrote, _FLAGS)
        assert not expected or as_said, f"{where} wrote\n{wrote}\nand not\n{expected}"


RUN = {"python": run_python, "pycon": run_session, "console": run_console}


def main() -> None:
    """Runs a page's blocks."""
    page = Path(sys.argv[1])
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        RUN[block.kind](page, block, names)


if __name__ == "__main__":
    main()
