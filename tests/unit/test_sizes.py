from __future__ import annotations

import pytest

from megalith.exceptions import SizeError
from megalith.sizes import format_size, parse_budget, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("1.5GiB", 3 << 29),
        ("2T", 2 << 40),
        ("64k", 64 << 10),
        ("4096", 4096),
        (" 1 MiB ", 1 << 20),
    ],
)
def test_sizes_are_binary(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "G", "2GB", "-1G", "1e9", "0x10", "1.5", "12ib", "two", "1,5G", "NaN", "inf", "1G 2"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SizeError, match=r"^'"):
        parse_size(text)


def test_a_budget_is_whole_pages_within_bounds() -> None:
    assert parse_budget(str((1 << 20) + 4097)) == (1 << 20) + 4096
    for bad in ("0", "4096", "1023k", "65T", "1" + "0" * 30):
        with pytest.raises(SizeError, match="out of range"):
            parse_budget(bad)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (3 << 29, "1.50 GiB"),
        (157 << 20, "157 MiB"),
        (2 << 40, "2.00 TiB"),
    ],
)
def test_sizes_are_shown_in_three_digits(size: int, text: str) -> None:
    assert format_size(size) == text
