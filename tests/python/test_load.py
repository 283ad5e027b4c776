"""Arrays of files in the machine's memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import megalith
from megalith.arrays import by_address
from megalith.exceptions import AgentError
from python.snippets import in_another

numpy = pytest.importorskip("numpy")

MIB = 1 << 20


@pytest.fixture(scope="module")
def machine() -> Iterator[megalith.Machine]:
    with megalith.machine(hosts=3, memory_per_host="32M") as made:
        yield made


def said(call: Any, *arguments: Any, **options: Any) -> tuple[type[BaseException], str]:
    """What it raises."""
    with pytest.raises(Exception) as raised:
        call(*arguments, **options)
    return raised.type, str(raised.value)


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(12.0).reshape(3, 4),
        numpy.asfortranarray(numpy.arange(24).reshape(2, 3, 4)),
        numpy.array(7, "u2"),
        numpy.zeros((0, 3)),
        numpy.array([(1, 2.5, b"x")], [("a", "<i4"), ("b", ">f8"), ("c", "S3")]),
        numpy.array([("snow", 1)], [("\N{SNOWMAN}", "U4"), ("n", "i1")]),
        numpy.array(["2026-01-01", "NaT"], "datetime64[s]"),
        numpy.array([True, False]),
        numpy.zeros(3, "V0"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_what_numpy_saves_is_loaded(machine: megalith.Machine, tmp_path: Path, array: Any) -> None:
    path = tmp_path / "array.npy"
    numpy.save(path, array)
    loaded, expected = machine.load(path), numpy.load(path)
    assert loaded.dtype == expected.dtype
    assert loaded.shape == expected.shape
    assert loaded.flags.f_contiguous == expected.flags.f_contiguous
    assert loaded.tobytes() == expected.tobytes()
    assert by_address(loaded) is not NotImplemented


def test_a_file_larger_than_a_host(machine: megalith.Machine, tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    array = numpy.random.default_rng(1).integers(0, 1 << 60, 48 * MIB // 8)
    numpy.save(path, array)
    assert numpy.array_equal(machine.load(path), array)
    array.tofile(path)
    assert numpy.array_equal(machine.fromfile(path, "i8"), array)


def test_an_archive_is_a_dictionary(machine: megalith.Machine, tmp_path: Path) -> None:
    arrays = {"a": numpy.arange(100_000), "b": numpy.eye(3)}
    for save in (numpy.savez, numpy.savez_compressed):
        save(tmp_path / "arrays.npz", **arrays)
        loaded = machine.load(tmp_path / "arrays.npz")
        assert list(loaded) == ["a", "b"]
        for name, array in arrays.items():
            assert numpy.array_equal(loaded[name], array)
            assert by_address(loaded[name]) is not NotImplemented


def test_what_numpy_refuses_is_refused(machine: megalith.Machine, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    assert said(machine.load, path) == said(numpy.load, path)
    numpy.save(path, numpy.arange(1000))
    whole = path.read_bytes()
    objects = tmp_path / "objects.npy"
    numpy.save(objects, numpy.array([None, 1]), allow_pickle=True)
    assert said(machine.load, objects) == said(numpy.load, objects)
    for content in (
        b"",
        b"not an array",
        b"\x80\x04N.",
        whole[:4],
        whole[:9],
        whole[:60],
        whole[:-8],
        whole[:128],
        whole[:6] + b"\x09\x00" + whole[8:],
        whole.replace(b"shape", b"Shape"),
        whole[:10] + b"{" * 118 + whole[128:],
        b"PK\x03\x04 and nothing else",
    ):
        path.write_bytes(content)
        assert said(machine.load, path) == said(numpy.load, path), content[:20]
    path.write_bytes(whole)
    assert said(machine.load, path, max_header_size=10) == said(numpy.load, path, max_header_size=10)
    numpy.savez(tmp_path / "objects.npz", numpy.array([None]))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        machine.load(tmp_path / "objects.npz")


def test_raw_files_are_read_as_numpy_reads_them(machine: megalith.Machine, tmp_path: Path) -> None:
    path = tmp_path / "raw"
    numpy.arange(1000, dtype="i4").tofile(path)
    for options in (
        {},
        {"dtype": "i4"},
        {"dtype": "i4", "count": 7},
        {"dtype": "i4", "count": 7, "offset": 10},
        {"dtype": "i4", "count": 100_000},
        {"dtype": "i4", "count": 0},
        {"dtype": "i8", "offset": 3999},
        {"dtype": "i8", "offset": 4000},
        {"dtype": "i8", "offset": 5000, "count": 3},
        {"dtype": "i4, f8", "offset": 4},
    ):
        loaded, expected = machine.fromfile(path, **options), numpy.fromfile(path, **options)
        assert loaded.dtype == expected.dtype
        assert loaded.tobytes() == expected.tobytes()
        assert by_address(loaded) is not NotImplemented
    assert said(machine.fromfile, tmp_path / "none") == said(numpy.fromfile, tmp_path / "none")
    assert said(machine.fromfile, path, object) == said(numpy.fromfile, path, object)
    with pytest.raises(ValueError, match="0-sized"):
        machine.fromfile(path, "V0")
    with pytest.raises(OSError, match="Invalid argument"):
        machine.fromfile(path, offset=-1)
    with pytest.raises(ValueError, match="raw ends at byte 4000, before offset=5000"):
        machine.fromfile(path, offset=5000)


def test_what_has_no_length_is_refused(machine: megalith.Machine, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.open("wb").close())
    writer.start()
    with pytest.raises(OSError, match="Illegal seek"):
        machine.fromfile(pipe)
    writer.join(60)


def test_a_machine_that_ends_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    numpy.save(path, numpy.arange(5 * MIB))
    ended = in_another(f"""
        import megalith, os, threading
        with megalith.machine(hosts=2, memory_per_host="32M") as machine:
            machine.load({str(path)!r})
            agents = machine._keeper.place.local.pids
            thread = threading.Timer(0.2, lambda: [os.kill(agent, 9) for agent in agents])
            thread.start()
            try:
                while True:
                    machine.load({str(path)!r})
            except megalith.AgentError as error:
                print("has ended" in str(error))
            thread.join()
    """)
    assert (ended.stdout, ended.stderr) == ("True\n", "")


def test_a_machine_that_is_closed_loads_nothing(tmp_path: Path) -> None:
    numpy.save(tmp_path / "array.npy", numpy.arange(3))
    code = f"""
        import megalith
        from pathlib import Path
        machine = megalith.machine(hosts=1, memory_per_host="32M")
        machine.close()
        for call in (machine.load, machine.fromfile):
            try:
                call({str(tmp_path / "array.npy")!r})
            except megalith.AgentError as error:
                print(error)
    """
    assert in_another(code).stdout == "the machine is closed\n" * 2
    assert issubclass(AgentError, megalith.MegalithError)
