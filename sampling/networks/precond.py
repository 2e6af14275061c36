"""The four preconditionings of Karras et al. 2022 (arXiv 2206.00364), table 1.

A denoiser is D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), equation 7, around a network F.
EDM's coefficients give F signals of unit variance on both sides; those of VP and VE (Song et al.
2021, arXiv 2011.13456) and of iDDPM (Nichol and Dhariwal 2021, arXiv 2102.09672) make networks
that predict noise, trained in these formulations, into denoisers of the same call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError
from skiptune.sampling.networks.dhariwal import DhariwalUNet
from skiptune.sampling.networks.song import SongUNet

if TYPE_CHECKING:
    from skiptune.sampling.networks.edm2 import EDM2UNet
    from skiptune.sampling.networks.openai import OpenAIUNet
    from skiptune.sampling.networks.uvit import UViT

    UNet: TypeAlias = SongUNet | DhariwalUNet | EDM2UNet | OpenAIUNet | UViT

__all__ = [
    "DiscreteLevels",
    "EDMPrecond",
    "Preconditioned",
    "VEPrecond",
    "VPPrecond",
    "iDDPMPrecond",
]

Coefficients = tuple[float | Tensor, float | Tensor, float | Tensor, Tensor]
"""c_skip, c_out, c_in and c_noise, as numbers or float32 [1 or B, 1, 1, 1]."""


class Preconditioned(nn.Module):
    """What the denoisers have in common; not a denoiser itself.

    Arguments:
        model: The network F; its input has the images' channels, its output these or more.
        sigma_min: Lowest noise level that the denoiser was made for.
        sigma_max: Highest noise level that the denoiser was made for.
    """

    holder: ClassVar[str] = "model"
    """The attribute that holds the network."""
    ignored: ClassVar[tuple[str, ...]] = ()
    """How the names begin of tensors in checkpoints that the denoiser has no use for."""

    model: SongUNet | DhariwalUNet

    computes_in: torch.dtype = torch.float32
    """In which the network is given images; most networks go on in that of their weights."""

    def __init__(
        self,
        model: UNet,
        *,
        sigma_min: float,
        sigma_max: float,
    ) -> None:
        super().__init__()
        self.add_module(self.holder, model)
        self.img_resolution = model.img_resolution
        self.img_channels = model.in_channels
        self.label_dim = model.label_dim
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise at noise levels.

        Arguments:
            sigma: Above 0, float32 [1 or B, 1, 1, 1].
        """
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Estimate the clean images.

        Arguments:
            x: Noisy images [B, C, H, W]: clean images in -1..1 plus sigma times white noise.
            sigma: Noise level above 0, one for all or [B].
            class_labels: One-hot float rows [B, label_dim]; None means no label.
            augment_labels: Augmentation vectors [B, augment_dim]; None means none.

        Returns:
            float32 [B, C, H, W].

        Raises:
            NetworkError: For rows of another length than `label_dim`.
        """
        x = x.to(torch.float32)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        sigma = sigma.reshape(-1, 1, 1, 1)
        if class_labels is not None:
            if class_labels.shape[-1] != self.label_dim:
                raise NetworkError(
                    "class_labels",
                    expected=f"one-hot rows of {self.label_dim}" if self.label_dim else "None",
                    found=f"a tensor {list(class_labels.shape)}",
                    hint="give as many columns as the network knows classes, or None",
                )
            class_labels = class_labels.to(torch.float32).reshape(-1, self.label_dim)

        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        noise_labels = c_noise.flatten().expand(x.shape[0])
        network: Any = getattr(self, self.holder)
        augment = () if augment_labels is None else (augment_labels,)
        given = (c_in * x).to(self.computes_in)
        estimate: Tensor = network(given, noise_labels, class_labels, *augment)
        # iDDPM's networks also predict a variance, in channels behind those of the images.
        estimate = estimate[:, : self.img_channels]
        return c_skip * x + c_out * estimate.to(torch.float32)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Let the network compute in another floating type, whose weights become of that type.

        Noise levels, their coefficients and what is made stay in float32.
        """
        unet: nn.Module = getattr(self, self.holder)
        # Frequencies of noise levels: in bfloat16 their products would be off by whole turns.
        kept = [
            (module, name, getattr(module, name))
            for module in unet.modules()
            for name in ("freqs", "phases")
            if isinstance(getattr(module, name, None), Tensor)
        ]
        unet.to(dtype)
        for module, name, tensor in kept:
            setattr(module, name, tensor)
        self.computes_in = dtype

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        """Return the nearest noise level that the denoiser knows: any, so sigma itself."""
        return torch.as_tensor(sigma)


class EDMPrecond(Preconditioned):
    """A denoiser D(x; sigma) around a network that sees and makes signals of unit variance.

    Arguments:
        model: The network; its input and output have equally many channels.
        sigma_data: Standard deviation of the training images over all pixels.
        sigma_min: Lowest noise level that the denoiser was made for.
        sigma_max: Highest noise level that the denoiser was made for.
    """

    def __init__(
        self,
        model: UNet,
        *,
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
    ) -> None:
        super().__init__(model, sigma_min=sigma_min, sigma_max=sigma_max)
        self.sigma_data = sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise; see `Preconditioned.coefficients`."""
        variance = sigma.square() + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data / variance.sqrt()
        c_in = 1 / variance.sqrt()
        return c_skip, c_out, c_in, sigma.log() / 4


class VPPrecond(Preconditioned):
    """A denoiser around a network trained on the variance preserving process.

    The noise level at time t in 0..1 is sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1).

    Arguments:
        model: The network; it predicts the noise.
        beta_d: Range of the rate of the process.
        beta_min: Rate at time 0.
        M: Number of time steps in the network's units: it is told (M - 1) t.
        epsilon_t: Lowest time used in training, which gives the lowest noise level.
    """

    def __init__(
        self,
        model: UNet,
        *,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
    ) -> None:
        def level(t: float) -> float:
            return math.sqrt(math.expm1(beta_d * t**2 / 2 + beta_min * t))

        super().__init__(model, sigma_min=level(epsilon_t), sigma_max=level(1.0))
        self.beta_d = beta_d
        self.beta_min = beta_min
        self.M = M

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise; see `Preconditioned.coefficients`."""
        variance = sigma.square() + 1
        root = (self.beta_min**2 + 2 * self.beta_d * variance.log()).sqrt()
        time = (root - self.beta_min) / self.beta_d
        return 1.0, -sigma, 1 / variance.sqrt(), (self.M - 1) * time


class VEPrecond(Preconditioned):
    """A denoiser around a network trained on the variance exploding process.

    Arguments:
        model: The network; it predicts the noise with opposite sign.
        sigma_min: Lowest noise level that the denoiser was made for.
        sigma_max: Highest noise level that the denoiser was made for.
    """

    def __init__(
        self,
        model: UNet,
        *,
        sigma_min: float = 0.02,
        sigma_max: float = 100.0,
    ) -> None:
        super().__init__(model, sigma_min=sigma_min, sigma_max=sigma_max)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise; see `Preconditioned.coefficients`."""
        return 1.0, sigma, 1.0, (0.5 * sigma).log()


class DiscreteLevels(Preconditioned):
    """What denoisers have in common that were trained on some noise levels alone.

    Give noise levels rounded with `round_sigma`, because the coefficients use sigma itself.

    Arguments:
        model: The network F.
        levels: The noise levels in the order in which the network counts them.
        sigma_min: The lowest one above 0.
        sigma_max: The highest one.
        persistent: Whether checkpoints hold the levels, as `u`.
    """

    u: Tensor

    def __init__(
        self,
        model: UNet,
        levels: list[float],
        *,
        sigma_min: float,
        sigma_max: float,
        persistent: bool,
    ) -> None:
        super().__init__(model, sigma_min=sigma_min, sigma_max=sigma_max)
        values = torch.tensor(levels, dtype=torch.float32)
        self.register_buffer("u", values, persistent=persistent)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        levels, apply = self.u, super()._apply
        made: Self = apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.u.dtype != torch.float32:
            # bfloat16 would make one level in five equal to its neighbour.
            self.u = levels.to(self.u.device)
        return made

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        """Return the nearest noise level that the denoiser knows, in the shape of sigma."""
        sigma = torch.as_tensor(sigma)
        return self.u[self._nearest(sigma)].to(sigma.device, sigma.dtype)

    def _nearest(self, sigma: Tensor) -> Tensor:
        distances = sigma.to(self.u.device, torch.float32)[..., None] - self.u
        return distances.abs().argmin(-1)


class iDDPMPrecond(DiscreteLevels):  # noqa: N801
    """A denoiser around a network trained on iDDPM's discrete noise levels.

    The levels fall from u_0 to u_M = 0: u_{j-1}^2 = (u_j^2 + 1) / max(a_{j-1} / a_j, C_1) - 1 with
    a_j = sin^2(pi/2 j / (M (C_2 + 1))). The network is told M - 1 - j of the level nearest to
    sigma; give noise levels rounded with `round_sigma`, because the coefficients use sigma itself.

    Arguments:
        model: The network; the first of its output's channels predict the noise.
        C_1: Lowest ratio of consecutive a_j, which bounds the highest noise level.
        C_2: Offset of the schedule.
        M: Number of levels above 0, at least 1.

    Raises:
        ValueError: For fewer levels.
    """

    def __init__(
        self,
        model: UNet,
        *,
        C_1: float = 0.001,
        C_2: float = 0.008,
        M: int = 1000,
    ) -> None:
        if M < 1:
            raise ValueError(f"M must be at least 1, found {M}")
        levels = _iddpm_levels(C_1, C_2, M)
        # Published checkpoints hold the levels.
        super().__init__(
            model, levels, sigma_min=levels[M - 1], sigma_max=levels[0], persistent=True
        )
        self.M = M

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise; see `Preconditioned.coefficients`."""
        c_noise = self.M - 1 - self._nearest(sigma).to(torch.float32)
        return 1.0, -sigma, 1 / (sigma.square() + 1).sqrt(), c_noise


def _iddpm_levels(C_1: float, C_2: float, M: int) -> list[float]:
    def share(j: int) -> float:
        return math.sin(math.pi / 2 * j / (M * (C_2 + 1))) ** 2

    levels = [0.0]
    for j in range(M, 0, -1):
        ratio = max(share(j - 1) / share(j), C_1)
        levels.append(math.sqrt((levels[-1] ** 2 + 1) / ratio - 1))
    return levels[::-1]
