from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from bench.interleaved import Spread, Timing, Way, interleave, ratios


def test_every_way_is_called_once_a_round_and_rounds_begin_with_the_next() -> None:
    called: list[str] = []
    ways = [Way(name, partial(nullcontext, name), called.append) for name in "abc"]

    timings = interleave(ways, repeats=3, warmup=1)

    assert "".join(called) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(took) for name, took in timings.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_call_gets_what_is_made_around_it_and_it_is_cleared_away() -> None:
    events: list[str] = []

    @contextmanager
    def around() -> Iterator[str]:
        events.append("made")
        yield "it"
        events.append("cleared")

    interleave([Way("a", around, events.append)], repeats=1, warmup=0)

    assert events == ["made", "it", "cleared"]


def test_ratios_are_taken_within_a_round() -> None:
    # Rounds of which one is disturbed for both ways: the ratio of sums would see it.
    timings = {
        "new": [Timing(2.0, 1.0), Timing(200.0, 1.0), Timing(4.0, 1.0)],
        "old": [Timing(1.0, 1.0), Timing(100.0, 2.0), Timing(1.0, 4.0)],
    }

    assert ratios(timings, "new", "old") == Spread(median=2.0, low=2.0, high=3.0)
    assert ratios(timings, "new", "old", clock="cpu") == Spread(0.5, 0.375, 0.75)
