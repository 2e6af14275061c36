"""How well images match their prompts: the cosine of two embeddings by a CLIP model.

    clip_score    100 max(cos(E(image), E(prompt)), 0)
    pick_score    s cos(E(image), E(prompt)), s the model's own exp(logit_scale)

CLIPScore is equation 1 of Hessel et al. 2021 (EMNLP, arXiv 2104.08718), w max(cos, 0), with
w = 100 in the place of their 2.5 and without the words that they put before a caption: the variant
that torchmetrics computes. PickScore is that of Kirstain et al. 2023 (arXiv 2305.01569) with their
`yuvalkirstain/PickScore_v1`, a CLIP-H that has learnt which of two images people prefer.

An image is prepared as the model's processor says, from the bytes that everything else is measured
of: it is brought to size as Pillow does it, along one axis after the other with bytes in between,
because that is what these models were trained and are compared on. In one step on floats, as
processors do it on a GPU, a quarter of the bytes come out otherwise. So the same numbers come from
every device. Everything is computed in float32, the sum of products in float64.

The package transformers brings model and tokenizer; weights are read as safetensors alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.errors import ObjectiveError
from skiptune.objectives.catalogue import CATALOGUE
from skiptune.objectives.clip_files import CLIPFiles, Preprocessing, clip_files
from skiptune.objectives.extractors import Extractor, full_precision
from skiptune.sampling.text_encoders import TRANSFORMERS

__all__ = ["RULES", "TextScore", "load_text_score", "pixel_values"]

RULES: Final = {
    "clip_score": "100 max(cos, 0)",
    "pick_score": "exp(logit_scale) cos",
}
"""The formula of each metric; a part of what identifies stored values."""

_AT_ONCE = 50  # prompts that go through the encoder together
_MODEL_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
)


def pixel_values(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return what a CLIP model is given of square images.

    Arguments:
        images: uint8 [N, C, S, S] on any device; C is 3, or 1 for grey.
        preprocessing: What the model's processor says.

    Returns:
        float32 [N, 3, crop, crop] on the images' device.

    Raises:
        ObjectiveError: When the images are not such bytes.
    """
    channels, height, width = images.shape[1:] if images.ndim == 4 else (0, 0, 0)
    if images.dtype != torch.uint8 or channels not in (1, 3) or height != width or not height:
        raise ObjectiveError(
            "images for a CLIP model",
            expected="uint8 [N, 3, S, S], or [N, 1, S, S] for grey",
            found=f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}",
            hint="latents are decoded first: name a VAE, `network.decoder.vae`",
        )
    size, crop = preprocessing.size, preprocessing.crop
    pixels = images.to(torch.float32)
    if width != size:
        for shape in ((height, size), (size, size)):
            pixels = F.interpolate(pixels, shape, mode="bicubic", antialias=True)
            pixels = pixels.clamp(0, 255).round()
    first = (size - crop) // 2
    pixels = pixels[:, :, first : first + crop, first : first + crop].expand(-1, 3, -1, -1)
    mean, std = (
        torch.tensor(row, device=images.device)[:, None, None]
        for row in (preprocessing.mean, preprocessing.std)
    )
    return (pixels * preprocessing.factor - mean) / std


class _ImageEncoder(nn.Module):
    """Bytes to embeddings of length 1."""

    def __init__(self, clip: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.encoder = clip.vision_model
        self.projection = clip.visual_projection
        self.preprocessing = preprocessing

    def forward(self, images: Tensor) -> Tensor:
        pixels = pixel_values(images, self.preprocessing)
        return _unit(self.projection(self.encoder(pixel_values=pixels).pooler_output))


@dataclass(frozen=True, eq=False)
class TextScore:
    """A score of images and their prompts, ready to use.

    Arguments:
        key: The metric, of `RULES`.
        encoder: Images to embeddings of length 1; its name is the model's architecture.
        scale: What a cosine is multiplied by.
        prompts: One for each label.
        clip: transformers' model.
        tokenizer: Its tokenizer.
    """

    key: str
    encoder: Extractor
    scale: float
    prompts: tuple[str, ...]
    clip: Any
    tokenizer: Any

    @property
    def name(self) -> str:
        """What the field calls the model, e.g. ``ViT-L/14``: its size, not who trained it."""
        return self.encoder.name

    def describe(self) -> dict[str, Any]:
        """Return what determines the scores of given images and prompts, as plain data.

        The prompts are not in it: which images there are depends on them already.
        """
        return {
            "model": self.name,
            "sha256": self.encoder.sha256,
            "preprocess": self.encoder.preprocess,
            "dim": self.encoder.dim,
            "rule": RULES[self.key],
            "precision": "float32",
        }

    @cached_property
    def texts(self) -> Tensor:
        """Embeddings of the prompts, of length 1: float32 [P, d] on the model's device."""
        return self.embedded(self.prompts)

    @torch.no_grad()
    def embedded(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings of texts, of length 1: float32 [T, d] on the model's device.

        Those of more tokens than the model takes are cut off, as its processor does.
        """
        device = self.encoder.device
        most = int(self.clip.config.text_config.max_position_embeddings)
        parts = []
        with full_precision(device):
            for first in range(0, len(texts), _AT_ONCE):
                tokens = self.tokenizer(
                    list(texts[first : first + _AT_ONCE]),
                    padding=True,
                    truncation=True,
                    max_length=min(most, self.tokenizer.model_max_length),
                    return_tensors="pt",
                ).to(device)
                states = self.clip.text_model(
                    input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
                )
                parts.append(_unit(self.clip.text_projection(states.pooler_output)))
        return torch.cat(parts)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the score of every image.

        Arguments:
            images: uint8 [N, C, S, S] on any device.
            labels: Which prompt each was made of, integer [N], 0..P - 1.

        Returns:
            float32 [N] on the model's device.

        Raises:
            ObjectiveError: The images are not such bytes, or a score is not finite.
        """
        embeddings = self.encoder(images)
        with torch.inference_mode():
            texts = self.texts[labels.to(embeddings.device, torch.int64)]
            cosines = (embeddings.double() * texts.double()).sum(1)
            if self.key == "clip_score":
                cosines = cosines.clamp_min(0)
            scores = (self.scale * cosines).float()
        if not bool(scores.isfinite().all()):
            raise ObjectiveError(
                f"{CATALOGUE[self.key].title} of {self.name}",
                expected="finite numbers",
                found="NaN or infinity",
                hint="check the model's weights",
            )
        return scores


def load_text_score(
    key: str, folder: Path | str, prompts: Sequence[str], *, device: str | torch.device = "cpu"
) -> TextScore:
    """Load the model behind a score of images and their prompts.

    Arguments:
        key: The metric, of `RULES`.
        folder: A CLIP model with its processor, as transformers saves them.
        prompts: One for each label, at least one.
        device: Torch device.

    Raises:
        ObjectiveError: The folder holds something else, or a part is missing or damaged; or
            transformers is not installed.
    """
    files = clip_files(folder)
    clip, tokenizer = _loaded(files)
    sha256, _ = files.digest()
    shape = clip.config.vision_config
    crop = files.preprocessing.crop
    if shape.image_size != crop:
        raise ObjectiveError(
            f"{files.folder}: crop_size",
            expected=f"{shape.image_size}, the height of images that the model sees",
            found=str(crop),
            hint="take the processor that came with the model",
        )
    clip = clip.eval().requires_grad_(False).to(device)
    encoder = Extractor(
        _architecture(shape),
        int(clip.config.projection_dim),
        sha256,
        files.preprocessing.describe(),
        _ImageEncoder(clip, files.preprocessing).eval(),
    )
    scale = 100.0 if key == "clip_score" else float(clip.logit_scale.exp())
    return TextScore(key, encoder, scale, tuple(prompts), clip, tokenizer)


# Widths of the published sizes (Dosovitskiy et al. 2021, arXiv 2010.11929; Zhai et al. 2022,
# arXiv 2106.04560; Ilharco et al., OpenCLIP).
_SIZES = {768: "B", 1024: "L", 1280: "H", 1408: "g", 1664: "bigG"}


def _architecture(shape: Any) -> str:
    """Return what the field calls an image encoder of this shape, with its image size if odd."""
    size = _SIZES.get(shape.hidden_size, f"{shape.hidden_size}x{shape.num_hidden_layers}")
    larger = f"@{shape.image_size}" if shape.image_size != 224 else ""
    return f"ViT-{size}/{shape.patch_size}{larger}"


def _unit(embeddings: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
    return embeddings / lengths


def _loaded(files: CLIPFiles) -> tuple[Any, Any]:
    try:
        transformers = importlib.import_module("transformers")
        kind, tokenizer_kind = transformers.CLIPModel, transformers.CLIPTokenizer
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ObjectiveError(
            str(files.folder),
            expected="the package transformers, which knows the model",
            found=str(error).splitlines()[0],
            hint=TRANSFORMERS,
        ) from error
    folder = str(files.folder)
    try:
        with _quiet(transformers.logging):
            tokenizer = tokenizer_kind.from_pretrained(folder, local_files_only=True)
            clip, told = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except _MODEL_ERRORS as error:
        raise _damaged(folder, (str(error).splitlines() or [type(error).__name__])[0]) from error
    # transformers fills what a file lacks with random numbers.
    lacking = sorted(map(str, (*told["missing_keys"], *told["mismatched_keys"])))
    if lacking:
        raise _damaged(folder, f"no {lacking[0]} of the model's shape, and {len(lacking)} in all")
    return clip, tokenizer


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Keep transformers from saying what is said here."""
    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _damaged(folder: str, found: str) -> ObjectiveError:
    return ObjectiveError(
        folder,
        expected="a CLIP model and its tokenizer as save_pretrained writes them",
        found=found[:200],
        hint="fetch or save it again, model and processor into one folder",
    )
