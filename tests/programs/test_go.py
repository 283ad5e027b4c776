"""Go programs: a runtime with its own threads, stacks, signals (SIGURG preempts) and garbage collector."""

from generators import document, text
from programs.compare import Stage
from programs.native import need


def test_fzf_filters(stage: Stage) -> None:
    """Matches on as many goroutines as CPUs, and sorts them; the order is by score and line, so it is fixed."""
    lines = text.hex_lines(stage.directory / "lines", lines=400_000)
    stage.run([need("fzf", "fzf"), "--filter", "abc"], stdin=lines).assert_same_stdout()


def test_gron_flattens_json(stage: Stage) -> None:
    source = document.json_records(stage.directory / "data.json", records=10_000)
    stage.run([need("gron", "gron"), str(source)], hands_over=False).assert_same_stdout()
