"""A second opinion: made in the same pass, scored beside, said where it disagrees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skiptune.errors import ObjectiveError, SpecError, StorageError
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.metrics import Sample
from skiptune.objectives.names import RANDOM_PATCHES
from skiptune.objectives.paired import paired_difference
from skiptune.objectives.reference import reference_of, save_reference
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search import chunks, second
from skiptune.search.confirm import result_of
from skiptune.search.scoring import Stored
from skiptune.search.second import SECOND, SecondOpinion, second_score
from skiptune.search.study import OpenStudy
from skiptune.storage import ledger
from skiptune.storage.records import SECOND_PLACE
from tests.search import made_up
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member

DIM = 4
TWICE = {
    "space__low": 1.0,
    "search__evaluations": 2,
    "search__rungs": [250],
    "confirm__candidates": 1,
    "confirm__images": 500,
    "confirm__second_opinion": RANDOM_PATCHES,
}


class FirstPixels(nn.Module):
    """Four pixels, so that uniform bytes have mean 0 and variance 1."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(np.sqrt(12) / 255))

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() - 127.5).flatten(1)[:, :DIM] * self.get_buffer("scale")


def other_features(name: str, **named: Any) -> Extractor:
    return Extractor(name, DIM, "1" * 64, "four pixels", FirstPixels().eval(), floats=True)


def sampled(
    study: OpenStudy,
    schedule: Schedule,
    setting: Setting,
    seeds: Sequence[int],
    *,
    on_images: Callable[[int], None] = lambda made: None,
    second: Extractor | None = None,
) -> chunks.Sampled:
    """Images that are made up, whose other features move as the study's own."""
    made = made_up.sampled(study, schedule, setting, seeds, on_images=on_images)
    if second is not None:
        made.arrays[SECOND] = made.arrays["features"][:, :DIM]
    return made


@pytest.fixture
def looked_at_twice(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., OpenStudy]:
    """Opens the tiny study with real images that are darker or lighter than the baseline's."""
    monkeypatch.setattr(second, "load_extractor", other_features)
    monkeypatch.setattr(chunks, "sampled", sampled)
    tiny_spec = tiny.spec()
    assert "second_opinion" not in tiny_spec.to_json()["confirm"]

    def open_study(levels: tuple[int, int], **changes: Any) -> OpenStudy:
        shape = tiny.open(study="shape").checkpoint.image_shape
        rng = np.random.default_rng(3)
        images = rng.integers(*levels, (1000, shape[0], shape[1], shape[1]), dtype=np.uint8)
        path = tiny.folder / "real.npz"
        np.savez(path, images=images)
        return tiny.open(**TWICE | {"objective__images": str(path)} | changes)

    return open_study


def test_it_is_stored_in_the_same_pass_and_scored_beside(
    looked_at_twice: Callable[..., OpenStudy],
) -> None:
    # Scales above 1 move the features to the lighter images.
    study = looked_at_twice((80, 256))
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    result = result_of(study, 1)
    assert result.winner is not None and result.second is not None
    assert result.second.metric == "FD(random-patches)-500-corrected"
    assert not result.second.disagrees
    # No image was made twice for it.
    wanted, _ = ledger.images_wanted(study.database, study.id, block="confirm-1/B")
    assert wanted == 2 * 500
    assert ledger.spending(study.database, study.id).doubled_images == 0
    # The score once more, from the stored features.
    here = ledger.evaluations(study.database, study.id, block="confirm-1/B")
    base, tuned = (
        Stored(study, next(e for e in here if e.label == label), 500).sample.whole(SECOND)
        for label in ("baseline", "tuned")
    )
    opinion = study.objective.second
    assert opinion is not None
    found = paired_difference(tuned, base, opinion.reference)
    assert result.second.tuned.difference == pytest.approx(found.value, rel=1e-9)
    assert result.second.tuned.difference_error == pytest.approx(found.standard_error, rel=1e-9)
    assert result.to_json()["second"]["gain"] == result.second.gain
    # What is decided is decided by the study's own features alone.
    assert result.metric.startswith("FD(pooled-pixels)")
    assert result.luck is not None and result.winner.difference is not None
    assert result.luck.luck == result.winner.difference - result.luck.difference


def test_a_disagreement_is_found_and_decides_nothing(
    looked_at_twice: Callable[..., OpenStudy],
) -> None:
    study = looked_at_twice((0, 176))
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    result = result_of(study, 1)
    assert result.second is not None and result.second.disagrees
    assert result.verdict == "win"
    assert result.to_json()["second"]["disagrees"] is True


def test_a_worker_with_another_opinion_refuses_chunks_that_were_begun_with_one(
    looked_at_twice: Callable[..., OpenStudy],
) -> None:
    study = looked_at_twice((80, 256))
    from skiptune.storage.leases import claim_chunk

    study.baseline(
        block="confirm-1/B",
        first_seed=2_150_000,
        images=250,
        measure=study.objective.second.measure_with(study.measure),  # type: ignore[union-attr]
    )
    plain = looked_at_twice((80, 256), confirm__second_opinion=None)
    claim = claim_chunk(plain.database, plain.id, worker="a:0:1:1", seconds=60)
    assert claim is not None
    with pytest.raises(StorageError, match="random-patches as the study's second opinion"):
        chunks.sampled_chunk(plain, claim)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"objective__images": None}, "real images to compare with"),
        ({"objective__extractor": RANDOM_PATCHES}, "other than those of the search"),
        ({"objective__extractor": f"{RANDOM_PATCHES}+dct:2"}, "other than those of the search"),
    ],
)
def test_what_is_no_second_opinion_is_refused(
    looked_at_twice: Callable[..., OpenStudy],
    changes: dict[str, Any],
    found: str,
) -> None:
    if "objective__extractor" in changes:
        opened = looked_at_twice((80, 256), confirm__second_opinion=None)
        objective = replace(
            opened.objective, extractor=other_features(changes["objective__extractor"])
        )
        spec = opened.spec.replaced("confirm.second_opinion", RANDOM_PATCHES)
        with pytest.raises(SpecError, match=found):
            second.with_second(objective, spec, shape=(1, 8, 8), device="cpu")
        return
    with pytest.raises(SpecError, match=found):
        looked_at_twice((80, 256), **changes)


def test_names_that_are_no_second_opinion_are_refused(tiny: Tiny) -> None:
    with pytest.raises(SpecError, match="one of random-patches, dct, efficientnet-lite0"):
        tiny.spec(confirm__second_opinion="inception")


def test_few_or_other_real_images_are_refused_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", images=np.zeros((499, 1, 8, 8), np.uint8))
    with pytest.raises(ObjectiveError) as caught:
        second._check_images(str(tmp_path / "few.npz"), shape=(3, 8, 8))
    assert [problem.found for problem in caught.value.problems] == ["499", "[1, 8, 8]"]


@pytest.mark.parametrize(("images", "real", "expected"), [(500, 60_000, None), (250, 1000, 31)])
def test_many_features_are_compared_in_fewer_directions(
    images: int, real: int, expected: int | None
) -> None:
    extractor = Extractor("wide", 64, "2" * 64, "none", FirstPixels())
    rows = np.random.default_rng(0).standard_normal((100, 64))
    opinion = SecondOpinion(extractor, "given")
    made = reference_of(rows, extractor=extractor, name="given")
    opinion.__dict__["reference"] = replace(made, images=real)
    assert opinion.dimensions(images) == expected


def test_a_score_in_fewer_directions_says_so_and_pairs_with_the_baseline() -> None:
    rng = np.random.default_rng(2)
    extractor = Extractor("wide", 64, "2" * 64, "none", FirstPixels())
    real = rng.standard_normal((1000, 64)) * np.linspace(2, 0.1, 64)
    opinion = SecondOpinion(extractor, "given")
    opinion.__dict__["reference"] = reference_of(real, extractor=extractor, name="given")
    base = (rng.standard_normal((250, 64)) * np.linspace(2, 0.1, 64) + 0.5).astype(np.float32)
    nearer = (base - 0.3).astype(np.float32)
    baseline, tuned = (Sample.of(**{SECOND: rows}) for rows in (base, nearer))
    own = second_score(opinion, baseline, None)
    assert own.metric == "FD(wide,pca-31)-250-corrected"
    assert (own.difference, own.place) == (None, SECOND_PLACE)
    found = second_score(opinion, tuned, baseline)
    # The covariance stays, and the leading directions hold the shift: 64 features from 0.5 to 0.2.
    assert found.difference is not None and found.difference_error is not None
    assert found.difference == pytest.approx(found.value - own.value, rel=1e-9)
    assert abs(found.difference + 64 * (0.5**2 - 0.2**2)) < 3 * found.difference_error
    assert found.reference == opinion.reference.digest


def test_joint_features_are_shown_part_by_part(tiny: Tiny) -> None:
    joint = load_extractor("pooled-pixels+dct:2")
    rng = np.random.default_rng(5)
    # Paler than the network's images by a little, so that all distances are above 0.
    pixels = rng.integers(64, 192, (500, 1, 8, 8), dtype=np.uint8)
    features = joint(torch.from_numpy(pixels)).numpy()
    path = tiny.folder / "joint.npz"
    save_reference(path, reference_of(features, extractor=joint, name="uniform"))
    wanted = TWICE | {
        "confirm__images": 750,
        "confirm__second_opinion": None,
        "search__rungs": [750],
    }
    study = tiny.open(objective__extractor=joint.name, objective__reference=str(path), **wanted)
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    result = result_of(study, 1)
    if result.winner is None:
        pytest.fail("no candidate was better than the baseline")
    assert result.second is None
    assert [look.metric for look in result.parts] == [
        "FD(pooled-pixels)-750-corrected",
        "FD(dct)-750-corrected",
    ]
    here = ledger.evaluations(study.database, study.id, block="confirm-1/B")
    base, tuned = (
        Stored(study, next(e for e in here if e.label == label), 750).sample.whole("features")
        for label in ("baseline", "tuned")
    )
    columns = (slice(16), slice(16, 80))
    for look, part, factor, columns_ in zip(
        result.parts, ("pooled-pixels", "dct"), (1, 2), columns, strict=True
    ):
        extractor = load_extractor(part)
        alone = reference_of(
            extractor(torch.from_numpy(pixels)).numpy(), extractor=extractor, name="uniform"
        )
        found = paired_difference(tuned[:, columns_] / factor, base[:, columns_] / factor, alone)
        assert look.tuned.difference == pytest.approx(found.value, rel=1e-5)
        assert look.tuned.difference_error == pytest.approx(found.standard_error, rel=1e-5)
    plain = result.to_json()
    assert [part["gain"] for part in plain["parts"]] == [look.gain for look in result.parts]
    # Only where somebody asks: what the search sees has the score of the whole alone.
    proposal = ledger.evaluations(study.database, study.id, kind="proposal")[0]
    scores = ledger.scores(
        study.database, study.id, evaluation_id=proposal.id, level=0, every_place=True
    )
    assert [score.place for score in scores] == [0]
