"""The network in `tuned.json`: what the scales belong to, and what made its images."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from skiptune.sampling.latents import CONVENTIONS, DTYPES
from skiptune.search.problems import one_of
from skiptune.search.sections import Section, Sha256

__all__ = ["TunedDecoder", "TunedNetwork", "TunedPrompts"]


class TunedDecoder(Section):
    """The VAE that made the images of the network's latents."""

    name: str = Field(min_length=1, description="the name of its folder")
    sha256: Sha256 = Field(description="64 lower-case hexadecimal digits of its weights")
    dtype: Annotated[str, AfterValidator(one_of(DTYPES))] = Field(
        description=f"one of {', '.join(DTYPES)}"
    )
    latents: Annotated[str, AfterValidator(one_of(CONVENTIONS))] = Field(
        description=f"one of {', '.join(CONVENTIONS)}"
    )
    microbatch: int = Field(ge=1, description="latents decoded at once, at least 1")
    identity: Sha256 = Field(description="the hash of all that decides about its images")


class TunedPrompts(Section):
    """What the network was told."""

    name: str = Field(min_length=1, description="the name of their file")
    sha256: Sha256 = Field(description="64 lower-case hexadecimal digits of its lines")
    identity: Sha256 = Field(description="the hash of all that decides about what it was told")


class TunedNetwork(Section):
    """The network that the scales belong to."""

    name: str = Field(min_length=1, description="the name of the checkpoint")
    sha256: Sha256 = Field(description="64 lower-case hexadecimal digits of the checkpoint file")
    dtype: Annotated[str, AfterValidator(one_of(DTYPES))] = Field(
        default="float32", description=f"one of {', '.join(DTYPES)}: in which it computed"
    )
    decoder: TunedDecoder | None = Field(
        default=None, description="a mapping with `name`, `sha256`, ..., or null for pixels"
    )

    prompts: TunedPrompts | None = Field(
        default=None, description="a mapping with `name`, `sha256`, ..., or null for no text"
    )

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing: files of earlier versions lack it."""
        return self.without_defaults(handler(self), ("dtype", "decoder", "prompts"))
