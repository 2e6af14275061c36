"""A decoder: the VAE that turns the latents of a network into images, read without running code.

A VAE is a folder in the layout of diffusers: `config.json`, and the weights as safetensors. Both
are read here: no hub is asked, no pickle is opened. The extra `diffusers` brings the architecture.
Only the half that decodes is kept. Where that is of a `VQModel`, each latent first becomes the
nearest entry of its codebook, as in diffusers; a gradient passes this straight through.

Latents are decoded a few at a time and always equally many, the last one repeated where they run
out, so that the numbers of an image depend neither on its company nor on how many are asked for.
Weights, architecture, type, scale of the latents and that number are the decoder's identity:
images are never shared between two decoders.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skiptune.canonical import file_digest
from skiptune.errors import NetworkError, Problem
from skiptune.sampling.checkpoint import is_pickle
from skiptune.sampling.diffusers_weights import read_tensors, refuse_misfit
from skiptune.sampling.gradient_range import in_range, needs_range
from skiptune.sampling.latents import (
    CONFIG_FILE,
    DECODED_AT_ONCE,
    DTYPES,
    WEIGHTS_FILE,
    Latents,
    latents_of,
    vae_files,
)

__all__ = ["Decoder", "load_decoder"]

KL, VQ = "AutoencoderKL", "VQModel"
EXTRA = "pip install 'skiptune[diffusers]'"

# The part of a configuration that decides what the decoding half computes.
_BOTH = (
    "act_fn",
    "block_out_channels",
    "latent_channels",
    "layers_per_block",
    "mid_block_add_attention",
    "norm_num_groups",
    "out_channels",
    "up_block_types",
)
_ARCHITECTURE = {
    KL: (*_BOTH, "use_post_quant_conv"),
    VQ: (*_BOTH, "norm_type", "num_vq_embeddings", "vq_embed_dim"),
}
# A codebook beside an `AutoencoderKL` is read too, and refused: the configuration is of another.
_HALF = ("decoder.", "post_quant_conv.", "quantize.")
_MOST_CONFIG = 1 << 16  # bytes; real ones have less than a thousand
# Building counts to these, so a file may not ask for as many as it likes; real ones have 2 and 4.
_MOST_LAYERS, _MOST_LEVELS = 64, 64
# What building raises where values make no network.
_UNSOUND = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, eq=False)
class Decoder:
    """A VAE's decoding half with its weights, and what its numbers mean.

    Arguments:
        vae: diffusers' `AutoencoderKL` or `VQModel` in evaluation mode, without encoder and
            gradients.
        latents: How a network's latents become the VAE's, and its pixels an image.
        sha256: Of the file of weights.
        architecture: The part of the configuration that decides about decoding, plain data.
        dtype: In which the VAE computes, one of `DTYPES`.
        microbatch: Latents that go through the VAE at once.
        name: Of the folder that the weights lay in.
        path: The file of weights.
    """

    vae: nn.Module
    latents: Latents
    sha256: str
    architecture: dict[str, Any]
    dtype: str
    microbatch: int
    name: str
    path: Path

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return len(self.latents.mean)

    @property
    def image_channels(self) -> int:
        """Channels of the images."""
        return int(self.architecture["out_channels"])

    @property
    def factor(self) -> int:
        """Height of an image over that of its latent."""
        return int(2 ** (len(self.architecture["block_out_channels"]) - 1))

    def describe(self) -> dict[str, Any]:
        """Return everything that decides about an image, apart from its latent, as plain data."""
        return {
            "sha256": self.sha256,
            "architecture": self.architecture,
            "dtype": self.dtype,
            **self.latents.to_json(),
            "microbatch": self.microbatch,
        }

    def floats(self, latents: Tensor) -> Tensor:
        """Decode, differentiable in the latents.

        Arguments:
            latents: Floats [B, C, H, W] as the network makes them, B at least 1.

        Returns:
            float64 [B, `image_channels`, `factor` H, `factor` W], about -1..1, not clipped, on
            the device of the VAE.
        """
        low, high = self.latents.low, self.latents.high

        def decoded(latents: Tensor) -> Tensor:
            return torch.cat(list(self._pixels(latents)))

        half = latents.requires_grad and needs_range(self.vae)
        pixels = (in_range(decoded, latents) if half else decoded(latents)).to(torch.float64)
        return (pixels - low) * (2 / (high - low)) - 1

    def images(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Decode to bytes, without gradients; at no time are more float images kept than needed.

        Arguments:
            latents: Finite floats [B, C, H, W] as the network makes them, B at least 1.

        Returns:
            uint8 [B, `image_channels`, `factor` H, `factor` W] and bool [B], whether an image had
            no NaN and no infinity before it was rounded; one that had is black. On the device of
            the VAE.
        """
        low, high = self.latents.low, self.latents.high
        images, finites = [], []
        with torch.inference_mode():
            for pixels in self._pixels(latents):
                finite = pixels.isfinite().flatten(1).all(1)
                # The bytes of NaN are undefined.
                pixels = torch.where(finite[:, None, None, None], pixels, low)
                levels = ((pixels - low) / (high - low)).clamp(0, 1) * 255
                if self.latents.rounding == "nearest":
                    levels = levels.round()
                images.append(levels.to(torch.uint8))
                finites.append(finite)
        # Outside of inference mode, so that the results are ordinary tensors.
        return torch.cat(images).clone(), torch.cat(finites).clone()

    def check(self, channels: int) -> None:
        """Refuse a network whose latents are not of this VAE.

        Raises:
            NetworkError: For another number of channels.
        """
        if channels != self.channels:
            raise _misfit(self.path.parent, channels, self.channels)

    def _pixels(self, latents: Tensor) -> Iterator[Tensor]:
        """Yield what the VAE makes of some latents after others, float32, in its own range."""
        parameter = next(self.vae.parameters())
        shape = (1, self.channels, 1, 1)
        mean = torch.tensor(self.latents.mean, dtype=torch.float64).view(shape)
        std = torch.tensor(self.latents.std, dtype=torch.float64).view(shape)
        for some in latents.split(self.microbatch):
            count = len(some)
            if count < self.microbatch:
                more = some[-1:].expand(self.microbatch - count, -1, -1, -1)
                some = torch.cat([some, more])
            z = some.to(torch.float64) * std.to(some.device) + mean.to(some.device)
            pixels = self.vae.decode(  # type: ignore[operator]
                z.to(parameter.device, parameter.dtype), return_dict=False
            )[0]
            yield pixels[:count].to(torch.float32)


def load_decoder(
    vae: str | Path,
    *,
    config: str | Path | None = None,
    sha256: str | None = None,
    dtype: str = "float32",
    latents: str = "vae",
    microbatch: int = DECODED_AT_ONCE,
    channels: int | None = None,
    device: torch.device | str = "cpu",
) -> Decoder:
    """Load the decoding half of a VAE.

    Arguments:
        vae: A folder in diffusers' layout, or its file of weights (.safetensors).
        config: Its configuration; by default `config.json` beside the weights.
        sha256: What the SHA-256 of the weights must be; None accepts any.
        dtype: In which it computes, one of `latents.DTYPES`.
        latents: What the latents mean, one of `latents.CONVENTIONS`.
        microbatch: Latents that go through it at once, at least 1; part of the numbers.
        channels: Of the network whose latents are decoded; None is not checked.
        device: Where it goes.

    Raises:
        NetworkError: With every problem at once: the extra is missing; a file is missing, cut
            off, a pickle, of another hash; another architecture; latents of another shape.
    """
    # A file that was fetched by its content may have no end by which to know it.
    named = Path(vae)
    weights, beside = vae_files(named)
    if named.is_file():
        weights, beside = named, named.with_name(CONFIG_FILE)
    config_path = beside if config is None else Path(config)
    refused: list[NetworkError] = []

    def attempt(action: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return action(*arguments, **named)
        except NetworkError as error:
            refused.append(error)
            return None

    attempt(_check_options, dtype, microbatch)
    architectures = attempt(_architectures)
    found = attempt(_digest, weights, sha256)
    plain = attempt(_configuration, config_path)
    meaning = built = None
    kind = KL if plain is None else plain["_class_name"]
    if kind == VQ and dtype in DTYPES[1:]:
        refused.append(_exact(dtype))
    if plain is not None and architectures is not None:
        built = attempt(_built, architectures[kind], plain, config_path)
    if built is not None:
        meant = dict(built.config)
        # What is decoded has the width of the codebook.
        width = meant["latent_channels"] = meant.get("vq_embed_dim") or meant["latent_channels"]
        meaning = attempt(latents_of, latents, meant, where=str(config_path))
        if channels is not None and channels != width:
            refused.append(_misfit(config_path.parent, channels, width))
    if refused:
        hints = dict.fromkeys(error.hint for error in refused)
        problems = [problem for error in refused for problem in error.problems]
        raise NetworkError.of(problems, hint="; ".join(hints))
    assert built is not None and meaning is not None  # else something was refused
    _fill(built, weights, getattr(torch, dtype))
    built.eval().requires_grad_(False).to(device)
    return Decoder(
        vae=built,
        latents=meaning,
        sha256=found,
        # Those of the older kind do not name it: their series are known without.
        architecture=({"kind": kind} if kind != KL else {})
        | {key: _plain(built.config[key]) for key in _ARCHITECTURE[kind]},
        dtype=dtype,
        microbatch=microbatch,
        name=weights.absolute().parent.name,
        path=weights,
    )


def _check_options(dtype: str, microbatch: int) -> None:
    problems = []
    if dtype not in DTYPES:
        problems.append(Problem("decoder: dtype", f"one of {', '.join(DTYPES)}", repr(dtype)))
    if microbatch < 1:
        problems.append(Problem("decoder: microbatch", "at least 1", str(microbatch)))
    if problems:
        raise NetworkError.of(problems, hint=f"float32 and {DECODED_AT_ONCE} are the defaults")


def _exact(dtype: str) -> NetworkError:
    return NetworkError(
        "decoder: dtype",
        expected=f"float32, because a {VQ} looks for the nearest entry of its codebook",
        found=dtype,
        hint="leave `dtype` out",
    )


def _architectures() -> dict[str, Any]:
    """Return diffusers' classes; they are asked for before anything else is done."""
    try:
        # Not at the top: this takes seconds to load, and who makes pixels need not have it.
        diffusers = importlib.import_module("diffusers")
        return {kind: getattr(diffusers, kind) for kind in (KL, VQ)}
    except (ImportError, RuntimeError) as error:
        # The second is what diffusers raises where a package that it uses cannot be loaded.
        missing = isinstance(error, ImportError)
        raise NetworkError(
            "decoder",
            expected="the package diffusers, which knows the VAE's architecture",
            found=" ".join(str(error).split()),
            hint=EXTRA if missing else f"mend the installation: {EXTRA}",
        ) from error


def _digest(path: Path, sha256: str | None) -> str:
    if not path.is_file():
        raise NetworkError(
            str(path),
            expected=f"a VAE's weights: a folder with {WEIGHTS_FILE}, or that file",
            found="a folder" if path.is_dir() else "no such file",
            hint=f"check the path; the hub is not asked, and of a .bin take the {WEIGHTS_FILE}",
        )
    try:
        if is_pickle(path):
            raise NetworkError(
                str(path),
                expected="a safetensors file, which holds no code",
                found="a pickle, which runs code when it is loaded",
                hint=f"take the VAE's {WEIGHTS_FILE}",
            )
        found = file_digest(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if sha256 is not None and found != sha256.lower():
        raise NetworkError(
            f"{path}: sha256",
            expected=sha256,
            found=found,
            hint="fetch the file again, or correct `sha256` if this is the file you mean",
        )
    return found


def _configuration(path: Path) -> dict[str, Any]:
    expected = f"the configuration of an {KL} or a {VQ}, a JSON object"
    hint = "give the configuration that came with the VAE"
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_CONFIG + 1)
    except FileNotFoundError:
        raise NetworkError(str(path), expected=expected, found="no such file", hint=hint) from None
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        if len(text) > _MOST_CONFIG:
            raise ValueError(f"more than {_MOST_CONFIG} bytes")
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NetworkError(str(path), expected=expected, found=str(error), hint=hint) from error
    kind = plain.get("_class_name") if isinstance(plain, dict) else plain
    if kind not in (KL, VQ):
        raise NetworkError(
            f"{path}: _class_name",
            expected=f"{KL} or {VQ}",
            found=repr(kind)[:60],
            hint="only these kinds of VAE are decoded",
        )
    return dict(plain)


def _built(architecture: Any, plain: Mapping[str, Any], path: Path) -> Any:
    """Return the VAE of a configuration, without memory for its weights, without its encoder."""
    known = inspect.signature(architecture.__init__).parameters
    try:
        channels = plain.get("latent_channels", known["latent_channels"].default)
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"latent_channels {channels}")
        for key, value in plain.items():
            layers = value if key == "layers_per_block" else 0
            if layers > _MOST_LAYERS or (isinstance(value, list) and len(value) > _MOST_LEVELS):
                raise ValueError(f"{key} asks for more than any VAE has: {value!r}")
        # Nothing is allocated for what a file claims, and nothing drawn that is replaced.
        with torch.device("meta"):
            vae = architecture(**{key: value for key, value in plain.items() if key in known})
        # Never run, and nearly half of the weights.
        vae.encoder = nn.Identity()
        vae.quant_conv = None
    except _UNSOUND as error:
        raise NetworkError(
            str(path),
            expected=f"the configuration of an {KL} or a {VQ}, as it says",
            found=(str(error).splitlines() or [type(error).__name__])[0][:200],
            hint="give the configuration that came with the VAE",
        ) from error
    return vae


def _fill(vae: Any, path: Path, dtype: torch.dtype) -> None:
    """Give a VAE its weights in the type in which it computes."""
    tensors = read_tensors(path, wanted=lambda name: name.startswith(_HALF))
    refuse_misfit(
        path,
        vae.state_dict(),
        tensors,
        of="with which its configuration decodes",
        hint="the weights belong to another VAE: give the configuration that came with them",
    )
    # Not by the VAE's own `to`, which warns of it.
    vae.load_state_dict({name: t.to(dtype) for name, t in tensors.items()}, assign=True)


def _misfit(where: Path, channels: int, made: int) -> NetworkError:
    return NetworkError(
        f"decoder {where}",
        expected=f"a network that makes latents of {made} channels",
        found=f"one of {channels} channels",
        hint="leave the decoder out, because the network makes pixels"
        if channels in (1, 3)
        else "give the VAE that the network was trained with",
    )


def _unreadable(path: Path, error: OSError) -> NetworkError:
    return NetworkError(
        str(path),
        expected="a readable file",
        found=error.strerror or str(error),
        hint="check the file's permissions",
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
