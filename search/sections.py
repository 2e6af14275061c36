"""The sections of a study spec: what each key accepts, in types and in words.

A field's description is what a person reads as `expected` when the value is wrong. Ranges that
span two keys are checked at the second one, so that one wrong key hides no other.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from skiptune.errors import SpecError
from skiptune.objectives.names import SECOND_OPINIONS
from skiptune.sampling.pipeline_files import hub_folder
from skiptune.sampling.setting import (
    GRIDS,
    HISTORIES,
    LATER_FIELDS,
    MULTISTEP_SOLVERS,
    NOISES,
    SOLVERS,
    STOCHASTIC_SOLVERS,
    Churn,
    Setting,
    steps_of,
)
from skiptune.search.document import shown
from skiptune.search.problems import one_of, refusal
from skiptune.search.start_names import StartNames
from skiptune.storage.records import CHUNK, Budget

__all__ = [
    "CONTROLS",
    "SAMPLERS",
    "ChurnSpec",
    "ConfirmSpec",
    "FileOrName",
    "SearchSpec",
    "Section",
    "SettingSpec",
    "Sha256",
    "Url",
    "file_or_hub",
    "file_or_name",
    "is_file",
]

# Not Optuna's CmaEsSampler: it keeps a pickled object in the database and loads it again.
SAMPLERS = ("auto", "descent", "moments", "tpe", "random", "gp", "qmc", "nsgaii")
CONTROLS = ("solver", "epsilon scale", "grid exponent")

# Seeds of a study: the search owns 1,000,000 seeds, one confirm 100,000 for its two blocks.
SEARCH_IMAGES = 1_000_000
CONFIRM_IMAGES = 50_000


Url = Annotated[str, Field(pattern=r"^(https?|file)://\S+$")]


class Section(BaseModel):
    """A part of a study spec: immutable, strict about types, no unknown keys, no NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )

    def without_defaults(self, plain: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """Return plain data of this section without those of some keys that are as by default."""
        fields = type(self).model_fields
        usual = {name for name in names if getattr(self, name) == fields[name].default}
        return {name: value for name, value in plain.items() if name not in usual}


def is_file(text: str) -> bool:
    """Return whether a text names a file; bundled things have bare names."""
    return "/" in text or bool(Path(text).suffix)


def file_or_name(text: str, info: ValidationInfo) -> str:
    """Make a file's path absolute: relative ones start at the folder that the context names."""
    if not is_file(text) or "://" in text:
        return text
    folder = (info.context or {}).get(info.field_name, Path.cwd())
    return str((folder / Path(text).expanduser()).absolute())


def file_or_hub(text: str, info: ValidationInfo) -> str:
    """Do the same; of a repository of the hub that is on this host, return its folder."""
    path = file_or_name(text, info)
    if path == text or os.path.lexists(path):
        return path
    return str(hub_folder(text) or path)


def _whole_chunks(images: int) -> int:
    if images % CHUNK:
        raise refusal(f"whole chunks: a multiple of {CHUNK} images")
    return images


Images = Annotated[int, Field(ge=CHUNK), AfterValidator(_whole_chunks)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Sigma = Annotated[float, Field(gt=0)]
Control = Annotated[str, AfterValidator(one_of(CONTROLS))]
FileOrName = Annotated[str, Field(min_length=1), AfterValidator(file_or_name)]

_LATER_CONFIRM_FIELDS = ("second_opinion",)
_LATER_SEARCH_FIELDS = ("warm_start", "patience")


class ChurnSpec(Section):
    """Noise added back on the way by euler and heun (EDM, arXiv 2206.00364, Algorithm 2)."""

    amount: float = Field(default=0.0, ge=0, description="a number of at least 0 (S_churn)")
    low: float = Field(default=0.0, ge=0, description="a sigma of at least 0 (S_tmin)")
    high: float | None = Field(
        default=None,
        ge=0,
        description="a sigma of at least `low` (S_tmax), or null for no upper end",
    )
    noise: float = Field(default=1.0, gt=0, description="a number above 0 (S_noise)")

    @field_validator("high")
    @classmethod
    def _above_low(cls, high: float | None, info: ValidationInfo) -> float | None:
        low = info.data.get("low")
        if high is not None and low is not None and high < low:
            raise refusal(f"a sigma of at least `low` ({shown(low)}), or null for no upper end")
        return high


class SettingSpec(Section):
    """How images are made apart from the schedule: the fields of `sampling.Setting`."""

    solver: Annotated[str, AfterValidator(one_of(SOLVERS))] = Field(
        default="dpmpp_2m", description=f"one of {', '.join(SOLVERS)}"
    )
    steps: int = Field(
        default=6, ge=1, le=1000, description="a whole number of steps from 1 to 1000"
    )
    grid: Annotated[str, AfterValidator(one_of(GRIDS))] = Field(
        default="edm", description=f"one of {', '.join(GRIDS)}"
    )
    sigma_min: float = Field(default=0.002, gt=0, description="a sigma above 0")
    sigma_max: float = Field(default=80.0, gt=0, description="a sigma above `sigma_min`")
    exponent: float = Field(
        default=7.0, gt=0, description="a number above 0 (EDM's rho of the grid)"
    )
    guidance: float = Field(
        default=1.0, ge=0, description="a number of at least 0; 1 is no guidance"
    )
    churn: ChurnSpec = Field(default=ChurnSpec(), description="amount, low, high, noise")
    epsilon_scale: float = Field(default=1.0, gt=0, description="a number above 0; 1 is untouched")
    labels: Literal["random"] | Annotated[int, Field(ge=0)] | None = Field(
        default="random", description='"random", one class from 0, or null for unconditional'
    )
    order: int = Field(default=2, ge=2, le=3, description="2 or 3 (unipc)")
    eta: float = Field(
        default=1.0, ge=0, description="a number of at least 0 (dpmpp_2m_sde); 0 adds no noise"
    )
    final_zero: bool = Field(default=True, description="true, or false to end at `sigma_min`")
    sigmas: Annotated[tuple[Sigma, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None, description="a list of falling sigmas above 0, or null for those of `grid`"
    )
    guidance_low: float = Field(
        default=0.0, ge=0, description="a sigma of at least 0, above which guidance acts"
    )
    guidance_high: float | None = Field(
        default=None,
        gt=0,
        description="a sigma above `guidance_low`, up to which guidance acts, or null for all",
    )
    history: Annotated[str, AfterValidator(one_of(HISTORIES))] = Field(
        default="keep", description=f"one of {', '.join(HISTORIES)}"
    )
    noise: Annotated[str, AfterValidator(one_of(NOISES))] = Field(
        default="edm", description=f"one of {', '.join(NOISES)}"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _with_steps(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Put `steps` in the place of `nfe`, which is not kept, and count them along `sigmas`."""
        if not isinstance(values, Mapping):
            return handler(values)
        given = dict(values)
        nfe = given.pop("nfe", None)
        levels = given.get("sigmas")
        if levels and isinstance(levels, list | tuple) and "steps" not in given:
            given["steps"] = max(len(levels) - (given.get("final_zero") is False), 1)
        if nfe is None:
            return handler(given)
        setting = handler(given)
        for other in ("steps", "sigmas"):
            if values.get(other) is not None:
                raise refusal(f"`nfe` or `{other}`, not both", at=("nfe",))
        if not isinstance(nfe, int) or isinstance(nfe, bool) or nfe < 1:
            raise refusal("a whole number of evaluations per image, at least 1", at=("nfe",))
        try:
            steps = steps_of(nfe, setting.to_setting())
        except SpecError as error:
            raise refusal(error.problems[0].expected, at=("nfe",)) from None
        return handler({**given, "steps": steps})

    @model_serializer(mode="wrap")
    def _as_sampling_writes_it(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is left out of a setting's JSON: studies of earlier versions lack it."""
        return self.without_defaults(handler(self), LATER_FIELDS)

    @field_validator("sigma_max")
    @classmethod
    def _above_min(cls, sigma_max: float, info: ValidationInfo) -> float:
        sigma_min = info.data.get("sigma_min")
        if sigma_min is not None and sigma_max <= sigma_min:
            raise refusal(f"a sigma above `sigma_min` ({shown(sigma_min)})")
        return sigma_max

    @field_validator("churn")
    @classmethod
    def _where_noise_can_be_added(cls, churn: ChurnSpec, info: ValidationInfo) -> ChurnSpec:
        solver = info.data.get("solver", STOCHASTIC_SOLVERS[0])
        if churn.amount > 0 and solver not in STOCHASTIC_SOLVERS:
            able = " and ".join(STOCHASTIC_SOLVERS)
            raise refusal(f"0: only {able} add noise, not {solver}", at=("amount",))
        return churn

    @field_validator("labels")
    @classmethod
    def _a_label_to_guide_to(cls, labels: str | int | None, info: ValidationInfo) -> Any:
        if labels is None and info.data.get("guidance", 1.0) != 1:
            raise refusal('"random" or one class from 0, because guidance is asked for')
        return labels

    @field_validator("order")
    @classmethod
    def _of_unipc(cls, order: int, info: ValidationInfo) -> int:
        solver = info.data.get("solver", "unipc")
        if order != 2 and solver != "unipc":
            raise refusal(f"2: only unipc has an order to choose, not {solver}")
        return order

    @field_validator("eta")
    @classmethod
    def _of_the_sde(cls, eta: float, info: ValidationInfo) -> float:
        solver = info.data.get("solver", "dpmpp_2m_sde")
        if eta != 1 and solver != "dpmpp_2m_sde":
            raise refusal(f"1: only dpmpp_2m_sde has an eta to choose, not {solver}")
        return eta

    @field_validator("sigmas")
    @classmethod
    def _falling_and_counted(
        cls, sigmas: tuple[float, ...] | None, info: ValidationInfo
    ) -> tuple[float, ...] | None:
        if sigmas is None:
            return None
        for place, (higher, lower) in enumerate(itertools.pairwise(sigmas), start=1):
            if lower >= higher:
                raise refusal(f"a sigma below the one before ({shown(higher)})", at=(place,))
        for name in ("grid", "sigma_min", "sigma_max", "exponent"):
            default = cls.model_fields[name].default
            value = info.data.get(name, default)
            if value != default:
                raise refusal(f"null, because {name} {shown(value)} asks for a grid")
        to_zero = info.data.get("final_zero", True)
        steps = info.data.get("steps", len(sigmas) - (not to_zero))
        if len(sigmas) - (not to_zero) != steps or steps < 1:
            most = f"{steps + (not to_zero)} sigmas for {steps} step{'s' if steps > 1 else ''}"
            raise refusal(f"{most}{'' if to_zero else ' without the one to 0'}")
        return sigmas

    @field_validator("guidance_low")
    @classmethod
    def _of_guidance(cls, low: float, info: ValidationInfo) -> float:
        if low != 0 and info.data.get("guidance") == 1:
            raise refusal("0: without guidance (1) it acts nowhere")
        return low

    @field_validator("guidance_high")
    @classmethod
    def _above_guidance_low(cls, high: float | None, info: ValidationInfo) -> float | None:
        if high is not None and info.data.get("guidance") == 1:
            raise refusal("null: without guidance (1) it acts nowhere")
        low = info.data.get("guidance_low")
        if high is not None and low is not None and high <= low:
            raise refusal(f"a sigma above `guidance_low` ({shown(low)}), or null for all")
        return high

    @field_validator("history")
    @classmethod
    def _of_multistep_solvers(cls, history: str, info: ValidationInfo) -> str:
        solver = info.data.get("solver", MULTISTEP_SOLVERS[0])
        if history != "keep" and solver not in MULTISTEP_SOLVERS:
            raise refusal(f"keep: {solver} looks back at no earlier estimate")
        return history

    def to_setting(self) -> Setting:
        """Return the setting that sampling understands.

        Raises:
            SpecError: When the parts do not go together.
        """
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        churn = self.churn.model_dump(exclude_none=True)
        high = math.inf if self.guidance_high is None else self.guidance_high
        return Setting(**{**fields, "churn": Churn(**churn), "guidance_high": high})


class SearchSpec(Section):
    """How schedules are proposed and how many images each one gets."""

    sampler: Annotated[str, AfterValidator(one_of(SAMPLERS))] = Field(
        default="auto", description=f"one of {', '.join(SAMPLERS)}"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="a whole number from 0 to 2**32 - 1")
    evaluations: int = Field(default=40, ge=1, description="a whole number of at least 1")
    images: int | None = Field(
        default=None,
        ge=CHUNK,
        description="images that all rungs may ask for, at least the baseline's, or null",
    )
    seconds: float | None = Field(
        default=None, gt=0, description="seconds of sampling, all workers together, or null"
    )
    rungs: Annotated[tuple[Images, ...], Field(strict=False, min_length=1)] = Field(
        default=(500, 2000, 8000),
        description=f"a list of increasing image counts, each a multiple of {CHUNK}",
    )
    promote: float = Field(
        default=1 / 3,
        gt=0,
        le=1,
        description="the part of a rung whose rivals go on, above 0 and at most 1",
    )
    warm_start: StartNames | None = Field(
        default=None,
        description="a study of the same database, the path of a tuned.json or start.json, a list"
        " of them, each once, or null",
    )
    patience: Literal["auto"] | Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="null, a whole number of schedules without an improvement of at least 1, or"
        " auto: what moments or descent expect to gain",
    )

    @field_validator("patience")
    @classmethod
    def _of_what_can_expect(cls, patience: Any, info: ValidationInfo) -> Any:
        sampler = info.data.get("sampler", "auto")
        if patience == "auto" and sampler not in ("auto", "moments", "descent"):
            raise refusal(f"null or a whole number of at least 1: {sampler} expects no gain")
        return patience

    @model_serializer(mode="wrap")
    def _as_earlier_versions_write_it(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        return self.without_defaults(handler(self), _LATER_SEARCH_FIELDS)

    @field_validator("rungs")
    @classmethod
    def _increasing(cls, rungs: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        for index, (lower, higher) in enumerate(itertools.pairwise(rungs), start=1):
            if higher <= lower:
                raise refusal(f"more images than the rung before ({lower})", at=(index,))
        if rungs[-1] > SEARCH_IMAGES:
            raise refusal(f"at most {SEARCH_IMAGES:,} images", at=(len(rungs) - 1,))
        most = info.data.get("images")
        if most is not None and rungs[-1] + rungs[0] > most:
            raise refusal(
                f"rungs within search.images ({most:,}): the baseline takes the last one, a"
                " schedule the first",
                at=(len(rungs) - 1,),
            )
        return rungs

    def to_budget(self) -> Budget:
        """Return what the database is told that the search may spend."""
        return Budget(evaluations=self.evaluations, images=self.images, seconds=self.seconds)


class ConfirmSpec(Section):
    """How the winner is proved on seeds that no decision has seen."""

    candidates: int = Field(default=4, ge=1, description="a whole number of at least 1")
    images: Annotated[Images, Field(le=CONFIRM_IMAGES)] = Field(
        default=2000,
        description=f"images of each of the two blocks: a multiple of {CHUNK}, "
        f"at most {CONFIRM_IMAGES}",
    )
    alpha: float = Field(default=0.05, gt=0, lt=1, description="a level above 0 and below 1")
    min_gain: float = Field(
        default=0.01, ge=0, lt=1, description="a part from 0 to below 1 (0.01 is 1 %)"
    )
    controls: bool | Annotated[tuple[Control, ...], Field(strict=False, min_length=1)] = Field(
        default=True, description=f"true, false, or a list of {', '.join(CONTROLS)}"
    )
    second_opinion: Annotated[str, AfterValidator(one_of(SECOND_OPINIONS))] | None = Field(
        default=None, description=f"one of {', '.join(SECOND_OPINIONS)}, or null"
    )

    @model_serializer(mode="wrap")
    def _as_earlier_versions_wrote_it(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        return self.without_defaults(handler(self), _LATER_CONFIRM_FIELDS)

    @field_validator("controls")
    @classmethod
    def _each_family_once(cls, controls: bool | tuple[str, ...]) -> bool | tuple[str, ...]:
        if not isinstance(controls, bool) and len(set(controls)) < len(controls):
            raise refusal(f"a list of {', '.join(CONTROLS)}, each once")
        return controls

    @property
    def families(self) -> tuple[str, ...]:
        """The control families that are measured, in the order of `CONTROLS`."""
        if isinstance(self.controls, bool):
            return CONTROLS if self.controls else ()
        return tuple(family for family in CONTROLS if family in self.controls)
