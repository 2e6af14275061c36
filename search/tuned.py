"""`tuned.json`: what a study found, in a form that other software runs, with its evidence.

The file holds one row per skip of the network (also the untouched ones), the setting the scales
were tuned at, the verdict with its interval, the seeds behind it and where it came from. It is
bound to its network: the checkpoint's hash and every skip's address and channels. The schedule's
hash stands beside the rows, because evidence for one schedule says nothing about an edited one.
`tuned.schema.json` is its JSON Schema (of `Tuned`, a test keeps them equal).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from skiptune.errors import NetworkError, Problem, SpecError
from skiptune.sampling.schedule import BRANCHES, PARTS, Schedule, Term
from skiptune.sampling.setting import KNOBS
from skiptune.search.evidence import Measure, Provenance, Score, SeedBlock, Verdict
from skiptune.search.json_file import check_format, model_of, read_json
from skiptune.search.output import write_whole
from skiptune.search.problems import one_of, refusal
from skiptune.search.sections import Section, SettingSpec, Sha256
from skiptune.search.tuned_network import TunedNetwork

if TYPE_CHECKING:
    import torch

    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.sampling.hooks import Handle
    from skiptune.sampling.skips import Skip

__all__ = [
    "FORMAT",
    "SCHEMA_VERSION",
    "Measure",
    "Provenance",
    "Score",
    "SeedBlock",
    "Tuned",
    "TunedNetwork",
    "TunedPart",
    "TunedSkip",
    "TunedWindow",
    "Verdict",
    "json_schema",
    "load",
]

FORMAT = "skiptune.tuned"
SCHEMA_VERSION = 1

EXPORT = "export it again with `skiptune export STUDY -o tuned.json`"

Scale = Annotated[float, Field(ge=0, description="a factor of at least 0; 1 is untouched")]


class TunedWindow(Section):
    """Noise levels low <= sigma < high at which a skip has a scale of its own."""

    low: float = Field(ge=0, description="a sigma of at least 0")
    high: float | None = Field(description="a sigma above `low`, or null for no upper end")
    scale: Scale


Windows = Annotated[tuple[TunedWindow, ...], Field(strict=False)]
WINDOWS = Field(default=(), description="noise levels with another scale; `scale` must then be 1")


def _either_or(windows: tuple[TunedWindow, ...], info: ValidationInfo) -> tuple[TunedWindow, ...]:
    if windows and info.data.get("scale", 1.0) != 1:
        raise refusal("no windows where `scale` is not 1")
    return windows


class TunedPart(Section):
    """One part of a skip's block and what it is multiplied by."""

    part: Annotated[str, AfterValidator(one_of(PARTS[1:]))] = Field(
        description=f"one of {', '.join(PARTS[1:])}"
    )
    scale: Scale
    windows: Windows = WINDOWS

    _checked = field_validator("windows")(_either_or)


class TunedSkip(Section):
    """One skip and what it is multiplied by."""

    address: str = Field(
        min_length=1, description="the decoder block that receives the skip, e.g. 16x16_block0"
    )
    index: int = Field(ge=0, description="the place of the skip, 0 is the deepest")
    resolution: int = Field(ge=1, description="height and width of the skip's feature map")
    main_channels: int = Field(ge=1, description="channels of the main path")
    skip_channels: int = Field(ge=1, description="channels of the skip: the last of the block's")
    scale: Scale
    windows: Windows = WINDOWS
    parts: Annotated[tuple[TunedPart, ...], Field(strict=False)] = Field(
        default=(), description="parts of the block with scales of their own, each once"
    )

    _checked = field_validator("windows")(_either_or)

    @model_serializer(mode="wrap")
    def _as_earlier_versions_write_it(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        return self.without_defaults(handler(self), ("parts",))

    @field_validator("parts")
    @classmethod
    def _each_part_once(cls, parts: tuple[TunedPart, ...]) -> tuple[TunedPart, ...]:
        if len({one.part for one in parts}) < len(parts):
            raise refusal("each part once")
        return parts

    def terms(self) -> list[Term]:
        """Return the terms of the schedule that this row stands for."""
        own = _terms(self.address, self.scale, self.windows, "both")
        return own + [
            term
            for one in self.parts
            for term in _terms(self.address, one.scale, one.windows, one.part)
        ]


class Tuned(Section):
    """Tuned skip scales with their evidence; `schedule`, `apply` and `write` act on them."""

    format: Literal["skiptune.tuned"] = Field(default="skiptune.tuned", description=FORMAT)
    schema_version: Literal[1] = Field(default=1, description=f"{SCHEMA_VERSION}")
    study: str = Field(min_length=1, description="the name of the study")
    network: TunedNetwork = Field(description="a mapping with `name` and `sha256`")
    setting: SettingSpec = Field(description="the setting that the scales were tuned at")
    untouched_setting: SettingSpec | None = Field(
        default=None,
        description="the untouched network's setting, or null where no number of it was tuned",
    )
    skips: Annotated[tuple[TunedSkip, ...], Field(strict=False, min_length=1)] = Field(
        description="every skip of the network, once, deepest first"
    )
    branches: Annotated[str, AfterValidator(one_of(BRANCHES))] = Field(
        default="both",
        description=f"one of {', '.join(BRANCHES)}: the evaluations of guidance that are scaled",
    )
    schedule_sha256: Sha256 = Field(description="the hash of the schedule that the rows stand for")
    verdict: Verdict = Field(description="a mapping with `verdict`, `gain`, `interval`, `alpha`")
    measure: Measure = Field(description="a mapping with `metric`, `extractor`, `reference`, ...")
    baseline: Score = Field(description="the score of the untouched network")
    tuned: Score = Field(description="the score of these scales on the same seeds")
    controls: Annotated[tuple[Score, ...], Field(strict=False)] = Field(
        default=(), description="scores of what is not skips, on the same seeds"
    )
    seeds: dict[str, SeedBlock] = Field(description="image seeds by what they were used for")
    microbatch: int | None = Field(
        default=None, ge=1, description="images per evaluation of the network, or null"
    )
    provenance: Provenance = Field(description="a mapping with `skiptune` and `created`")

    @field_validator("skips")
    @classmethod
    def _every_skip_once(cls, skips: tuple[TunedSkip, ...]) -> tuple[TunedSkip, ...]:
        seen: set[str] = set()
        for place, skip in enumerate(skips):
            if skip.index != place:
                raise refusal(f"{place}: every skip once, deepest first", at=(place, "index"))
            if skip.address in seen:
                raise refusal("an address that stands here once", at=(place, "address"))
            seen.add(skip.address)
            try:
                Schedule(skip.terms())
            except SpecError as error:
                raise refusal(error.problems[0].expected, at=(place, "windows")) from None
        return skips

    @model_serializer(mode="wrap")
    def _as_earlier_versions_write_it(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        return self.without_defaults(
            handler(self), ("branches", "untouched_setting", "microbatch")
        )

    @field_validator("branches")
    @classmethod
    def _of_guidance(cls, branches: str, info: ValidationInfo) -> str:
        setting, skips = info.data.get("setting"), info.data.get("skips")
        if branches != "both" and setting is not None and setting.guidance == 1:
            raise refusal("both: without guidance (setting.guidance is 1) no branch is apart")
        if branches != "both" and skips is not None and _schedule(skips, "both").is_baseline:
            raise refusal("both: no skip is scaled")
        return branches

    @field_validator("schedule_sha256")
    @classmethod
    def _of_these_rows(cls, sha256: str, info: ValidationInfo) -> str:
        skips, branches = info.data.get("skips"), info.data.get("branches")
        if skips is None or branches is None:
            return sha256
        if sha256 != _schedule(skips, branches).digest:
            raise refusal("the hash of the rows in `skips`: the scales were edited by hand")
        return sha256

    @classmethod
    def of(cls, schedule: Schedule, *, skips: Sequence[Skip], **sections: Any) -> Self:
        """Make the rows and the hash of a schedule; everything else is passed as it stands.

        Arguments:
            schedule: The tuned schedule; `setting` is the one with its knobs.
            skips: All skips of the network.
            sections: `study`, `network`, `setting`, `verdict`, `measure`, `baseline`, `tuned`,
                `seeds`, `provenance`, and `controls` if any: models or plain data.

        Raises:
            SpecError: For a schedule with an address that is no skip, or values out of range.
        """
        known = [skip.address for skip in skips]
        problems = [
            Problem(f"schedule: {address}", f"an address among {', '.join(known)}", "no such skip")
            for address in schedule.addresses
            if address not in known
        ]
        if problems:
            raise SpecError.of(problems, hint="list the skips with `skiptune skips CHECKPOINT`")
        schedule = schedule.scales_alone  # its knobs are part of the setting
        rows = [_row(skip, schedule) for skip in sorted(skips, key=lambda skip: skip.index)]
        values = {key: _plain(value) for key, value in sections.items()}
        values |= {"skips": rows, "branches": schedule.branches}
        return cls.from_json({**values, "schedule_sha256": schedule.digest})

    @classmethod
    def from_json(cls, values: dict[str, Any], *, source: str = "tuned.json") -> Self:
        """Read plain data, e.g. what `to_json` gave.

        Raises:
            SpecError: With every problem at once.
        """
        return model_of(cls, values, source=source, hint=EXPORT)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return self.model_dump(mode="json")

    def text(self) -> str:
        """Return the content of the file."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def schedule(self) -> Schedule:
        """The schedule that the rows stand for."""
        return _schedule(self.skips, self.branches)

    @property
    def knobs(self) -> dict[str, float]:
        """Numbers of the setting that were tuned too, by the names of `sampling.setting.KNOBS`."""
        if self.untouched_setting is None:
            return {}
        before, now = self.untouched_setting.to_setting(), self.setting.to_setting()
        return {name: now.knob(name) for name in KNOBS if now.knob(name) != before.knob(name)}

    @property
    def knob_changes(self) -> tuple[str, ...]:
        """The same in words: what each is, and what it is for the untouched network."""
        if self.untouched_setting is None:
            return ()
        before = self.untouched_setting.to_setting()
        return tuple(
            f"{name} {now:.4g} (baseline {before.knob(name):.4g})"
            for name, now in self.knobs.items()
        )

    @property
    def is_worse(self) -> bool:
        """Whether the tuned network scored worse than the untouched one on the same seeds."""
        return (self.tuned.difference or 0.0) > 0  # negative is better, whatever the metric

    def check(self, skips: Sequence[Skip], *, sha256: str | None = None) -> None:
        """Refuse any other network than the tuned one.

        Arguments:
            skips: The skips of the network at hand.
            sha256: Hash of its checkpoint file, if known.

        Raises:
            NetworkError: Naming the hash, and every skip that is missing, unknown or different.
        """
        problems = []
        if sha256 is not None and sha256 != self.network.sha256:
            expected = f"the weights of {self.network.name} (sha256 {self.network.sha256})"
            problems.append(Problem("network", expected, f"sha256 {sha256}"))
        sized = all(skip.resolution for skip in skips)  # 0 where a network does not say it
        tuned = {skip.address: _fingerprint(skip, sized=sized) for skip in self.skips}
        found = {skip.address: _fingerprint(skip, sized=sized) for skip in skips}
        for address in dict.fromkeys([*tuned, *found]):
            if tuned.get(address) != found.get(address):
                problems.append(
                    Problem(
                        f"network: {address}",
                        tuned.get(address, "no such skip"),
                        found.get(address, "no such skip"),
                    )
                )
        if problems:
            hint = f"load {self.network.name}, or tune this network: `skiptune init study.yaml`"
            raise NetworkError.of(problems, hint=hint)

    def apply(
        self,
        network: torch.nn.Module | Checkpoint | Any,
        *,
        sha256: str | None = None,
        scheduler: Any = None,
        check_weights: bool = True,
    ) -> Handle:
        """Install the scales on the network they were tuned on, before it is compiled.

        Arguments:
            network: A denoiser or U-Net whose skips `find_skips` knows, a `Checkpoint`, or a
                pipeline of diffusers, whose U-Net is scaled.
            sha256: Hash of its checkpoint file, if known: other weights are then refused.
            scheduler: Of diffusers: what says the noise levels of the timesteps that a U-Net of
                its own is called with. A pipeline has its own, which is followed when it is
                switched.
            check_weights: Whether the hash of a `Checkpoint`, or of the folder that a pipeline
                was read from, is compared; the latter reads its files.

        Returns:
            The handle whose `remove()`, or `with` block, takes the scales off again.

        Warns:
            SkiptuneWarning: These are other weights of the same architecture; or, once, images
                are made at another setting: a pipeline has another solver or number of steps, a
                denoiser is called at other falling noise levels, or as often at each as heun is
                and the tuned solver not, or the other way round.

        Raises:
            NetworkError: When this is another architecture, with the skips that differ, or the
                network is compiled already; nothing has been installed.
        """
        from skiptune.search.application import installed

        return installed(
            self, network, sha256=sha256, scheduler=scheduler, check_weights=check_weights
        )

    def write(self, path: Path | str, *, force: bool = False) -> None:
        """Write the file; it is there whole or not at all.

        Arguments:
            path: Where.
            force: Replace an existing file.

        Raises:
            OutputError: When the file exists and `force` is not set, or it cannot be written.
        """
        write_whole(Path(path), self.text().encode("utf-8"), force=force)


def load(path: Path | str) -> Tuned:
    """Read `tuned.json`.

    Arguments:
        path: The file.

    Raises:
        SpecError: When the file is missing, cut short, of a newer schema or edited by hand, with
            every problem at once.
    """
    values = read_json(path, hint=EXPORT)
    check_format(values, name=str(path), expected=FORMAT, version=SCHEMA_VERSION, hint=EXPORT)
    return Tuned.from_json(values, source=str(path))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of `tuned.json`: the content of `tuned.schema.json`."""
    return Tuned.model_json_schema()


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _schedule(skips: Sequence[TunedSkip], branches: str) -> Schedule:
    return Schedule((term for skip in skips for term in skip.terms()), branches=branches)


def _terms(address: str, scale: float, windows: Sequence[TunedWindow], part: str) -> list[Term]:
    if not windows:
        return [Term(address, scale, part=part)]
    return [
        Term(address, w.scale, w.low, float("inf") if w.high is None else w.high, part)
        for w in windows
    ]


def _row(skip: Skip, schedule: Schedule) -> dict[str, Any]:
    terms = [term for term in schedule.terms if term.address == skip.address]
    own = {part: [term for term in terms if term.part == part] for part in PARTS}
    return {
        "address": skip.address,
        "index": skip.index,
        "resolution": skip.resolution,
        "main_channels": skip.main_channels,
        "skip_channels": skip.skip_channels,
        **_scaled(own["both"]),
        "parts": [{"part": part, **_scaled(own[part])} for part in PARTS[1:] if own[part]],
    }


def _scaled(terms: Sequence[Term]) -> dict[str, Any]:
    """Return `scale` and `windows` of one part's terms."""
    constant = len(terms) == 1 and terms[0].low == 0 and terms[0].high == float("inf")
    return {
        "scale": terms[0].scale if constant else 1.0,
        "windows": []
        if constant
        else [
            {
                "low": term.low,
                "high": None if term.high == float("inf") else term.high,
                "scale": term.scale,
            }
            for term in terms
        ],
    }


def _fingerprint(skip: Skip | TunedSkip, *, sized: bool) -> str:
    channels = f"{skip.main_channels} + {skip.skip_channels} channels"
    size = f" at {skip.resolution}x{skip.resolution}" if sized else ""
    return f"skip {skip.index} with {channels}{size}"
