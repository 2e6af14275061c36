"""From seeds to images: one random stream per image, fixed microbatches, counted evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.errors import NetworkError, SpecError
from skiptune.sampling.factors import Factors
from skiptune.sampling.noise import ImageStreams
from skiptune.sampling.setting import Setting, sigmas
from skiptune.sampling.solvers import solve

__all__ = ["Batch", "Counted", "sample", "sample_float", "start", "to_uint8"]


@dataclass(frozen=True)
class Batch:
    """Some images, in the order of their seeds.

    Arguments:
        seeds: One per image.
        labels: Class numbers, int64 [B]; None where the images have none.
        images: uint8 [B, C, H, W].
        finite: Whether an image had no NaN and no infinity before it was rounded, bool [B].
        nfe: Images that went through the network per image made, counted.
    """

    seeds: tuple[int, ...]
    labels: Tensor | None
    images: Tensor
    finite: Tensor
    nfe: float


class Counted:
    """A network that counts the images that go through it.

    Arguments:
        network: Called as network(x, sigma, class_labels).
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.images = 0

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        """Return the network's estimate of the clean images in the dtype of `x`."""
        self.images += x.shape[0]
        estimate: Tensor = self.network(x, sigma, class_labels)
        return estimate.to(x.dtype)


def sample(
    network: nn.Module,
    setting: Setting,
    seeds: Sequence[int],
    *,
    microbatch: int = 50,
    device: torch.device | str | None = None,
) -> Iterator[Batch]:
    """Make one image per seed, without gradients.

    The network always sees `microbatch` images at once: the last seed is repeated where seeds run
    out, and the surplus dropped. The numbers of an image then depend on its seed alone, bit for
    bit on one device type with one thread count, whatever other seeds are asked for.

    Arguments:
        network: A denoiser in evaluation mode: network(x, sigma, class_labels) -> clean images;
            with attributes `img_channels`, `img_resolution`, `label_dim`.
        setting: How the images are made.
        seeds: One per image.
        microbatch: Images per evaluation of the network.
        device: Where to sample; by default where the network's parameters are.

    Returns:
        Consecutive batches of `microbatch` images, the last one shorter where seeds run out.

    Raises:
        SpecError: For a label or guidance that the network cannot follow.
        NetworkError: For a network in training mode.
    """
    if microbatch < 1:
        raise SpecError(
            "microbatch", expected="at least 1", found=str(microbatch), hint="50 is the default"
        )
    _check(network, setting)
    return _batches(network, setting, tuple(seeds), microbatch, device)


def sample_float(
    network: nn.Module,
    setting: Setting,
    seeds: Sequence[int] | ImageStreams,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Make one image per seed in one batch, differentiable in the scales of the skips.

    Arguments:
        network: As for `sample`.
        setting: How the images are made.
        seeds: One per image, or their streams, of which nothing has been drawn.
        device: Where to sample; by default where the network's parameters are.

    Returns:
        float64 [B, C, H, W], about -1..1, not clipped.

    Raises:
        SpecError, NetworkError: As `sample`.
    """
    _check(network, setting)
    images, _ = _trajectories(Counted(network), setting, _streams(network, seeds, device))
    return images


def start(
    network: nn.Module, setting: Setting, streams: ImageStreams
) -> tuple[Tensor, Tensor | None]:
    """Draw what images begin with: first the noise, then the label.

    Arguments:
        network: As for `sample`.
        setting: Its label rule is followed.
        streams: One per image, of which nothing has been drawn.

    Returns:
        Standard normal noise, float32 [B, C, H, W], and one-hot rows, float32 [B, classes] or
        None, on the streams' device.
    """
    channels, size, classes = _shape(network)
    noise = streams.randn((channels, size, size))
    if classes == 0:
        return noise, None
    # Drawn whatever the rule, so that the churn of an image does not depend on it.
    labels = streams.randint(classes)
    if setting.labels is None:
        return noise, None
    if setting.labels != "random":
        labels = torch.full_like(labels, int(setting.labels))
    return noise, F.one_hot(labels, classes).to(torch.float32)


def to_uint8(x: Tensor) -> Tensor:
    """Round images in -1..1 to bytes as EDM does: x * 127.5 + 128, clipped, then cut off."""
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)


def _batches(
    network: nn.Module,
    setting: Setting,
    seeds: tuple[int, ...],
    microbatch: int,
    device: torch.device | str | None,
) -> Iterator[Batch]:
    for start in range(0, len(seeds), microbatch):
        wanted = seeds[start : start + microbatch]
        padded = wanted + wanted[-1:] * (microbatch - len(wanted))
        counted = Counted(network)
        with torch.inference_mode():
            x, labels = _trajectories(counted, setting, _streams(network, padded, device))
        # Outside of inference mode, so that the results are ordinary tensors.
        x = x[: len(wanted)].clone()
        finite = x.isfinite().flatten(1).all(1)
        yield Batch(
            seeds=wanted,
            labels=None if labels is None else labels[: len(wanted)].clone(),
            # The bytes of NaN are undefined: a diverged image is black.
            images=to_uint8(torch.where(finite[:, None, None, None], x, -1.0)),
            finite=finite,
            nfe=counted.images / microbatch,
        )


def _streams(
    network: nn.Module, seeds: Sequence[int] | ImageStreams, device: torch.device | str | None
) -> ImageStreams:
    if isinstance(seeds, ImageStreams):
        return seeds
    if device is None:
        parameter = next(network.parameters(), None)
        device = "cpu" if parameter is None else parameter.device
    return ImageStreams(seeds, device)


def _trajectories(
    counted: Counted, setting: Setting, streams: ImageStreams
) -> tuple[Tensor, Tensor | None]:
    grid = torch.tensor(sigmas(setting), dtype=torch.float64, device=streams.device)
    noise, rows = start(counted.network, setting, streams)
    everywhere = setting.guidance_low == 0 and setting.guidance_high == math.inf

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        estimate = counted(x, sigma, rows)
        # Reading sigma waits for an accelerator, so it is read where an interval asks for it.
        if setting.guidance != 1 and (everywhere or setting.guides(float(sigma))):
            # Ho and Salimans 2022 (arXiv 2207.12598), equation 6, with g = 1 + w.
            plain = counted(x, sigma, None)
            estimate = plain + setting.guidance * (estimate - plain)
        if setting.epsilon_scale != 1:
            estimate = x - (x - estimate) / setting.epsilon_scale
        return estimate

    images = solve(
        setting.solver,
        denoise,
        noise.to(torch.float64) * grid[0],
        grid,
        churn=setting.churn,
        randn_like=streams.randn_like,
        order=setting.order,
        eta=setting.eta,
        restarts=_edges(counted.network, grid) if setting.history == "restart" else (),
    )
    return images, None if rows is None else rows.argmax(1)


def _edges(network: nn.Module, levels: Tensor) -> frozenset[int]:
    """Return the places i at which a skip's scale differs between levels[i - 1] and levels[i].

    Scales are read from the hooks of the installed schedule; without one there are none.
    """
    edges: set[int] = set()
    for module in network.modules():  # a compiled network is a module around the hooked one
        for hook in module._forward_pre_hooks.values():
            factors = getattr(hook, "factors", None)
            if not isinstance(factors, Factors) or not factors.depends_on_sigma:
                continue
            factors.enter(levels)
            for skip in factors.skips:
                factor = factors.of(skip.index)
                if isinstance(factor, Tensor):
                    scales = factor.tolist()
                    edges |= {i for i in range(1, len(scales)) if scales[i] != scales[i - 1]}
    return frozenset(edges)


def _shape(network: nn.Module) -> tuple[int, int, int]:
    names = ("img_channels", "img_resolution", "label_dim")
    values = [getattr(network, name, None) for name in names]
    if not all(isinstance(value, int) for value in values):
        raise NetworkError(
            "network",
            expected=f"a denoiser with whole numbers {', '.join(names)}",
            found=f"{type(network).__name__} with {values}",
            hint="give the preconditioned network, not the U-Net inside",
        )
    channels, size, classes = (int(value or 0) for value in values)
    return channels, size, classes


def _check(network: nn.Module, setting: Setting) -> None:
    _, _, classes = _shape(network)
    if isinstance(setting.labels, int) and setting.labels >= classes:
        known = f"a class number from 0 to {classes - 1}" if classes else "none: no classes"
        raise SpecError(
            "setting.labels",
            expected=known,
            found=str(setting.labels),
            hint="choose a class that the network was trained on, or `random`",
        )
    if setting.guidance != 1 and classes == 0:
        raise SpecError(
            "setting.guidance",
            expected="1, because the network knows no classes",
            found=repr(setting.guidance),
            hint="set guidance to 1, or choose a network trained with labels",
        )
    if network.training:
        raise NetworkError(
            "network",
            expected="evaluation mode",
            found="training mode, in which dropout makes images random",
            hint="call network.eval() first",
        )
