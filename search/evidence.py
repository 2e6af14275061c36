"""The evidence in `tuned.json`: what was measured, how sure it is, and on which seeds."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from skiptune.search.problems import refusal
from skiptune.search.sections import Section, Sha256

__all__ = ["Measure", "Provenance", "Score", "SeedBlock", "TextModel", "Verdict"]

Interval = Annotated[tuple[float, float], Field(strict=False)]


class TextModel(Section):
    """A model that judged images by their prompts."""

    name: str = Field(min_length=1, description="its architecture, e.g. ViT-L/14")
    sha256: Sha256 = Field(description="64 lower-case hexadecimal digits of its files")


class Measure(Section):
    """What the scores mean."""

    metric: str = Field(min_length=1, description="features, image count and correction")
    better: Literal["lower", "higher"] = Field(
        default="lower", description="which way the metric is better"
    )
    extractor: str = Field(min_length=1, description="the name of the feature extractor")
    extractor_sha256: Sha256 = Field(description="64 lower-case hexadecimal digits")
    reference: str | None = Field(
        default=None, description="the name of the reference statistics, or null without"
    )
    reference_sha256: Sha256 | None = Field(
        default=None, description="64 lower-case hexadecimal digits, or null"
    )
    unit: Literal["image", "prompt"] = Field(
        default="image", description="what standard errors count: image or prompt"
    )
    text_models: dict[str, TextModel] = Field(
        default={},
        description="by metric (clip_score, pick_score): the models that judged images by their"
        " prompts, where the study has any",
    )

    @model_serializer(mode="wrap")
    def _as_earlier_versions_write_it(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        """Leave out what says nothing: files of earlier versions lack it."""
        return self.without_defaults(handler(self), ("unit", "text_models"))


class Score(Section):
    """One measured row."""

    label: str = Field(min_length=1, description="what was measured")
    images: int = Field(ge=1, description="the number of images")
    nfe: float = Field(gt=0, description="network evaluations per image")
    value: float = Field(description="the metric")
    standard_error: float = Field(ge=0, description="the standard error of `value`, at least 0")
    interval: Interval = Field(description="the two ends of the 95 % interval of `value`")
    difference: float | None = Field(
        default=None, description="paired difference to the baseline, negative is better, or null"
    )
    difference_error: float | None = Field(
        default=None, ge=0, description="the standard error of `difference`, or null"
    )

    @field_validator("interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float]) -> tuple[float, float]:
        return _ends(interval)


class Verdict(Section):
    """What was proved on seeds that took no part in choosing."""

    verdict: Literal["win", "no significant gain", "not confirmed"] = Field(
        description="win, no significant gain, or not confirmed"
    )
    gain: float | None = Field(
        default=None, description="percent of the baseline's value, above 0 better"
    )
    interval: Interval | None = Field(
        default=None,
        description="the two ends of the interval of `gain` at level 1 - alpha, percent",
    )
    alpha: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="the level of the two-sided test, above 0 and below 1",
    )

    @field_validator("interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if interval is None else _ends(interval)

    @model_validator(mode="after")
    def _has_evidence(self) -> Self:
        for key in ("gain", "interval", "alpha"):
            if self.verdict == "win" and getattr(self, key) is None:
                raise refusal(f"`{key}`: a win carries its evidence", at=(key,))
        if self.verdict == "win" and self.interval is not None and self.interval[0] <= 0:
            raise refusal("an interval above 0 for a win", at=("interval",))
        return self


class SeedBlock(Section):
    """Consecutive image seeds."""

    first: int = Field(ge=0, lt=2**31, description="the first image seed, below 2**31")
    images: int = Field(ge=1, description="how many seeds")


class Provenance(Section):
    """Where the file came from; nothing here is identity."""

    skiptune: str = Field(description="the version of skiptune")
    created: str = Field(description="when, ISO 8601 in UTC")
    evaluations: int | None = Field(default=None, ge=0, description="schedules tried, or null")
    images: int | None = Field(default=None, ge=0, description="images sampled in all, or null")
    seconds: float | None = Field(default=None, ge=0, description="worker seconds in all, or null")
    device: str | None = Field(default=None, description="the device that sampled, or null")
    versions: dict[str, str] = Field(
        default={}, description="versions of the packages used, by name"
    )


def _ends(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise refusal("the lower end first")
    return interval
