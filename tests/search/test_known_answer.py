"""Known answers on the bundled network: what `tune` must find, and what it must not.

Positive: the factor 0.7 is folded into a skip's columns of an unmixed block's shortcut
convolution. There the scale acts through the shortcut alone (the group normalisation of the other
branch does not see it), so the best scale of that skip moves to 1 / 0.7. The reference is the
untouched network's own images, whose best scale is 1 by construction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.reference import reference_of, save_reference
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.images import sample
from skiptune.sampling.setting import Setting
from skiptune.search.result import NO_GAIN, WIN, Result
from skiptune.search.spec import StudySpec
from skiptune.search.tune import tune
from skiptune.storage import ledger
from skiptune.storage.database import open_database

ADDRESS = "32x32_block2"  # the skip to whose scale the network is most sensitive
FACTOR = 0.7
SETTING = Setting(solver="dpmpp_2m", steps=4)


def folded(original: Checkpoint, path: Path, *, factor: float) -> None:
    """Write the network with a factor in the skip's columns of one shortcut convolution."""
    skip = next(s for s in original.skips if s.address == ADDRESS)
    assert not skip.mixed
    network = load_checkpoint(original.path).network
    weight = network.get_submodule(f"model.dec.{ADDRESS}.skip").get_parameter("weight")
    with torch.no_grad():
        weight[:, skip.main_channels :] *= factor
    with safe_open(original.path, framework="pt") as file:
        metadata = file.metadata()
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path, metadata)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statistics of the untouched network's own images at the same setting, other seeds."""
    network, extractor = load_checkpoint("fashion").network, load_extractor("fashion-cnn")
    batches = sample(network, SETTING, range(5_000_000, 5_001_500), microbatch=50)
    features = np.concatenate([extractor(batch.images).numpy() for batch in batches])
    path = tmp_path_factory.mktemp("known") / "own.npz"
    save_reference(path, reference_of(features, extractor=extractor, name="own images"))
    return path


def tuned(folder: Path, checkpoint: Path, reference: Path, **search: Any) -> Result:
    spec = StudySpec.from_json(
        {
            "study": "known",
            "network": {"checkpoint": str(checkpoint)},
            "setting": {"solver": SETTING.solver, "steps": SETTING.steps},
            "space": {"kind": "per-skip", "skips": [ADDRESS]},
            "objective": {"extractor": "fashion-cnn", "reference": str(reference)},
            "search": {"sampler": "moments", "evaluations": 7, "rungs": [500], **search},
            "confirm": {"candidates": 2, "images": 500, "controls": False},
        }
    )
    return tune(spec, storage=f"sqlite:///{folder / 'known.db'}")


@pytest.mark.slow
def test_a_factor_folded_into_a_skip_is_found_and_declared_a_win(
    tmp_path: Path, reference: Path
) -> None:
    original = load_checkpoint("fashion")
    folded(original, tmp_path / "folded.safetensors", factor=FACTOR)
    result = tuned(tmp_path, tmp_path / "folded.safetensors", reference)
    assert result.verdict == WIN
    assert result.schedule.scale(ADDRESS, 1.0) == pytest.approx(1 / FACTOR, abs=0.1)


@pytest.mark.slow
def test_a_skip_that_the_network_does_not_hear_wins_nothing(
    tmp_path: Path, reference: Path
) -> None:
    """With the columns at zero the scale reaches no output but by rounding."""
    original = load_checkpoint("fashion")
    folded(original, tmp_path / "deaf.safetensors", factor=0.0)
    result = tuned(tmp_path, tmp_path / "deaf.safetensors", reference, evaluations=2)
    assert result.verdict == NO_GAIN
    # Where rounding makes every proposal a trifle worse none of them is tested; all are scored.
    with open_database(f"sqlite:///{tmp_path / 'known.db'}") as database:
        study = ledger.require_study(database, "known")
        scores = ledger.scores(database, study.id)
    measured = [score.difference for score in scores if score.difference is not None]
    assert len(measured) >= 2
    assert max(map(abs, measured)) < 1e-3 * result.baseline.value
