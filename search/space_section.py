"""The section of a study spec that says which scales are searched."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from skiptune.sampling.schedule import BRANCHES, PARTS
from skiptune.sampling.setting import KNOBS
from skiptune.search.document import shown
from skiptune.search.problems import one_of, refusal
from skiptune.search.sections import Section

__all__ = [
    "DECOUPLED",
    "KINDS",
    "NONE",
    "SPACES",
    "SPACE_PARTS",
    "SettingRanges",
    "SpaceSpec",
    "WindowSpec",
]

DECOUPLED = "decoupled"  # the shortcut and the residual branch, each with scales of its own
SPACE_PARTS = (*PARTS, DECOUPLED)
SPACES = ("uniform", "linear", "per-resolution", "per-skip")
NONE = "none"  # no scale at all: `setting` alone is searched
KINDS = (*SPACES, NONE)
ONE_INTERVAL = "one interval for all noise levels: -s space.intervals=1"


class WindowSpec(Section):
    """The grid points at which every scale acts, counted from the noisiest (0)."""

    first: int = Field(ge=0, description="a grid point from 0, the noisiest")
    last: int = Field(ge=0, description="a grid point from `first` to steps - 1")

    @field_validator("last")
    @classmethod
    def _not_before_first(cls, last: int, info: ValidationInfo) -> int:
        first = info.data.get("first")
        if first is not None and last < first:
            raise refusal(f"a grid point from `first` ({first}) to steps - 1")
        return last


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Range = Annotated[tuple[Positive, Positive], Field(strict=False)]


def _range(of: str) -> Any:
    return Field(
        default=None,
        description=f"[LOW, HIGH], two numbers above 0 around the study's own {of}, or null",
    )


class SettingRanges(Section):
    """Numbers of the setting that are searched, on a log scale, each around the study's own."""

    epsilon_scale: Range | None = _range("setting.epsilon_scale")
    exponent: Range | None = _range("setting.exponent")
    sigma_max: Range | None = _range("setting.sigma_max")
    guidance: Range | None = _range("setting.guidance")
    eta: Range | None = _range("setting.eta")
    churn_noise: Range | None = _range("setting.churn.noise")

    @field_validator(*KNOBS)
    @classmethod
    def _from_low_to_high(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and ends[0] >= ends[1]:
            raise refusal("the smaller one first")
        return ends

    @model_serializer(mode="wrap")
    def _those_that_are_searched(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self.without_defaults(handler(self), KNOBS)

    def named(self) -> dict[str, tuple[float, float]]:
        """Return the ranges that are searched, by the names of `sampling.setting.KNOBS`."""
        ranges = {name: getattr(self, name) for name in KNOBS}
        return {name: ends for name, ends in ranges.items() if ends is not None}


class SpaceSpec(Section):
    """Which scales are searched, on a log scale from `low` to `high`."""

    kind: Annotated[str, AfterValidator(one_of(KINDS))] = Field(
        default="per-skip", description=f"one of {', '.join(KINDS)}"
    )
    low: float = Field(
        default=0.5,
        gt=0,
        description="a scale above 0; above 1 the untouched network is not among schedules",
    )
    high: float = Field(
        default=2.0,
        gt=0,
        description="a scale above `low`; below 1 the untouched network is not among schedules",
    )
    skips: Literal["all"] | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = Field(
        default="all", description='"all" or a list of skip addresses, each once'
    )
    window: Literal["search"] | WindowSpec | None = Field(
        default=None, description='null, "search", or {first: GRID POINT, last: GRID POINT}'
    )
    branches: Annotated[str, AfterValidator(one_of(BRANCHES))] = Field(
        default="both", description=f"one of {', '.join(BRANCHES)}: where guidance is scaled"
    )
    part: Annotated[str, AfterValidator(one_of(SPACE_PARTS))] = Field(
        default="both",
        description=f"one of {', '.join(SPACE_PARTS)}: where in its block a skip is scaled",
    )

    intervals: int = Field(
        default=1,
        ge=1,
        description="a whole number from 1 to the number of grid points: noise intervals, each"
        " with scales of its own",
    )
    setting: SettingRanges | None = Field(
        default=None,
        validate_default=True,
        description="a mapping such as {epsilon_scale: [0.98, 1.04]}, or null",
    )

    @model_serializer(mode="wrap")
    def _as_earlier_versions_write_it(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        return self.without_defaults(handler(self), ("branches", "part", "intervals", "setting"))

    @field_validator("intervals")
    @classmethod
    def _or_a_window(cls, intervals: int, info: ValidationInfo) -> int:
        if intervals > 1 and info.data.get("window") == "search":
            raise refusal('1, because space.window is "search"', hint=ONE_INTERVAL)
        return intervals

    @field_validator("setting")
    @classmethod
    def _something_to_search(
        cls, setting: SettingRanges | None, info: ValidationInfo
    ) -> SettingRanges | None:
        ranges = {} if setting is None else setting.named()
        if setting is not None and not ranges:
            raise refusal(f"a range of one of {', '.join(KNOBS)}, or null")
        if info.data.get("kind") == NONE and not ranges:
            raise refusal(f"a range of one of {', '.join(KNOBS)}, because kind none has no scales")
        moving = [name for name in ranges if name in ("exponent", "sigma_max")]
        for key, free in (("window", None), ("intervals", 1)):
            if moving and info.data.get(key, free) != free:
                raise refusal(
                    f"null: space.{key} counts the points of a grid that it would move",
                    at=(moving[0],),
                    hint=ONE_INTERVAL if key == "intervals" else "-s space.window=null",
                )
        return setting

    @field_validator("window", "branches", "part", "intervals")
    @classmethod
    def _of_scales(cls, value: Any, info: ValidationInfo) -> Any:
        default = cls.model_fields[info.field_name or ""].default
        if info.data.get("kind") == NONE and value != default:
            raise refusal(
                f"{shown(default)}: kind none scales no skip",
                hint=f"-s space.{info.field_name}={default if default else 'null'}",
            )
        return value

    @field_validator("high")
    @classmethod
    def _above_low(cls, high: float, info: ValidationInfo) -> float:
        low = info.data.get("low")
        if low is not None and high <= low:
            raise refusal(f"a scale above `low` ({shown(low)})")
        return high

    @field_validator("skips")
    @classmethod
    def _each_once(cls, skips: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not isinstance(skips, str) and len(set(skips)) < len(skips):
            raise refusal('"all" or a list of skip addresses, each once')
        return skips
