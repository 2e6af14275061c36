"""A U-Net of diffusers as a denoiser D(x; sigma), by what its pipeline's scheduler says of it.

The state x of skiptune is an image plus sigma times noise. A network of the variance-preserving
process is told a timestep t and sees x / sqrt(1 + sigma^2); with F what it predicts,

    epsilon         D = x - sigma F
    v_prediction    D = x / (1 + sigma^2) - sigma / sqrt(1 + sigma^2) F
    sample          D = F

(Karras et al. 2022, arXiv 2206.00364, table 1; Salimans and Ho 2022, arXiv 2202.00512, section
4). Networks of EDM's kind have its preconditioning, with the sign of F turned for v_prediction, as
in diffusers. Where the scheduler clips the predicted image, so does the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError, Problem
from skiptune.sampling.prompts import Shares
from skiptune.sampling.schedulers import Scheduler
from skiptune.sampling.setting import Setting

__all__ = ["Conditions", "LabelEmbedding", "PipelineDenoiser"]


class LabelEmbedding(nn.Embedding):
    """An embedding of classes that takes rows: one-hot ones, or of zeros for no class."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows [B, classes] times the embeddings; of a one-hot row exactly one of them."""
        return rows.to(self.weight.dtype) @ self.weight


class Conditions(nn.Module):
    """What a network is told of each prompt: one row per prompt, the last one for no prompt.

    Arguments:
        hidden: The text encoder's states, [prompts + 1, tokens, width].
        pooled: The pooled embedding of networks that take one (SDXL), [prompts + 1, width].
        time_ids: Sizes and crop of such networks, [6].
        cut: Of which prompts the encoder has read the beginning alone, bool [prompts + 1]; None
            where that is not known.
    """

    hidden: Tensor
    pooled: Tensor | None
    time_ids: Tensor | None
    cut: Tensor | None

    def __init__(
        self,
        hidden: Tensor,
        pooled: Tensor | None = None,
        time_ids: Tensor | None = None,
        cut: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("hidden", hidden, persistent=False)
        self.register_buffer("pooled", pooled, persistent=False)
        self.register_buffer("time_ids", time_ids, persistent=False)
        self.register_buffer("cut", cut, persistent=False)

    @property
    def count(self) -> int:
        """How many prompts there are."""
        return int(self.hidden.shape[0]) - 1

    def of(self, rows: Tensor | None, images: int, dtype: torch.dtype) -> dict[str, Any]:
        """Return what the network's call is given.

        Arguments:
            rows: One-hot rows [B, prompts], of zeros for no prompt; None for no prompt at all.
            images: B.
            dtype: In which the network computes.
        """
        if rows is None:
            place = torch.full((images,), self.count, device=self.hidden.device)
        else:
            place = torch.where((rows != 0).any(1), rows.argmax(1), self.count)
        given: dict[str, Any] = {"encoder_hidden_states": self.hidden[place].to(dtype)}
        if self.pooled is not None and self.time_ids is not None:
            pooled = self.pooled[place].to(dtype)
            sizes = self.time_ids.expand(images, -1)
            given["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        return given


class PipelineDenoiser(nn.Module):
    """A denoiser around diffusers' `UNet2DModel` or `UNet2DConditionModel`.

    Its state is that of the U-Net, under `unet.`. Where the U-Net embeds classes, its embedding
    becomes one that takes rows (`LabelEmbedding`), with the same weight under the same name.

    Arguments:
        unet: The network; its configuration has passed `pipelines.read_pipeline`.
        scheduler: What it was trained on.
        conditions: What it is told of prompts; None for a network without text.
        shares: Which prompts an image is told of by its seed; None for any of them.
    """

    holder: ClassVar[str] = "unet"
    """The attribute that holds the network."""
    ignored: ClassVar[tuple[str, ...]] = ()
    """As of `Preconditioned`: nothing in such files is left unread."""

    trained: Tensor

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Scheduler,
        *,
        conditions: Conditions | None = None,
        shares: Shares | None = None,
    ) -> None:
        super().__init__()
        config: Any = unet.config
        self.unet: Any = unet
        self.scheduler = scheduler
        self.conditions = conditions
        self.shares = shares
        size = config.sample_size
        self.img_resolution = int(size if isinstance(size, int) else size[0])
        self.img_channels = int(config.in_channels)
        classes = config.num_class_embeds if config.class_embed_type is None else None
        self.has_classes = bool(classes)
        self.sigma_min = scheduler.sigma_min
        self.sigma_max = scheduler.sigma_max
        self.needs_prompts = _reads_text(unet) and conditions is None
        if classes:
            trained: Any = unet.class_embedding
            embedding = LabelEmbedding(classes, trained.weight.shape[1], device="meta")
            embedding.weight = trained.weight
            unet.class_embedding = embedding
        self.label_dim = int(classes or 0) if conditions is None else conditions.count
        levels = torch.tensor(scheduler.levels, dtype=torch.float32, device="cpu")
        self.register_buffer("trained", levels, persistent=False)

    def forward(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None
    ) -> Tensor:
        """Estimate the clean images.

        Arguments:
            x: Noisy images or latents [B, C, H, W]: clean ones plus sigma times white noise.
            sigma: Noise level above 0, one for all or [B].
            class_labels: One-hot float rows [B, label_dim] of classes or prompts; None means no
                label, and the empty prompt.

        Returns:
            float32 [B, C, H, W].

        Raises:
            NetworkError: For rows of another length than `label_dim`; or a network of text
                without prompts.
        """
        x = x.to(torch.float32)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
        if class_labels is not None and class_labels.shape[-1] != self.label_dim:
            raise NetworkError(
                "class_labels",
                expected=f"one-hot rows of {self.label_dim}" if self.label_dim else "None",
                found=f"a tensor {list(class_labels.shape)}",
                hint="give as many columns as the network knows classes, or None",
            )
        c_skip, c_out, c_in = self._coefficients(sigma)
        times = self._times(sigma.flatten()).expand(x.shape[0])
        dtype = next(self.unet.parameters()).dtype
        given = self._given(class_labels, x.shape[0], dtype)
        made = self.unet((c_in * x).to(dtype), times, return_dict=False, **given)[0]
        # Some networks also predict a variance, in channels behind those of the images.
        estimate: Tensor = c_skip * x + c_out * made[:, : self.img_channels].to(torch.float32)
        clip = self.scheduler.clip
        return estimate if clip is None else estimate.clamp(-clip, clip)

    def without_words(self) -> Self:
        """Return this network told zeros in the place of a text: enough to watch a call of it."""
        config = self.unet.config
        width, sizes = config.cross_attention_dim, config.addition_time_embed_dim
        pooled = time_ids = None
        if config.addition_embed_type == "text_time":
            time_ids = torch.zeros(6)  # sizes and crop, each embedded in so many numbers
            pooled = torch.zeros(2, config.projection_class_embeddings_input_dim - 6 * sizes)
        hidden = torch.zeros(2, 1, width if isinstance(width, int) else width[0])
        blank = Conditions(hidden, pooled, time_ids)
        made = type(self)(self.unet, self.scheduler, conditions=blank)
        return made.eval().to(self.trained.device)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Let the U-Net compute in another floating type, of which its weights become.

        Noise levels, their coefficients, prompts and what is made stay in float32.
        """
        # Not by the U-Net's own `to`, which warns of it.
        nn.Module.to(self.unet, dtype)

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        """Return the nearest noise level that the network was told of, in the shape of sigma.

        A scheduler that tells timesteps between two whole ones knows every level.
        """
        sigma = torch.as_tensor(sigma)
        if self.scheduler.times != "whole":
            return sigma
        return self.trained[self._nearest(sigma)].to(sigma.device, sigma.dtype)

    def start_std(self, sigma: float) -> float:
        """Return the standard deviation of the noise that sampling begins with at a level."""
        return self.scheduler.start_std(sigma)

    def refused(self, setting: Setting) -> Iterator[Problem]:
        """Yield what a setting asks for that the network was not trained for."""
        if self.needs_prompts:
            yield Problem("network.prompts", "prompts, because the network reads text", "none")
        if self.has_classes and setting.labels is None:
            expected = "`random` or a class number, because the network knows no image without one"
            yield Problem("setting.labels", expected, "none")
        if self.has_classes and setting.guidance != 1:
            expected = "1, because the network knows no image without a class"
            yield Problem("setting.guidance", expected, repr(setting.guidance))

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        levels, apply = self.trained, super()._apply
        made: Self = apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.trained.dtype != torch.float32:
            # bfloat16 would make many levels equal to their neighbours.
            self.trained = levels.to(self.trained.device)
        return made

    def _coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor | float, Tensor]:
        kind = self.scheduler.prediction
        if self.scheduler.times == "edm":
            data = self.scheduler.sigma_data
            variance = sigma.square() + data**2
            root = variance.sqrt()
            sign = 1 if kind == "epsilon" else -1
            return data**2 / variance, sign * sigma * data / root, 1 / root
        variance = sigma.square() + 1
        c_in = variance.rsqrt()
        if kind == "epsilon":
            return 1.0, -sigma, c_in
        if kind == "v_prediction":
            return 1 / variance, -sigma * c_in, c_in
        return 0.0, 1.0, c_in

    def _times(self, sigma: Tensor) -> Tensor:
        """Return what the network is told of noise levels, [1 or B]."""
        times, trained = self.scheduler.times, self.trained
        if times == "edm":
            return sigma.log() / 4
        if times == "whole":
            return self._nearest(sigma)
        if times == "log":
            sigma, trained = sigma.log(), trained.log()
        # As numpy.interp: between the two timesteps whose levels enclose sigma.
        upper = torch.searchsorted(trained, sigma).clamp(1, len(trained) - 1)
        low, high = trained[upper - 1], trained[upper]
        return upper - 1 + ((sigma - low) / (high - low)).clamp(0, 1)

    def _nearest(self, sigma: Tensor) -> Tensor:
        distances = sigma.to(self.trained.device, torch.float32)[..., None] - self.trained
        return distances.abs().argmin(-1)

    def _given(self, rows: Tensor | None, images: int, dtype: torch.dtype) -> dict[str, Any]:
        if self.needs_prompts:
            raise NetworkError(
                "network",
                expected="prompts, because the network reads text",
                found="none",
                hint="name a file with one prompt per line: `network.prompts`",
            )
        if self.conditions is not None:
            return self.conditions.of(rows, images, dtype)
        if self.has_classes:
            if rows is None:
                rows = torch.zeros(images, self.label_dim, device=self.trained.device)
            return {"class_labels": rows.to(dtype)}
        reads = type(self.unet).__name__ == "UNet2DConditionModel"
        return {"encoder_hidden_states": None} if reads else {}


def _reads_text(unet: nn.Module) -> bool:
    """Return whether a block of the network attends to the states of a text encoder."""
    blocks: Any = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]  # type: ignore[misc]
    return any(getattr(block, "has_cross_attention", False) for block in blocks)
