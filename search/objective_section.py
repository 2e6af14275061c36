"""The section `objective` of a study spec: metrics, what they are held against, constraints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from skiptune.objectives.catalogue import ALIASES, CATALOGUE, resolved
from skiptune.objectives.names import (
    EXPORTED,
    EXTRACTORS,
    REFERENCES,
    joint_name,
    known_extractors,
    parts_of,
)
from skiptune.sampling.setting import SOLVERS
from skiptune.search.constraints import Constraint, parsed_constraint
from skiptune.search.problems import one_of, refusal, suggestion
from skiptune.search.sections import (
    FileOrName,
    Section,
    Sha256,
    Url,
    file_or_hub,
    is_file,
)
from skiptune.storage.records import FIRST_BESIDE, FIRST_CONSTRAINT

__all__ = ["LEAST_SHARE", "METRICS", "Item", "ObjectiveSpec", "TeacherSpec"]

METRICS = tuple(CATALOGUE)

LEAST_SHARE = 0.9
"""Least part of the baseline's value that constraints beside a preference score must keep."""

# What keeps a preference score honest: one of each row, by what a study file would say.
_GUARDS = {
    "clip_score >= 0.99 x baseline": ("clip_score",),
    "diversity >= 0.95 x baseline": ("diversity", "recall", "coverage"),
}
_LATER_FIELDS = ("clip_model", "pick_model")

DIRECTIONS = ("minimize", "maximize")
NATURAL = {"lower": "minimize", "higher": "maximize"}


def _known_extractor(text: str) -> str:
    # Asked at each reading: a program may have registered its own meanwhile.
    known = one_of(known_extractors())
    if "+" not in text:
        return known(text)
    try:
        parts = parts_of(text)
    except ValueError as error:
        raise refusal(str(error)) from None
    for part, _ in parts:
        known(part)
        if part == EXPORTED:
            raise refusal(f"{EXPORTED} alone: it takes the study's `weights`")
    return joint_name(parts)


def _known_reference(text: str) -> str:
    if not is_file(text) and text not in REFERENCES:
        known = ", ".join(REFERENCES)
        raise refusal(f"{known} or the path of a file{suggestion(text, REFERENCES)}")
    return text


def _model_folder(text: str, info: ValidationInfo) -> str:
    """Return the folder of a model; of one of the hub that is on this host, its folder there."""
    if not is_file(text) or "://" in text:
        raise refusal("the path of a folder, e.g. ./clip, or OWNER/NAME of the hub")
    return file_or_hub(text, info)


Model = Annotated[str, Field(min_length=1), AfterValidator(_model_folder)]


# A teacher is where the same noise leads: nothing may be drawn on the way.
TEACHERS = tuple(solver for solver in SOLVERS if not solver.endswith("_sde"))


class TeacherSpec(Section):
    """How the images are made that `teacher_loss` compares with; the rest is as in `setting`."""

    solver: Annotated[str, AfterValidator(one_of(TEACHERS))] = Field(
        default="heun", description=f"one of {', '.join(TEACHERS)}"
    )
    steps: int = Field(
        default=50, ge=1, le=1000, description="a whole number of steps from 1 to 1000"
    )


Metrics = Annotated[tuple[str, ...], Field(strict=False)]


def _metrics(names: tuple[str, ...], *, single: bool = False) -> tuple[str, ...]:
    """Refuse what is no metric, and one that is named twice, also in both directions."""
    seen: dict[str, str] = {}
    for place, text in enumerate(names):
        at = () if single else (place,)
        direction, _, name = text.rpartition(" ")
        key, _ = resolved(name)
        if key not in CATALOGUE or direction not in ("", *DIRECTIONS):
            known = (*CATALOGUE, *ALIASES)
            raise refusal(
                f"one of {', '.join(known)}, or fd:EXTRACTOR{suggestion(name, known)}",
                at=at,
            )
        if key in seen:
            both = {seen[key], direction} == set(DIRECTIONS)
            how = "in one direction" if both else "once"
            raise refusal(f"each metric {how} (`{key}` stands here twice)", at=at)
        natural = NATURAL[CATALOGUE[key].better]
        if direction not in ("", natural):
            raise refusal(f"`{natural} {name}`: {CATALOGUE[key].better} is better", at=at)
        seen[key] = direction
    return names


@dataclass(frozen=True)
class Item:
    """One thing that is measured, by place: 0 is what the search decides on.

    Arguments:
        place: What for, see `storage.records.FIRST_CONSTRAINT`.
        key: The metric, of `CATALOGUE`.
        constraint: The limit that it must keep, at the places of constraints.
    """

    place: int
    key: str
    constraint: Constraint | None = None


class ObjectiveSpec(Section):
    """What is measured."""

    metric: Annotated[
        str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)],
        AfterValidator(lambda given: given if isinstance(given, str) else _metrics(given)),
    ] = Field(
        default="fd",
        description=f"one of {', '.join((*CATALOGUE, *ALIASES))}, fd:EXTRACTOR, or a list of them",
    )
    extractor: str | None = Field(
        default=None,
        validate_default=True,
        description=f"one of {', '.join(EXTRACTORS)}, or several joined as NAME+NAME:FACTOR",
    )
    weights: FileOrName | None = Field(
        default=None, description="the path of the extractor's weights, or null for its own"
    )
    weights_sha256: Sha256 | None = Field(
        default=None,
        description="64 lower-case hexadecimal digits of weights of your own, or null for the"
        " published ones",
    )
    weights_url: Url | None = Field(
        default=None, description="where a worker without the weights gets them, or null"
    )
    reference: Annotated[FileOrName, AfterValidator(_known_reference)] | None = Field(
        default=None,
        validate_default=True,
        description="`fashion-train` (bundled) or the path of reference statistics",
    )
    reference_url: Url | None = Field(
        default=None, description="where a worker without the statistics gets them, or null"
    )
    images: FileOrName | None = Field(
        default=None,
        validate_default=True,
        description="`fashion-test` (bundled) or the path of held-out real images (.npz, .zip), "
        "for feature_loss and pixel_loss",
    )
    images_url: Url | None = Field(
        default=None, description="where a worker without the images gets them, or null"
    )
    teacher: TeacherSpec = Field(
        default=TeacherSpec(), description="a mapping with `solver` and `steps`"
    )
    projection: int | None = Field(
        default=None,
        ge=2,
        description="principal dimensions in which fd is taken at the first rung, or null",
    )
    clip_model: Model | None = Field(
        default=None,
        description="the folder of a CLIP model with its processor, or OWNER/NAME of one of the"
        " hub that is on this host, for clip_score",
    )
    pick_model: Model | None = Field(
        default=None,
        description="the same of yuvalkirstain/PickScore_v1, for pick_score",
    )
    beside: Annotated[Metrics, AfterValidator(_metrics)] = Field(
        default=(), description="a list of metrics that are measured and reported as well"
    )
    constraints: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="a list such as `recall >= 0.95 x baseline` or `nfe <= 9`",
    )

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, given: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(given, str):
            _metrics((given,), single=True)
        return given

    @field_validator("extractor")
    @classmethod
    def _the_metrics_extractor(cls, given: str | None, info: ValidationInfo) -> str:
        named = {
            extractor for _, extractor in map(resolved, _names(info.data.get("metric", "fd")))
        }
        demanded = sorted(extractor for extractor in named if extractor is not None)
        if len({*demanded, *([given] if given else [])}) > 1:
            raise refusal(f"{demanded[0]}, which the metric names, or nothing")
        extractor = given or (demanded[0] if demanded else None)
        if extractor is None:
            raise refusal(f"one of {', '.join(known_extractors())}")
        return _known_extractor(extractor)

    @field_validator("reference")
    @classmethod
    def _what_the_metrics_need(cls, given: str | None, info: ValidationInfo) -> str | None:
        keys = [resolved(name)[0] for name in _names(info.data.get("metric", "fd"))]
        if given is None and any(CATALOGUE[key].reference for key in keys if key in CATALOGUE):
            raise refusal(f"{', '.join(REFERENCES)} or the path of reference statistics")
        return given

    @field_validator("images")
    @classmethod
    def _images_for_losses(cls, given: str | None, info: ValidationInfo) -> str | None:
        keys = [resolved(name)[0] for name in _names(info.data.get("metric", "fd"))]
        if given is None and any(CATALOGUE[key].real_images for key in keys if key in CATALOGUE):
            raise refusal("`fashion-test` or the path of held-out real images")
        return given

    @field_validator("clip_model", "pick_model")
    @classmethod
    def _that_reads_prompts(cls, given: str | None, info: ValidationInfo) -> str | None:
        keys = [resolved(name)[0] for name in _names(info.data.get("metric", "fd"))]
        needed = [CATALOGUE[key].model for key in keys if key in CATALOGUE]
        name = str(info.field_name)
        if given is None and name in needed:
            raise refusal(cls.model_fields[name].description or "a folder")
        return given

    @model_serializer(mode="wrap")
    def _as_earlier_versions_wrote_it(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        return self.without_defaults(handler(self), _LATER_FIELDS)

    @field_validator("beside")
    @classmethod
    def _not_optimised(cls, given: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        keys = {resolved(name)[0] for name in _names(info.data.get("metric", "fd"))}
        for place, name in enumerate(given):
            key, extractor = resolved(name)
            if key in keys:
                raise refusal("a metric that is not optimised anyway", at=(place,))
            _check_needs(key, extractor, info, at=(place,))
        return given

    @field_validator("constraints")
    @classmethod
    def _that_can_be_read(cls, given: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        seen: set[Constraint] = set()
        for place, text in enumerate(given):
            try:
                constraint = parsed_constraint(text)
            except ValueError as error:
                raise refusal(str(error), at=(place,)) from None
            _check_needs(constraint.key, None, info, at=(place,))
            if constraint in seen:
                raise refusal("each constraint once", at=(place,))
            seen.add(constraint)
        keys = {resolved(name)[0] for name in _names(info.data.get("metric", "fd"))}
        if "pick_score" in keys:
            _check_guards(given, seen)
        return given

    @property
    def keys(self) -> tuple[str, ...]:
        """What is optimised: keys of `CATALOGUE`."""
        return tuple(resolved(name)[0] for name in _names(self.metric))

    @property
    def samples(self) -> bool:
        """Whether images are sampled at all: denoising losses alone need none."""
        return any(not CATALOGUE[item.key].real_images for item in self.items)

    @property
    def text_keys(self) -> tuple[str, ...]:
        """The metrics that compare images with their prompts, each once."""
        keys = (item.key for item in self.items)
        return tuple(dict.fromkeys(key for key in keys if CATALOGUE[key].model))

    @property
    def needs_teacher(self) -> bool:
        """Whether images of many steps are compared with."""
        return any(CATALOGUE[item.key].teacher for item in self.items)

    @property
    def items(self) -> tuple[Item, ...]:
        """Everything that is measured, by place."""
        limits = map(parsed_constraint, self.constraints)
        beside = (resolved(name)[0] for name in self.beside)
        return (
            *(Item(place, key) for place, key in enumerate(self.keys)),
            *(Item(place, c.key, c) for place, c in enumerate(limits, start=FIRST_CONSTRAINT)),
            *(Item(place, key) for place, key in enumerate(beside, start=FIRST_BESIDE)),
        )


def _names(metric: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the metrics without their directions."""
    given = (metric,) if isinstance(metric, str) else metric
    return tuple(name.rpartition(" ")[2] for name in given)


def _check_needs(
    key: str, extractor: str | None, info: ValidationInfo, *, at: tuple[int, ...]
) -> None:
    """Refuse a further metric for which the objective names too little."""
    entry = CATALOGUE[key]
    if extractor is not None and extractor != info.data.get("extractor", extractor):
        raise refusal("a metric of the study's own extractor", at=at)
    if entry.reference and "reference" in info.data and info.data["reference"] is None:
        raise refusal(f"`objective.reference` for {key}", at=at)
    if entry.model and entry.model in info.data and info.data[entry.model] is None:
        raise refusal(f"`objective.{entry.model}` for {key}", at=at)
    if entry.real_images and "images" in info.data and info.data["images"] is None:
        raise refusal(f"`objective.images` for {key}", at=at)


def _check_guards(given: tuple[str, ...], constraints: set[Constraint]) -> None:
    """Refuse a preference score that may be paid for with what it does not see.

    Images that people prefer one by one may match their prompts less, or be the same again and
    again (Goodhart's law: what is optimised stops being a measure).
    """
    kept = {c.key for c in constraints if c.relative and c.at_least and c.limit >= LEAST_SHARE}
    lines = [line for line, keys in _GUARDS.items() if not kept.intersection(keys)]
    if lines:
        whole = ", ".join(f'"{line}"' for line in (*given, *lines))
        raise refusal(
            "limits on clip_score and on diversity, recall or coverage beside pick_score, each of"
            f" at least {LEAST_SHARE:g} x baseline: " + " and ".join(map(repr, lines)),
            hint=f"write `constraints: [{whole}]` in `objective`, with `clip_model` for them",
        )
