from __future__ import annotations

from collections.abc import Generator

import pytest

import megalith


def test_items_pass_unchanged_and_nothing_is_shown_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(megalith.progress(range(5))) == [0, 1, 2, 3, 4]
    assert list(megalith.progress(iter("abc"), total=3)) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_bar_that_is_asked_for_is_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(megalith.progress(iter("abc"), total=3, description="letters", show=True)) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "letters" in captured.err
    assert "3/3" in captured.err


def test_it_ends_with_its_consumer(capsys: pytest.CaptureFixture[str]) -> None:
    items = megalith.progress([1, 2, 3], show=True)
    assert next(items) == 1
    assert isinstance(items, Generator)
    items.close()
    assert "0/3" in capsys.readouterr().err
