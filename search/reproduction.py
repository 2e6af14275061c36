"""A confirmed score measured once more from its file alone: the same seeds, the same bits.

`tuned.json` names the network, the scales, the setting, the seeds that decided and what their
images were held against, so whoever has the network and the reference can make the score again. On
the device type, thread count and versions that made it, every digit is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from skiptune.errors import NetworkError, ObjectiveError, Problem, SpecError
from skiptune.objectives.catalogue import CATALOGUE, FEATURES, LABEL, PROMPT
from skiptune.objectives.extractors import Extractor
from skiptune.objectives.metrics import Real, Sample, Standard, difference, measure, title
from skiptune.objectives.reference import Reference
from skiptune.sampling.checkpoint import Checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search.tuned import Tuned

__all__ = ["Reproduced", "deciding_seeds", "refuse_other_measure", "reproduced"]

USUAL_MICROBATCH = 50
"""Of files that do not say it: a study's default."""

CONFIRM = "confirm B"


@dataclass(frozen=True)
class Reproduced:
    """One number of a file, beside what was found now.

    Arguments:
        name: ``baseline``, ``tuned`` or ``difference``.
        stored: In the file.
        found: Measured now.
    """

    name: str
    stored: float
    found: float

    @property
    def is_same(self) -> bool:
        """Whether every bit is."""
        return self.stored == self.found


def deciding_seeds(tuned: Tuned, *, name: str = "tuned.json") -> range:
    """Return the seeds behind a file's scores: the half of its confirm that tests.

    Raises:
        SpecError: The file is not confirmed, or does not say them.
    """
    block = tuned.seeds.get(CONFIRM)
    if block is None or not block.images == tuned.tuned.images == tuned.baseline.images:
        raise SpecError(
            f"{name}: seeds",
            expected=f"`{CONFIRM}`, the {tuned.tuned.images:,} seeds of the scores",
            found="none: not confirmed" if block is None else f"{block.images:,} images",
            hint=f"confirm and export again: `skiptune confirm {tuned.study}`",
        )
    return range(block.first, block.first + block.images)


def refuse_other_measure(tuned: Tuned, extractor: Extractor, reference: Reference) -> str:
    """Return the metric of a file, a key of `CATALOGUE`; refuse what would measure otherwise.

    Raises:
        SpecError: Its metric is no function of images' features.
        ObjectiveError: Another feature network or reference.
    """
    told = tuned.measure
    images = tuned.tuned.images
    keys = [
        key
        for key, entry in CATALOGUE.items()
        if entry.arrays == (FEATURES,)
        and not entry.teacher
        and title(key, told.extractor, images) == told.metric
    ]
    if not keys:
        raise SpecError(
            "measure.metric",
            expected=f"a metric of images' features, of {images:,} images",
            found=told.metric,
            hint="score the study itself: skiptune score STUDY",
        )
    problems = []
    if (extractor.name, extractor.sha256) != (told.extractor, told.extractor_sha256):
        expected = f"{told.extractor} (sha256 {told.extractor_sha256})"
        problems.append(
            Problem("extractor", expected, f"{extractor.name} (sha256 {extractor.sha256})")
        )
    if reference.digest != told.reference_sha256:
        expected = f"{told.reference} (sha256 {told.reference_sha256})"
        problems.append(
            Problem("reference", expected, f"{reference.name} (sha256 {reference.digest})")
        )
    if problems:
        raise ObjectiveError.of(problems, hint="give what the study was measured with")
    return keys[0]


def reproduced(
    tuned: Tuned,
    checkpoint: Checkpoint,
    extractor: Extractor,
    reference: Reference,
    *,
    name: str = "tuned.json",
    on_images: Callable[[str, int], None] = lambda label, done: None,
) -> tuple[Reproduced, ...]:
    """Sample the seeds behind a file's scores, and score them as the study did.

    Arguments:
        tuned: The file.
        checkpoint: Its network, in its numeric mode, with its decoder and prompts if any.
        extractor: The study's feature network.
        reference: The study's reference.
        name: The file, for messages.
        on_images: Told the schedule and how many of its images are done.

    Raises:
        SpecError, ObjectiveError: As `deciding_seeds` and `refuse_other_measure`.
        NetworkError: Another network; or images diverge.
    """
    tuned.check(checkpoint.skips, sha256=checkpoint.sha256)
    seeds = deciding_seeds(tuned, name=name)
    key = refuse_other_measure(tuned, extractor, reference)
    untouched = tuned.untouched_setting or tuned.setting
    size = tuned.microbatch or USUAL_MICROBATCH
    prompted = tuned.measure.unit == PROMPT

    def taken(label: str, schedule: Schedule, setting: Setting) -> Sample:
        rows, labels, done = [], [], 0
        with scaled(checkpoint.network, schedule):
            for batch in sample(
                checkpoint.network,
                setting,
                seeds,
                microbatch=size,
                decoder=checkpoint.decoder,
            ):
                if not bool(batch.finite.all()):
                    raise NetworkError(
                        f"image of seed {batch.seeds[int(batch.finite.int().argmin())]}",
                        expected="finite pixels",
                        found="NaN or infinity",
                        hint="use the device and the versions that made the score",
                    )
                rows.append(extractor(batch.images).cpu().numpy())
                if batch.labels is not None:
                    labels.append(batch.labels.cpu().numpy().astype(np.float32))
                done += len(batch.seeds)
                on_images(label, done)
        arrays = {FEATURES: np.concatenate(rows).astype(np.float32, copy=False)}
        if prompted:
            arrays[LABEL] = np.concatenate(labels)
        whole = Sample.of(**arrays)
        return replace(whole, first_seed=seeds[0], unit_array=LABEL if prompted else None)

    standard = Standard(real=Real(reference))
    with torch.no_grad():
        before = measure(
            [key], taken("baseline", Schedule.baseline(), untouched.to_setting()), standard
        )[key]
        after = measure(
            [key], taken("tuned", tuned.schedule, tuned.setting.to_setting()), standard
        )[key]
    rows = [
        Reproduced("baseline", tuned.baseline.value, before.value.value),
        Reproduced("tuned", tuned.tuned.value, after.value.value),
    ]
    if tuned.tuned.difference is not None:
        change = difference(after, before)
        rows.append(Reproduced("difference", tuned.tuned.difference, change.value))
    return tuple(rows)
