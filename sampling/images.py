"""From seeds to images: one random stream per image, fixed microbatches, counted evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.errors import NetworkError, Problem, SpecError
from skiptune.sampling.factors import Factors
from skiptune.sampling.levels import level_problems, levels, rounded, start_std
from skiptune.sampling.noise import Streams, image_streams
from skiptune.sampling.setting import Setting
from skiptune.sampling.solvers import solve

if TYPE_CHECKING:
    from skiptune.sampling.decoder import Decoder
    from skiptune.sampling.prompts import Shares

__all__ = ["Batch", "Counted", "problems_of", "sample", "sample_float", "start", "to_uint8"]


@dataclass(frozen=True)
class Batch:
    """Some images, in the order of their seeds.

    Arguments:
        seeds: One per image.
        labels: Class numbers, int64 [B]; None where the images have none.
        images: uint8 [B, C, H, W]; black where not finite.
        finite: Whether an image, and the latent it was decoded from if any, had no NaN and no
            infinity before it was rounded, bool [B].
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
        """Return the network's estimate of the clean images in the dtype of `x`.

        Raises:
            NetworkError: For weights of half precision where the device lacks an operation.
        """
        self.images += x.shape[0]
        try:
            estimate: Tensor = self.network(x, sigma, class_labels)
        except RuntimeError as error:
            _refuse_half_precision(self.network, x.device, error)
            raise
        return estimate.to(x.dtype)


def sample(
    network: nn.Module,
    setting: Setting,
    seeds: Sequence[int],
    *,
    microbatch: int = 50,
    device: torch.device | str | None = None,
    decoder: Decoder | None = None,
) -> Iterator[Batch]:
    """Make one image per seed, without gradients.

    The network always sees `microbatch` images at once: the last seed is repeated where seeds run
    out, and the surplus dropped. The numbers of an image then depend on its seed alone, bit for
    bit on one device type with one thread count, whatever other seeds are asked for.

    Arguments:
        network: A denoiser in evaluation mode: network(x, sigma, class_labels) -> clean images;
            with attributes `img_channels`, `img_resolution`, `label_dim`; perhaps with methods
            `round_sigma`, `start_std` (`levels`), and `refused`, which yields what is wrong with a
            setting; perhaps with `shares`, which says among which labels a seed draws.
        setting: How the images are made.
        seeds: One per image.
        microbatch: Images per evaluation of the network.
        device: Where to sample; by default where the network's parameters are.
        decoder: Makes the images of what the network makes; it has a microbatch of its own, and
            leaves the images on its own device.

    Returns:
        Consecutive batches of `microbatch` images, the last one shorter where seeds run out.

    Raises:
        SpecError: For a label, guidance or noise levels that the network cannot follow.
        NetworkError: For a network in training mode, not of the decoder's latents, or, with the
            first batch, of half precision that the device cannot compute in.
    """
    if microbatch < 1:
        raise SpecError(
            "microbatch", expected="at least 1", found=str(microbatch), hint="50 is the default"
        )
    _check(network, setting, decoder)
    return _batches(network, setting, tuple(seeds), microbatch, device, decoder)


def sample_float(
    network: nn.Module,
    setting: Setting,
    seeds: Sequence[int] | Streams,
    *,
    device: torch.device | str | None = None,
    decoder: Decoder | None = None,
) -> Tensor:
    """Make one image per seed in one batch, differentiable in the scales of the skips.

    Arguments:
        network: As for `sample`.
        setting: How the images are made.
        seeds: One per image, or their streams of the setting's noise, of which nothing has been
            drawn.
        device: Where to sample; by default where the network's parameters are.
        decoder: Makes the images of what the network makes. Without one, latents are returned
            as they are.

    Returns:
        float64 [B, C, H, W], about -1..1, not clipped.

    Raises:
        SpecError, NetworkError: As `sample`.
    """
    _check(network, setting, decoder)
    images, _ = _trajectories(Counted(network), setting, _streams(network, setting, seeds, device))
    return images if decoder is None else decoder.floats(images)


def start(network: nn.Module, setting: Setting, streams: Streams) -> tuple[Tensor, Tensor | None]:
    """Draw what images begin with: first the noise, then the label.

    Arguments:
        network: As for `sample`.
        setting: Its label rule is followed.
        streams: One per image, of the setting's noise, of which nothing has been drawn.

    Returns:
        Standard normal noise, float32 [B, C, H, W], and one-hot rows, float32 [B, classes] or
        None, on the streams' device.

    Raises:
        SpecError: For streams of another noise.
    """
    if streams.noise != setting.noise:
        raise SpecError(
            "streams",
            expected=f"noise {setting.noise}, as the setting has it",
            found=f"noise {streams.noise}",
            hint="make them with skiptune.sampling.image_streams(setting.noise, seeds)",
        )
    channels, size, classes = _shape(network)
    noise = streams.randn((channels, size, size))
    if classes == 0:
        return noise, None
    # Drawn whatever the rule, so that the churn of an image does not depend on it.
    labels = _labels(network, streams, classes)
    if setting.labels is None:
        return noise, None
    if setting.labels != "random":
        labels = torch.full_like(labels, int(setting.labels))
    return noise, F.one_hot(labels, classes).to(torch.float32)


def _labels(network: nn.Module, streams: Streams, classes: int) -> Tensor:
    """Draw a label for each image, int64 [B]: one number of its stream, whatever it may be."""
    shares: Shares | None = getattr(network, "shares", None)
    if shares is None:
        return streams.randint(classes)
    choices = [shares.lines(seed) for seed in streams.seeds]
    drawn = streams.randint([len(lines) for lines in choices]).tolist()
    labels = [lines[place] for lines, place in zip(choices, drawn, strict=True)]
    return torch.tensor(labels, device=streams.device)


def problems_of(network: nn.Module, setting: Setting) -> list[Problem]:
    """Return what a network refuses in a setting: labels, guidance and noise levels.

    Arguments:
        network: As for `sample`.
        setting: How images would be made.

    Raises:
        NetworkError: For a network without the attributes that `sample` reads.
    """
    _, _, classes = _shape(network)
    problems: list[Problem] = []
    if isinstance(setting.labels, int) and setting.labels >= classes:
        known = f"a class number from 0 to {classes - 1}" if classes else "none: no classes"
        problems.append(Problem("setting.labels", known, str(setting.labels)))
    # A network that waits for its prompts says so itself.
    if setting.guidance != 1 and classes == 0 and not getattr(network, "needs_prompts", False):
        expected = "1, because the network knows no classes"
        problems.append(Problem("setting.guidance", expected, repr(setting.guidance)))
    refused = getattr(network, "refused", None)
    if refused is not None:
        problems += refused(setting)
    return [*problems, *level_problems(network, setting)]


def to_uint8(x: Tensor) -> Tensor:
    """Round images in -1..1 to bytes as EDM does: x * 127.5 + 128, clipped, then cut off."""
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)


def _batches(
    network: nn.Module,
    setting: Setting,
    seeds: tuple[int, ...],
    microbatch: int,
    device: torch.device | str | None,
    decoder: Decoder | None,
) -> Iterator[Batch]:
    for start in range(0, len(seeds), microbatch):
        wanted = seeds[start : start + microbatch]
        padded = wanted + wanted[-1:] * (microbatch - len(wanted))
        counted = Counted(network)
        with torch.inference_mode():
            x, labels = _trajectories(counted, setting, _streams(network, setting, padded, device))
        # Outside of inference mode, so that the results are ordinary tensors.
        x = x[: len(wanted)].clone()
        images, finite = _rounded(x, decoder)
        yield Batch(
            seeds=wanted,
            labels=None if labels is None else labels[: len(wanted)].clone(),
            images=images,
            finite=finite,
            nfe=counted.images / microbatch,
        )


def _rounded(x: Tensor, decoder: Decoder | None) -> tuple[Tensor, Tensor]:
    """Return the bytes of images or latents, and which of them are finite, bool [B]."""
    finite = x.isfinite().flatten(1).all(1)
    if decoder is None:
        # The bytes of NaN are undefined: a diverged image is black.
        return to_uint8(torch.where(finite[:, None, None, None], x, -1.0)), finite
    images, decoded = decoder.images(torch.where(finite[:, None, None, None], x, 0.0))
    finite = finite.to(decoded.device) & decoded
    return images.masked_fill(~finite[:, None, None, None], 0), finite


def _streams(
    network: nn.Module,
    setting: Setting,
    seeds: Sequence[int] | Streams,
    device: torch.device | str | None,
) -> Streams:
    if isinstance(seeds, Streams):
        return seeds
    if device is None:
        parameter = next(network.parameters(), None)
        device = "cpu" if parameter is None else parameter.device
    return image_streams(setting.noise, seeds, device)


def _trajectories(
    counted: Counted, setting: Setting, streams: Streams
) -> tuple[Tensor, Tensor | None]:
    network = counted.network
    points = levels(network, setting)
    grid = torch.tensor(points, dtype=torch.float64, device=streams.device)
    noise, rows = start(network, setting, streams)
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
        noise.to(torch.float64) * start_std(network, points[0]),
        grid,
        churn=setting.churn,
        randn_like=streams.randn_like,
        order=setting.order,
        eta=setting.eta,
        restarts=_edges(network, grid) if setting.history == "restart" else (),
        round_sigma=lambda sigma: rounded(network, [sigma])[0],
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
            for row in range(len(factors.addresses)):
                factor = factors.of(row)
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


def _refuse_half_precision(network: nn.Module, device: torch.device, error: RuntimeError) -> None:
    """Say in four parts that a device lacks an operation; return where it is something else.

    Which operations a device has changes with every release of torch, so the first evaluation of
    a network is the probe: there is nothing to list, and no image yet.
    """
    lacking = isinstance(error, NotImplementedError) or "not implemented for" in str(error)
    dtypes = {parameter.dtype for parameter in network.parameters()}
    half = [dtype for dtype in (torch.float16, torch.bfloat16) if dtype in dtypes]
    if lacking and half:
        raise NetworkError(
            "network",
            expected=f"weights of a dtype that {device.type} computes in",
            found=f"{str(half[0]).removeprefix('torch.')}: {error}",
            hint="convert the network with network.float(), or sample on a GPU",
        ) from error


def _check(network: nn.Module, setting: Setting, decoder: Decoder | None) -> None:
    channels, _, _ = _shape(network)
    if decoder is not None:
        decoder.check(channels)
    found = problems_of(network, setting)
    if found:
        raise SpecError.of(found, hint="change the setting, or choose another network")
    if network.training:
        raise NetworkError(
            "network",
            expected="evaluation mode",
            found="training mode, in which dropout makes images random",
            hint="call network.eval() first",
        )
