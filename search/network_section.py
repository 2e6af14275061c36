"""The section of a study's network: its checkpoint, its decoder and its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from skiptune.errors import NetworkError
from skiptune.sampling.latents import CONVENTIONS, DECODED_AT_ONCE, DTYPES, vae_files
from skiptune.sampling.options import config_of
from skiptune.sampling.pipeline_files import vae_folder
from skiptune.search.problems import one_of, refusal
from skiptune.search.sections import FileOrName, Section, Sha256, Url, file_or_hub

__all__ = ["DecoderSpec", "NetworkSpec"]

_LATER_NETWORK_FIELDS = ("pickle_url", "options", "dtype", "decoder", "prompts", "prompts_url")

_OPTIONS = "docs/networks.md shows the options of every family"


def _weights_path(text: str, info: ValidationInfo) -> str:
    """Return where the weights of a VAE are, given their folder or themselves."""
    folder = (info.context or {}).get(info.field_name, Path.cwd())
    return str(vae_files((folder / Path(text).expanduser()).absolute())[0])


class DecoderSpec(Section):
    """The VAE that makes images of a network's latents."""

    vae: Annotated[str, Field(min_length=1), AfterValidator(_weights_path)] = Field(
        description="the path of a VAE's folder in diffusers' layout, or of its .safetensors file"
    )
    config: FileOrName | None = Field(
        default=None, description="the path of its configuration, or null: config.json beside it"
    )
    sha256: Sha256 | None = Field(
        default=None, description="64 lower-case hexadecimal digits of the weights, or null"
    )
    url: Url | None = Field(
        default=None, description="where a worker without the weights gets them, or null"
    )
    config_url: Url | None = Field(
        default=None, description="where a worker without the configuration gets it, or null"
    )
    dtype: Annotated[str, AfterValidator(one_of(DTYPES))] = Field(
        default="float32", description=f"one of {', '.join(DTYPES)}"
    )
    latents: Annotated[str, AfterValidator(one_of(CONVENTIONS))] | None = Field(
        default=None,
        description=f"one of {', '.join(CONVENTIONS)}, or null: edm2 for EDM2's, else vae",
    )
    microbatch: int = Field(
        default=DECODED_AT_ONCE, ge=1, description="latents decoded at once, at least 1"
    )

    @field_validator("config")
    @classmethod
    def _beside_the_weights(cls, config: str | None, info: ValidationInfo) -> str | None:
        if config is None and "vae" in info.data:
            return str(vae_files(info.data["vae"])[1])
        return config


class NetworkSpec(Section):
    """Which network is tuned."""

    checkpoint: Annotated[str, Field(min_length=1), AfterValidator(file_or_hub)] = Field(
        description="`fashion` (bundled), the path of a .safetensors checkpoint, or that of a"
        " pipeline's folder (diffusers)"
    )
    sha256: Sha256 | None = Field(
        default=None, description="64 lower-case hexadecimal digits of the checkpoint, or null"
    )
    url: Url | None = Field(
        default=None, description="where a worker without the file gets it (https, http), or null"
    )
    pickle_url: Url | None = Field(
        default=None,
        description="where `skiptune fetch` gets the pickle of EDM or EDM2, or the file of tensors"
        " (.pt, .ckpt) with `options`, that it converts into `checkpoint`, or null",
    )
    options: dict[str, Any] | None = Field(
        default=None,
        description="a mapping: what the file of tensors at `pickle_url` was trained with, in the"
        " words of the code that trained it, or null",
    )
    dtype: Annotated[str, AfterValidator(one_of(DTYPES))] = Field(
        default="float32",
        description=f"one of {', '.join(DTYPES)}: in which the network computes",
    )
    decoder: DecoderSpec | None = Field(
        default=None,
        description="a mapping with `vae`, `dtype`, ..., or null for pixels or a pipeline's own",
    )

    prompts: FileOrName | None = Field(
        default=None,
        description="the path of a text file with one prompt per line, or null: no text",
    )
    prompts_url: Url | None = Field(
        default=None, description="where a worker without the prompts gets them, or null"
    )

    @field_validator("options")
    @classmethod
    def _describe_a_network(
        cls, options: dict[str, Any] | None, info: ValidationInfo
    ) -> dict[str, Any] | None:
        """Refuse options of no network before anything is downloaded for them."""
        if options is None:
            return None
        if info.data.get("pickle_url") is None:
            raise refusal("null where `pickle_url` brings no file that they are the options of")
        try:
            config_of(options, where="network.options")
        except NetworkError as error:
            problem = error.problems[0]
            raise refusal(f"{problem.expected}, not with {problem.found}", hint=_OPTIONS) from None
        return options

    @field_validator("decoder")
    @classmethod
    def _of_the_pipeline(
        cls, decoder: DecoderSpec | None, info: ValidationInfo
    ) -> DecoderSpec | None:
        """Take the VAE that lies in the pipeline where none is named."""
        checkpoint = info.data.get("checkpoint")
        vae = None if decoder is not None or checkpoint is None else vae_folder(checkpoint)
        return decoder if vae is None else DecoderSpec(vae=str(vae))

    @model_serializer(mode="wrap")
    def _without_later_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later fields that say nothing: studies of earlier versions lack them."""
        plain: dict[str, Any] = handler(self)
        for name in _LATER_NETWORK_FIELDS:
            if getattr(self, name) == type(self).model_fields[name].default:
                plain.pop(name, None)
        return plain
