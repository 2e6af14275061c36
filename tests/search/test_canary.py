"""What the canary lets through and what it refuses, on a real network that samples.

`TOLERANCE` lies between what the same network differs by (threads, order of summation) and what
wrong weights do. The worker's behaviour is shown with made-up images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from skiptune.errors import NetworkError
from skiptune.search import canary, chunks
from skiptune.search.canary import IMAGES, TOLERANCE, deviation, sing
from skiptune.search.chunks import Sampled, sampled_chunk, versions
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.search.worker import Limits
from skiptune.storage import leases, ledger
from tests.search import made_up
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def perturbed(study: OpenStudy, noise: float) -> Iterator[None]:
    """Let each weight be off by relative noise."""
    network = study.checkpoint.network
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.mul_(1 + noise * draw.to(parameter.device))
    try:
        yield
    finally:
        network.load_state_dict(kept)


@contextmanager
def in_other_arithmetic(dtype: torch.dtype) -> Iterator[None]:
    with torch.autocast("cpu", dtype=dtype):
        yield


def with_baseline(study: OpenStudy) -> OpenStudy:
    """Store the first chunk of the baseline, as another worker made it."""
    study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=500)
    claim = leases.claim_chunk(study.database, study.id, worker="first:0:1:1", seconds=600.0)
    assert claim is not None
    array = study.arrays.write(sampled_chunk(study, claim).arrays)
    leases.commit_chunk(
        study.database, claim, array=array, seconds=1.0, nfe=5.0, provenance=versions("cpu")
    )
    return study


def test_the_deviation_is_in_units_of_the_spread_over_images() -> None:
    draw = np.random.default_rng(5)
    stored = (draw.standard_normal((100_000, 3)) * [1.0, 2.0, 3.0] + 70.0).astype(np.float32)
    off = np.float32(0.1)
    # The root mean square of the spreads 1, 2 and 3 is sqrt(14 / 3).
    expected = 0.1 / (14 / 3) ** 0.5
    assert deviation(stored[:16] + off, stored) == pytest.approx(expected, rel=0.02)
    assert deviation(stored[:16], stored) == 0.0
    assert deviation(stored[:16] * np.float32(np.nan), stored) == np.inf
    assert deviation(np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)) == 0.0
    assert deviation(np.ones((2, 3), np.float32), np.zeros((4, 3), np.float32)) > 1.0


def test_the_same_network_passes_and_a_wrong_one_does_not(
    tiny: Tiny, record_property: Any
) -> None:
    """Measured here: see the properties in a JUnit report, or `-rP`."""
    with threads(1):
        study = with_baseline(tiny.open())
        found: dict[str, float] = {}

        def measure(name: str) -> float:
            off = sing(study)
            assert off is not None
            found[name] = off
            record_property(name, off)
            print(f"{name}: {off:.3g}")
            return off

        assert measure("the same") < TOLERANCE / 100
        with threads(2):
            assert measure("two threads") < TOLERANCE / 100
        with perturbed(study, 1e-5):
            assert measure("weights off by 1e-5") < TOLERANCE
        for name, disturbed in (
            ("weights off by 1e-2", perturbed(study, 1e-2)),
            ("weights off by 3e-2", perturbed(study, 3e-2)),
            ("bfloat16", in_other_arithmetic(torch.bfloat16)),
            ("float16", in_other_arithmetic(torch.float16)),
        ):
            with disturbed, pytest.raises(NetworkError) as caught:
                sing(study)
            print(f"{name}: {caught.value.problems[0].found}")
        assert measure("the same again") == found["the same"]


def test_the_refusal_names_devices_and_versions(tiny: Tiny) -> None:
    study = with_baseline(tiny.open())
    with perturbed(study, 0.05), pytest.raises(NetworkError) as caught:
        sing(study)
    (problem,) = caught.value.problems
    assert problem.where == f"canary: {IMAGES} baseline images from seed {SEARCH_SEED}"
    for text in (problem.expected, problem.found):
        assert "device cpu" in text
        assert f"torch {torch.__version__.partition('+')[0]}" in text
    assert f"within {TOLERANCE:g}" in problem.expected
    assert "of their spread away" in problem.found


def disagreeing(study: OpenStudy, *rest: Any, **named: Any) -> Sampled:
    """The made-up images of a network that is 5 % of their spread off."""
    made = made_up.sampled(study, *rest, **named)
    return replace(made, arrays={**made.arrays, "features": made.arrays["features"] + 0.05})


def relabelled(study: OpenStudy, *rest: Any, **named: Any) -> Sampled:
    made = made_up.sampled(study, *rest, **named)
    return replace(made, arrays={**made.arrays, "label": made.arrays["label"] + 1})


def as_wide(study: OpenStudy, *rest: Any, **named: Any) -> Sampled:
    """Off by less than the tolerance."""
    made = made_up.sampled(study, *rest, **named)
    return replace(made, arrays={**made.arrays, "features": made.arrays["features"] + 0.004})


@pytest.mark.parametrize(
    ("sample", "said"), [(disagreeing, "features 0.0"), (relabelled, "other labels")]
)
def test_who_makes_other_images_is_refused_before_its_first_claim(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch, sample: Any, said: str
) -> None:
    study = tiny.open()
    crew_member(study, "first", limits=Limits(images=250)).run()
    monkeypatch.setattr(canary, "sampled", sample)
    other = tiny.open()
    member = crew_member(other, "second", limits=UNTIL_DONE)
    with pytest.raises(NetworkError) as caught:
        member.run()
    assert caught.value.problems[0].found.startswith(said)
    assert "this worker was refused, the study goes on" in caught.value.hint
    assert member.images == 0
    fences = [
        chunk.fence
        for e in ledger.evaluations(study.database, study.id)
        for chunk in ledger.chunks_of(study.database, e.id)
    ]
    assert sum(fences) == 1
    monkeypatch.setattr(canary, "sampled", as_wide)
    assert crew_member(tiny.open(), "third", limits=UNTIL_DONE).run() == "complete"


def test_nothing_is_compared_before_a_baseline_is_stored_and_then_it_is(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that starts early gets its first chunk unseen: the second one's turn comes."""
    study, other = tiny.open(), tiny.open()
    assert sing(study) is None
    study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=500)
    assert sing(study) is None
    first = leases.claim_chunk(other.database, other.id, worker="first:0:1:1", seconds=600.0)
    assert first is not None

    def while_it_samples(*arguments: Any, **named: Any) -> Sampled:
        # Whoever has the first chunk stores it while this worker samples the second one.
        if ledger.chunks_of(other.database, first.evaluation_id)[0].state == "leased":
            made = made_up.sampled(
                other, arguments[1], arguments[2], range(SEARCH_SEED, SEARCH_SEED + 250)
            )
            array = other.arrays.write(made.arrays)
            leases.commit_chunk(other.database, first, array=array, seconds=1.0, nfe=5.0)
        return made_up.sampled(*arguments, **named)

    monkeypatch.setattr(chunks, "sampled", while_it_samples)
    monkeypatch.setattr(canary, "sampled", disagreeing)
    member = crew_member(study, "early", limits=UNTIL_DONE)
    with pytest.raises(NetworkError, match="canary"):
        member.run()
    assert member.images == 250


def test_who_made_the_baseline_need_not_sing(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any, **named: Any) -> Sampled:
        raise AssertionError("it sang")

    monkeypatch.setattr(canary, "sampled", refused)
    assert crew_member(tiny.open(), "a", limits=UNTIL_DONE).run() == "complete"
