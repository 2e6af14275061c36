"""One chunk: from the seeds of a claim to the named per-image arrays that are stored.

What comes out is a pure function of (series, measure, schedule, seeds): nothing of the worker, the
order of work or a restart enters it.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skiptune import __version__
from skiptune.canonical import canonical
from skiptune.errors import StorageError
from skiptune.objectives.catalogue import FEATURE_LOSS, LABEL, PIXEL_LOSS
from skiptune.objectives.extractors import Extractor
from skiptune.sampling.hooks import check_effect, scaled
from skiptune.sampling.images import sample, start
from skiptune.sampling.levels import grid_points
from skiptune.sampling.noise import image_streams
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search.sample_grid import GRID_IMAGES
from skiptune.search.second import SECOND
from skiptune.search.study import SEARCH_SEED, OpenStudy
from skiptune.storage.leases import Claim
from skiptune.storage.records import CHUNK_FORMAT

__all__ = ["Sampled", "check_series", "sampled", "sampled_chunk", "versions", "versions_of"]

# What a number may depend on beyond identity: kept with every chunk.
PACKAGES = ("torch", "torchvision", "numpy")
DECODING = ("diffusers",)
READING = ("transformers",)

LOSSES = {FEATURE_LOSS, PIXEL_LOSS}


@dataclass(frozen=True)
class Sampled:
    """The arrays of some images.

    Arguments:
        arrays: float32 arrays by name: what the study's metrics need (``features`` [N, d],
            ``feature_loss`` and ``pixel_loss`` [N, S], ``clip_score`` and ``pick_score`` [N]),
            ``second`` [N, d2] where a second
            opinion is asked for, ``finite`` [N] (1 or 0) and, where images are sampled and have
            labels, ``label`` [N].
        nfe: Images through the network per image made.
        images: uint8 [n, C, H, W], the first images of the search's first seeds, for a picture;
            None of other seeds and where none are sampled.
    """

    arrays: dict[str, NDArray[np.float32]]
    nfe: float
    images: NDArray[np.uint8] | None = None

    @property
    def diverged(self) -> int:
        """How many images are not finite."""
        return int((self.arrays["finite"] == 0).sum())


def sampled_chunk(
    study: OpenStudy, claim: Claim, *, on_images: Callable[[int], None] = lambda made: None
) -> Sampled:
    """Sample the images of a claim.

    Arguments:
        study: The open study.
        claim: Which images.
        on_images: Called after each microbatch with the images so far; may raise.

    Raises:
        NetworkError: The schedule left the network's output unchanged.
        StorageError: The claim's series is not one that this network and this version make.
    """
    setting = check_series(study, claim)
    schedule = Schedule.from_json(claim.schedule)
    seeds = range(claim.first_seed, claim.first_seed + claim.images)
    if claim.opens_evaluation:
        _check_effect(study, schedule, setting, seeds[0])
    if SECOND not in claim.measure:
        return sampled(study, schedule, setting, seeds, on_images=on_images)
    second = _second_of(study, claim)
    return sampled(study, schedule, setting, seeds, on_images=on_images, second=second)


def check_series(study: OpenStudy, claim: Claim) -> Setting:
    """Return how a claim's images are made.

    Raises:
        StorageError: Its series is not one that this network and this version make.
    """
    setting = Setting.from_json(claim.series["setting"])
    if canonical(study.series_of(setting)) != canonical(claim.series):
        raise StorageError(
            f"chunk {claim.chunk_id}",
            expected="a series that this network and this version make",
            found=canonical(claim.series),
            hint="let the version and the checkpoint that began this study go on with it",
        )
    return setting


def _second_of(study: OpenStudy, claim: Claim) -> Extractor:
    """Return the other features that a claim asks for.

    Raises:
        StorageError: They are not those of the study as this worker has it.
    """
    opinion = study.objective.second
    found = None if opinion is None else opinion.extractor.describe()
    if opinion is None or found != claim.measure[SECOND]:
        raise StorageError(
            f"chunk {claim.chunk_id}",
            expected=f"{claim.measure[SECOND]['extractor']} as the study's second opinion, with"
            " which this confirm was begun",
            found="none" if found is None else f"{found['extractor']}",
            hint="go on with the study file that began it: confirm.second_opinion",
        )
    return opinion.extractor


def sampled(
    study: OpenStudy,
    schedule: Schedule,
    setting: Setting,
    seeds: Sequence[int],
    *,
    on_images: Callable[[int], None] = lambda made: None,
    second: Extractor | None = None,
) -> Sampled:
    """Sample images and extract what is stored of them.

    Arguments:
        study: Network, extractor and microbatch.
        schedule: Installed while sampling.
        setting: How images are made.
        seeds: One per image.
        on_images: Called after each microbatch with the images so far; may raise.
        second: Other features that are stored as well.
    """
    objective, network, size = study.objective, study.checkpoint.network, study.spec.microbatch
    parts: defaultdict[str, list[NDArray[Any]]] = defaultdict(list)
    shown: list[NDArray[np.uint8]] = []
    nfe, made = objective.loss_nfe, 0
    with scaled(network, schedule):
        if objective.samples:
            decoder = study.checkpoint.decoder
            for batch in sample(network, setting, seeds, microbatch=size, decoder=decoder):
                parts["features"].append(objective.extractor(batch.images).cpu().numpy())
                if second is not None:
                    parts[SECOND].append(second(batch.images).cpu().numpy())
                for text in objective.texts:
                    assert batch.labels is not None  # the spec's own check
                    parts[text.key].append(text(batch.images, batch.labels).cpu().numpy())
                parts["finite"].append(batch.finite.cpu().numpy())
                if batch.labels is not None:
                    parts[LABEL].append(batch.labels.cpu().numpy())
                nfe = batch.nfe
                if seeds[0] == SEARCH_SEED and made < GRID_IMAGES:
                    shown.append(batch.images[: GRID_IMAGES - made].cpu().numpy())
                made += len(batch.seeds)
                on_images(made)
        if objective.real is not None:
            for first in range(0, len(seeds), size):
                some = seeds[first : first + size]
                for name, losses in objective.losses(network, some).items():
                    parts[name].append(losses)
                on_images(max(made, first + len(some)))
    arrays = {
        name: np.concatenate(blocks).astype(np.float32, copy=False)
        for name, blocks in parts.items()
    }
    finite = arrays.setdefault("finite", np.ones(len(seeds), dtype=np.float32))
    for name in LOSSES & arrays.keys():
        finite *= np.isfinite(arrays[name]).all(axis=1)
    return Sampled(arrays, nfe, np.concatenate(shown) if shown else None)


@cache
def versions(device: str, *, decodes: bool = False, reads: bool = False) -> dict[str, Any]:
    """Return what made a chunk, plain data: provenance, not identity.

    Arguments:
        device: Torch device.
        decodes: Whether latents were decoded, which diffusers does.
        reads: Whether images were compared with prompts, which transformers does.
    """
    packages = (*PACKAGES, *(DECODING if decodes else ()), *(READING if reads else ()))
    found: dict[str, Any] = {
        "skiptune": __version__,
        "format": CHUNK_FORMAT,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device,
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in packages},
    }
    if torch.device(device).type == "cuda":
        found |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
            "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        }
    return found


def versions_of(study: OpenStudy) -> dict[str, Any]:
    """Return what makes a study's chunks here, see `versions`."""
    decodes = study.checkpoint.decoder is not None
    return versions(study.device, decodes=decodes, reads=bool(study.objective.texts))


def _check_effect(study: OpenStudy, schedule: Schedule, setting: Setting, seed: int) -> None:
    """Refuse a schedule that changes nothing, on two images at the first sigma where it acts."""
    acting = [s for s in grid_points(study.checkpoint.network, setting) if schedule.acts(s)]
    if not acting:
        return
    sigma = acting[0]
    network = study.checkpoint.network
    streams = image_streams(setting.noise, [seed, seed + 1], study.device)
    noise, labels = start(network, setting, streams)
    check_effect(network, schedule, x=noise * sigma, sigma=sigma, class_labels=labels)
