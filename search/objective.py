"""What a study measures, loaded: the feature network, and what its images are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skiptune.errors import ObjectiveError, Problem
from skiptune.objectives.catalogue import CATALOGUE, Better
from skiptune.objectives.denoising import LEVELS, denoising_losses, describe_losses
from skiptune.objectives.describe import describe
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.image_files import load_images
from skiptune.objectives.joint import Part, references_of_parts
from skiptune.objectives.metrics import Real, title
from skiptune.objectives.reference import Reference, load_reference
from skiptune.objectives.text_scores import TextScore
from skiptune.search.objective_section import Item, ObjectiveSpec

if TYPE_CHECKING:
    from skiptune.search.second import SecondOpinion

__all__ = ["Objective", "RealImages", "load_objective", "objective_names"]

PIXELS = (1, 3)  # channels of grey and of colour images
DECODER = "`-s network.decoder.vae=FOLDER`"


@dataclass(frozen=True, eq=False)
class RealImages:
    """Held-out real images: float32 [M, C, H, W] in -1..1, and int64 labels [M] or None."""

    images: Tensor
    labels: Tensor | None


@dataclass(frozen=True, eq=False)
class Objective:
    """What a study measures.

    Arguments:
        spec: What the user asked for.
        extractor: Images to features.
        reference: The distribution that features are compared with; None where none is asked for.
        real: Real images behind denoising losses; None where no metric needs them.
        microbatch: Images per evaluation of the network.
        second: Other features in which a confirm looks at its winner; None where none are asked
            for.
        texts: Scores of images and their prompts; empty where no metric needs them.
    """

    spec: ObjectiveSpec
    extractor: Extractor
    reference: Reference | None
    real: RealImages | None
    microbatch: int
    second: SecondOpinion | None = None
    texts: tuple[TextScore, ...] = ()

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Everything that is measured, by place."""
        return self.spec.items

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The metrics behind `items`, each once."""
        return tuple(dict.fromkeys(item.key for item in self.items))

    @cached_property
    def parts(self) -> tuple[tuple[Part, slice, Real], ...]:
        """The parts of joint features, where they stand, and what real images are like there."""
        if self.reference is None:
            return ()
        every = references_of_parts(self.reference, self.extractor.parts)
        return tuple((part, columns, Real(reference)) for part, columns, reference in every)

    def reader(self, key: str) -> str:
        """Return the name of the network whose reading of images a metric is made of."""
        return next((one.name for one in self.texts if one.key == key), self.extractor.name)

    @property
    def samples(self) -> bool:
        """Whether images are sampled at all: denoising losses alone need none."""
        return self.spec.samples

    @property
    def needs_teacher(self) -> bool:
        """Whether images of many steps are compared with."""
        return self.spec.needs_teacher

    @cached_property
    def measure(self) -> dict[str, Any]:
        """What turns seeds into stored arrays, plain data."""
        losses = None
        if self.real is not None:
            real = self.real
            losses = describe_losses(
                self.extractor, real.images, real.labels, microbatch=self.microbatch
            )
        texts = {one.key: one.describe() for one in self.texts}
        return describe(self.extractor, features=self.samples, losses=losses, texts=texts)

    def losses(self, network: nn.Module, seeds: Sequence[int]) -> dict[str, NDArray[np.float32]]:
        """Return the denoising losses of the pairs that seeds stand for, where they are measured.

        Arguments:
            network: With the schedule installed.
            seeds: One per pair.
        """
        if self.real is None:
            return {}
        with torch.inference_mode():
            found = denoising_losses(
                network,
                self.extractor,
                self.real.images,
                self.real.labels,
                seeds,
                microbatch=self.microbatch,
            )
        return {name: losses.cpu().numpy() for name, losses in found.items()}

    @property
    def loss_nfe(self) -> float:
        """Network evaluations that the denoising losses of a pair take."""
        return 0.0 if self.real is None else float(len(LEVELS))


def objective_names(objective: Objective) -> list[tuple[str, Better]]:
    """Return the objectives as people read them in Optuna, and which way is better."""
    keys = objective.spec.keys
    return [(title(key, objective.reader(key)), CATALOGUE[key].better) for key in keys]


def load_objective(
    spec: ObjectiveSpec, *, channels: int, size: int, classes: int, device: str, microbatch: int
) -> Objective:
    """Load the extractor, the reference and the real images, and refuse what does not fit.

    Arguments:
        spec: The objective.
        channels: Of the network's images.
        size: Their height and width.
        classes: Its classes, 0 without labels.
        device: Torch device.
        microbatch: Images per evaluation of the network.

    Raises:
        ObjectiveError: Something is missing or belongs to something else.
    """
    assert spec.extractor is not None  # the spec's own check
    extractor = load_extractor(
        spec.extractor, weights=spec.weights, sha256=spec.weights_sha256, device=device
    )
    # One blank image tells whether the extractor can read the network's.
    blank = torch.zeros(1, channels, size, size, dtype=torch.uint8)
    try:
        extractor(blank)
    except ObjectiveError as error:
        if channels in PIXELS:
            raise
        hint = f"latents of {channels} channels are decoded first: name a VAE, {DECODER}"
        raise ObjectiveError.of(error.problems, hint=hint) from error
    reference = None
    if spec.reference is not None:
        reference = load_reference(spec.reference, extractor=extractor)
        _check_reference(spec.reference, reference, shape=(channels, size, size))
    loaded = Objective(spec, extractor, reference, None, microbatch)
    wanted = {CATALOGUE[key].reference for key in loaded.keys}
    if "features" in wanted and reference is not None:
        reference.require_features()
    if not any(CATALOGUE[key].real_images for key in loaded.keys):
        return loaded
    assert spec.images is not None
    pixels, labels = load_images(spec.images)
    _check_real(spec.images, pixels, labels, shape=(channels, size, size), classes=classes)
    # Bytes alone would hide small effects: refused now, not in the middle of a study.
    extractor.of_floats(torch.zeros(1, channels, size, size))
    real = RealImages(
        (torch.from_numpy(pixels).to(torch.float32) / 127.5 - 1).to(device),
        None if labels is None else torch.from_numpy(labels).to(device),
    )
    return Objective(spec, extractor, reference, real, microbatch)


def _check_reference(name: str, reference: Reference, *, shape: tuple[int, int, int]) -> None:
    """Refuse statistics of images that the network could not have made.

    Extractors bring images of every size to their own, so nothing else would tell. Files of other
    programs and bundled statistics do not record the shape.
    """
    recorded = reference.header.get("shape")
    if recorded is not None and recorded != list(shape):
        raise ObjectiveError(
            f"{name}: images",
            expected=f"{list(shape)}, as the network makes them",
            found=f"{recorded}",
            hint="make it of images of that size and as many channels: `skiptune ref IMAGES -o"
            " FILE`",
        )


def _check_real(
    name: str,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    *,
    shape: tuple[int, int, int],
    classes: int,
) -> None:
    """Refuse real images that the network could not have made."""
    problems = []
    if pixels.shape[1:] != shape:
        expected = f"{list(shape)}, as the network makes them"
        problems.append(Problem(f"{name}: images", expected, f"{list(pixels.shape[1:])}"))
    if classes and labels is None:
        problems.append(Problem(f"{name}: labels", "one class per image", "none"))
    elif classes and labels is not None and not 0 <= labels.min() <= labels.max() < classes:
        found = f"{labels.min()} to {labels.max()}"
        problems.append(Problem(f"{name}: labels", f"classes from 0 to {classes - 1}", found))
    if problems:
        hint = "give held-out images of what the network was trained on: `objective.images`"
        raise ObjectiveError.of(problems, hint=hint)
