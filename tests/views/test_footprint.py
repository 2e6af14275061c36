"""What is on disk, as a person reads it."""

from __future__ import annotations

from skiptune.search.footprint import Footprint, Pile
from skiptune.views.footprint import footprint_view
from tests.views.printed import printed

FOUND = Footprint(
    studies={"tiny": Pile(1200, 12_345_678)},
    store=Pile(1500, 3_200_000_000),
    orphans=Pile(3, 999),
    location="/shared/arrays",
    database=1_500_000,
    free=2 * 10**12,
)


def text(found: Footprint | None) -> list[str]:
    return printed(*footprint_view(found)).splitlines()


def test_a_row_for_each_pile() -> None:
    lines = [" ".join(line.split()) for line in text(FOUND)]
    assert "arrays of tiny 1,200 12.3 MB" in lines
    assert "whole store 1,500 3.2 GB" in lines
    assert "orphaned (skiptune db gc) 3 999 B" in lines
    assert "database 1.5 MB" in lines
    assert "free beside the store 2.0 TB" in lines
    assert "store: /shared/arrays" in lines


def test_what_is_not_known_is_left_out() -> None:
    bucket = Footprint({}, Pile(), None, "s3://bucket/prefix", 10, None)
    words = "\n".join(text(bucket))
    assert "orphaned" not in words and "free" not in words and "s3://bucket/prefix" in words


def test_nobody_asked() -> None:
    assert text(None) == []
