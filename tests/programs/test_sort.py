"""GNU sort: threads that merge in parallel over one large buffer."""

from generators import text
from programs.compare import Stage
from programs.native import need


def test_parallel_sort(stage: Stage) -> None:
    lines = text.hex_lines(stage.directory / "lines", lines=1_000_000)
    sort = need("sort", "coreutils")
    pair = stage.run([sort, "--parallel=4", "-S", "256M", "-o", "sorted", str(lines)])
    pair.assert_same_files("sorted")


def test_sort_from_stdin_to_stdout(stage: Stage) -> None:
    lines = text.hex_lines(stage.directory / "lines", lines=500_000)
    sort = need("sort", "coreutils")
    stage.run([sort, "--parallel=2", "-r", "-S", "256M"], stdin=lines).assert_same_stdout()
