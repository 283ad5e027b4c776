"""One-process tools: sqlite3, perl, xz, and busybox, which is statically linked."""

import os
from pathlib import Path

import pytest

from generators import text
from programs.compare import Stage, tool_output
from programs.native import need

SQL = """
pragma journal_mode=memory; pragma temp_store=memory; pragma cache_size=-200000;
create table t(a integer primary key, b text, c int);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 270000)
  insert into t select i, hex(i * 7919 % 1000003) || i, i * 31337 % 65537 from n;
create index ib on t(b);
create index ic on t(c, b);
pragma integrity_check;
select count(*), sum(c), min(b), max(b) from t indexed by ic where c > 1000;
select sum(a * rank) from (select a, row_number() over (order by b) as rank from t where a % 7 = 0);
"""


def test_sqlite_builds_an_index(stage: Stage) -> None:
    sqlite = need("sqlite3", "sqlite3")
    pair = stage.run([sqlite, "data.db", SQL])
    pair.assert_same_stdout()
    assert b"\nok\n" in pair.ours.stdout
    assert tool_output([sqlite, "data.db", "pragma integrity_check"], pair.directory) == b"ok\n"
    pair.assert_same_files("data.db")


def test_perl_fills_a_hash(stage: Stage) -> None:
    lines = text.hex_lines(stage.directory / "lines", lines=140_000)
    program = r'chomp; $h{$_}++; END { print "$_ $h{$_}\n" for sort keys %h }'
    stage.run([need("perl", "perl"), "-ne", program, str(lines)], share=0.6).assert_same_stdout()


def test_xz_with_two_threads(stage: Stage) -> None:
    source = text.mixed(stage.directory / "data", bytes_total=3 << 20)
    xz = need("xz", "xz-utils")
    packed = stage.run([xz, "-T2", "--block-size=1536KiB", "-4", "-k", "-c", str(source)], share=0.7)
    packed.assert_same_stdout()
    archive = stage.directory / "data.xz"
    archive.write_bytes(packed.ours.stdout)
    # Threads of a decompressor need the blocks' sizes, which -T2 has written.
    unpacked = stage.run([xz, "-T2", "-d", "-c", str(archive)], evicts=False)
    assert unpacked.ours.stdout == source.read_bytes()


def test_zstd_with_two_threads(stage: Stage) -> None:
    source = text.mixed(stage.directory / "data", bytes_total=24 << 20)
    zstd = need("zstd", "zstd")
    packed = stage.run([zstd, "-T2", "-9", "-q", "-c", str(source)])
    packed.assert_same_stdout()
    archive = stage.directory / "data.zst"
    archive.write_bytes(packed.ours.stdout)
    unpacked = stage.run([zstd, "-d", "-q", "-c", str(archive)], evicts=False)
    assert unpacked.ours.stdout == source.read_bytes()


def test_gawk_sorts_an_array(stage: Stage) -> None:
    source = text.nearly_sorted(stage.directory / "lines", lines=250_000)
    program = "{ s[NR] = $1 } END { n = asort(s, k); for (i = 1; i <= n; i += 10) print k[i] }"
    stage.run([need("gawk", "gawk"), program, str(source)], hands_over=False).assert_same_stdout()


BUSYBOX = {
    "sort": ["sort", "lines"],
    "awk": ["awk", "{ l[NR] = $0 } END { for (i = NR; i > 0; i--) print l[i] }", "lines"],
}

SMALL_APPLETS = {
    "gzip": ["gzip", "-n", "-c", "lines"],
    "bzip2": ["bzip2", "-c", "lines"],
    "sha256sum": ["sha256sum", "lines"],
    "wc": ["wc", "lines"],
    "sed": ["sed", "s/ab/X/g", "lines"],
    "tac": ["tac", "lines"],
}


def busybox(stage: Stage, lines: int) -> str:
    program = need("busybox", "busybox-static")
    if b"/lib64/ld-linux" in Path(program).read_bytes()[:4096]:
        pytest.skip("busybox is dynamically linked here: apt-get install busybox-static")
    # A sort in random memory order costs a fault for almost every comparison, on any pager: nearly sorted it is.
    source = text.nearly_sorted(stage.directory / "lines", lines=lines)
    stage.prepare(lambda directory: os.link(source, directory / "lines"))
    return program


@pytest.mark.parametrize("applet", BUSYBOX)
def test_static_busybox(stage: Stage, applet: str) -> None:
    stage.run([busybox(stage, 600_000), *BUSYBOX[applet]]).assert_same_stdout()


@pytest.mark.parametrize("applet", SMALL_APPLETS)
def test_static_busybox_small_applets(stage: Stage, applet: str) -> None:
    stage.run([busybox(stage, 100_000), *SMALL_APPLETS[applet]], evicts=False).assert_same_stdout()
