"""How long a study takes on this device, measured on one microbatch that is thrown away."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skiptune.sampling.images import sample
from skiptune.search.plan import Cost, own_nfe

if TYPE_CHECKING:
    from skiptune.objectives.extractors import Extractor
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.sampling.setting import Setting
    from skiptune.search.objective import Objective
    from skiptune.search.spec import StudySpec

__all__ = ["Speed", "measured_speed"]

PROBE_SEED = 0  # of the images that are made and thrown away
PROBE_STEPS = 2  # of the pass that warms up
LONG = 10.0  # seconds of that pass from which on it is the measurement as well


@dataclass(frozen=True)
class Speed:
    """How long things take.

    Arguments:
        per_evaluation: Seconds for one image through the network.
        per_image: Seconds for everything else that is done with an image.
        loss_nfe: Network evaluations that are in `per_image`, those of denoising losses.
        left_out: What was not measured because it is missing, or nothing.
    """

    per_evaluation: float
    per_image: float
    loss_nfe: float
    left_out: str = ""

    def seconds(self, cost: Cost) -> float:
        """Return how long it takes to make something."""
        sampled = cost.evaluations - cost.images * self.loss_nfe
        return cost.images * self.per_image + sampled * self.per_evaluation

    def rate(self, spec: StudySpec) -> float:
        """Return the images of a study's own setting that are made in a second."""
        nfe = own_nfe(spec, self.loss_nfe) - self.loss_nfe
        return 1 / (nfe * self.per_evaluation + self.per_image)


def measured_speed(
    spec: StudySpec,
    checkpoint: Checkpoint,
    extractor: Extractor | None,
    objective: Objective | None,
) -> Speed:
    """Measure one microbatch: how long an evaluation of the network takes, and all the rest.

    Arguments:
        spec: The study.
        checkpoint: The network on its device.
        extractor: Images to features; None where its files are missing.
        objective: What is measured; None as well.
    """
    setting = spec.setting.to_setting()
    size = spec.microbatch
    seeds = range(PROBE_SEED, PROBE_SEED + size)
    loss_nfe = 0.0 if objective is None else objective.loss_nfe

    def timed(chosen: Setting) -> tuple[float, float]:
        """Return seconds per network evaluation of an image, and per image for the rest."""
        began = time.perf_counter()
        (batch,) = sample(
            checkpoint.network, chosen, seeds, microbatch=size, decoder=checkpoint.decoder
        )
        batch.images.cpu()  # an accelerator answers before it is done
        sampled = time.perf_counter()
        if extractor is not None:
            extractor(batch.images).cpu()
        if objective is not None and batch.labels is not None:
            for text in objective.texts:
                text(batch.images, batch.labels).cpu()
        ended = time.perf_counter()
        return (sampled - began) / (size * batch.nfe), (ended - sampled) / size

    per_evaluation = per_image = 0.0
    if spec.objective.samples:
        few = setting
        if setting.sigmas is None and setting.steps > PROBE_STEPS:
            few = replace(setting, steps=PROBE_STEPS)
        began = time.perf_counter()
        per_evaluation, per_image = timed(few)
        # What a study does thousands of times is not the first pass; a large network on a slow
        # device would take hours for the second one, and warms up in none of them.
        if time.perf_counter() - began < LONG:
            per_evaluation, per_image = timed(setting)
    if objective is not None and loss_nfe:
        objective.losses(checkpoint.network, seeds)
        began = time.perf_counter()
        objective.losses(checkpoint.network, seeds)
        per_image += (time.perf_counter() - began) / size
    left_out = "" if extractor is not None else "without the features"
    return Speed(per_evaluation, per_image, loss_nfe, left_out)
