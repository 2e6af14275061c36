"""The denoisers of consistency models: EDM's, and the distilled ones that reach the image at once.

Song et al. 2023 (arXiv 2303.01469), appendix C, and the code of openai/consistency_models
(`cm/karras_diffusion.py`). Their networks are told 250 log(sigma), a thousand times EDM's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from skiptune.sampling.networks.precond import Coefficients, EDMPrecond

if TYPE_CHECKING:
    from skiptune.sampling.networks.precond import UNet

__all__ = ["ConsistencyPrecond"]

_TOLD = 250.0


class ConsistencyPrecond(EDMPrecond):
    """A denoiser around a network of consistency models.

    A distilled one maps a noisy image to the end of its path at `sigma_min`, in one evaluation at
    any noise level: there c_skip is 1 and c_out is 0.

    Arguments:
        model: The network; its input and output have equally many channels.
        sigma_data: Standard deviation of the training images over all pixels.
        sigma_min: Where the paths end.
        sigma_max: Highest noise level.
        distilled: Whether it was made by consistency distillation or training; else it is a
            diffusion model, such as their teacher.
    """

    def __init__(
        self,
        model: UNet,
        *,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        distilled: bool = False,
    ) -> None:
        super().__init__(model, sigma_data=sigma_data, sigma_min=sigma_min, sigma_max=sigma_max)
        self.distilled = distilled

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return c_skip, c_out, c_in and c_noise; see `Preconditioned.coefficients`."""
        c_skip, c_out, c_in, _ = super().coefficients(sigma)
        if self.distilled:
            away = sigma - self.sigma_min
            c_skip = self.sigma_data**2 / (away.square() + self.sigma_data**2)
            c_out = away * self.sigma_data * c_in
        return c_skip, c_out, c_in, _TOLD * sigma.log()
