"""The study spec: one YAML screen that says what is tuned, how it is judged, and what it may cost.

A spec is checked here against everything that can be known without loading a network; all
problems come at once. `meaning` is the part of a spec that a study keeps for life: what may not
change when it is resumed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from skiptune.canonical import canonical
from skiptune.errors import Problem, SpecError
from skiptune.sampling.setting import evaluated_points
from skiptune.search.document import Document, Path_, parse_yaml, read_text, shown
from skiptune.search.launch_section import LaunchSpec
from skiptune.search.network_section import NetworkSpec
from skiptune.search.objective_section import METRICS, ObjectiveSpec
from skiptune.search.problems import hints_of, problems_of, refusal, suggestion
from skiptune.search.sections import (
    SAMPLERS,
    ConfirmSpec,
    SearchSpec,
    Section,
    SettingSpec,
)
from skiptune.search.space_section import SPACES, SpaceSpec, WindowSpec
from skiptune.storage.records import CHUNK

__all__ = [
    "METRICS",
    "SAMPLERS",
    "SPACES",
    "ConfirmSpec",
    "LaunchSpec",
    "NetworkSpec",
    "ObjectiveSpec",
    "SearchSpec",
    "SettingSpec",
    "SpaceSpec",
    "StudySpec",
    "WindowSpec",
    "difference",
    "load_spec",
    "preset_text",
    "presets",
]

PRESETS = Path(__file__).parent / "presets"
EXPLAINED = "fashion"  # the preset that `skiptune init` writes
INIT_EXPLAINS = "every key is explained in the file that `skiptune init` writes"
INIT = "write a commented study file with `skiptune init study.yaml`"

# Keys that may hold the path of a file, or of a folder.
FILE_KEYS = (
    ("network", "checkpoint"),
    ("network", "decoder", "vae"),
    ("network", "decoder", "config"),
    ("network", "prompts"),
    ("objective", "weights"),
    ("objective", "reference"),
    ("objective", "images"),
    ("objective", "clip_model"),
    ("objective", "pick_model"),
)

# How many steps there are can be said in three ways: a later word replaces an earlier one.
REPLACING: Mapping[Path_, Sequence[Path_]] = {
    ("setting", "nfe"): (("setting", "steps"),),
    ("setting", "steps"): (("setting", "nfe"),),
    ("setting", "sigmas"): (("setting", "steps"), ("setting", "nfe")),
}


class StudySpec(Section):
    """A whole study; see `search/presets/fashion.yaml` for the meaning of each key."""

    study: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,99}$",
        description="a name of at most 100 letters, digits and . _ ~ -",
    )
    network: NetworkSpec = Field(description="a mapping with `checkpoint`")
    setting: SettingSpec = Field(
        default=SettingSpec(), description="a mapping with `solver`, `steps`, ..."
    )
    space: SpaceSpec = Field(
        default=SpaceSpec(), description="a mapping with `kind`, `low`, `high`, ..."
    )
    objective: ObjectiveSpec = Field(description="a mapping with `extractor` and `reference`")
    search: SearchSpec = Field(
        default=SearchSpec(), description="a mapping with `sampler`, `rungs`, ..."
    )
    confirm: ConfirmSpec = Field(default=ConfirmSpec(), description="a mapping with `images`, ...")
    microbatch: int = Field(
        default=50,
        ge=1,
        description=f"images per forward, a divisor of the chunk ({CHUNK}): "
        "1, 2, 5, 10, 25, 50, 125 or 250",
    )

    launch: LaunchSpec = Field(
        default=LaunchSpec(), description="a mapping with `workers`, `slurm`, `ray`, `k8s`"
    )

    @model_serializer(mode="wrap")
    def _as_earlier_versions_write_it(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        return self.without_defaults(handler(self), ("launch",))

    @field_validator("space")
    @classmethod
    def _window_on_the_grid(cls, space: SpaceSpec, info: ValidationInfo) -> SpaceSpec:
        setting, window = info.data.get("setting"), space.window
        if setting is None or not isinstance(window, WindowSpec):
            return space
        points = evaluated_points(setting.to_setting())
        if window.last >= points:
            raise refusal(
                f"a grid point from 0 to {points - 1} (setting.steps is {setting.steps})",
                at=("window", "last"),
            )
        return space

    @field_validator("space")
    @classmethod
    def _branches_of_guidance(cls, space: SpaceSpec, info: ValidationInfo) -> SpaceSpec:
        setting = info.data.get("setting")
        if setting is not None and setting.guidance == 1 and space.branches != "both":
            raise refusal(
                "both: without guidance (setting.guidance is 1) no branch is apart",
                at=("branches",),
            )
        return space

    @field_validator("objective")
    @classmethod
    def _with_prompts_to_compare(
        cls, objective: ObjectiveSpec, info: ValidationInfo
    ) -> ObjectiveSpec:
        network, setting = info.data.get("network"), info.data.get("setting")
        if not objective.text_keys:
            return objective
        place = next(
            name
            for name, keys in (
                ("metric", objective.keys),
                ("constraints", [i.key for i in objective.items if i.constraint]),
                ("beside", objective.text_keys),
            )
            if set(keys) & set(objective.text_keys)
        )
        text = " and ".join(objective.text_keys)
        if network is not None and network.prompts is None:
            raise refusal(
                f"metrics without text, because network.prompts is null, not {text}",
                at=(place,),
                hint="give the network its prompts: `network.prompts: ./prompts.txt`",
            )
        if setting is not None and setting.labels is None:
            raise refusal(
                f"metrics without text, because setting.labels is null, not {text}",
                at=(place,),
                hint="give each image a prompt: `setting.labels: random`",
            )
        return objective

    @field_validator("search")
    @classmethod
    def _a_sampler_that_can(cls, search: SearchSpec, info: ValidationInfo) -> SearchSpec:
        objective, space = info.data.get("objective"), info.data.get("space")
        why = _unfit(search.sampler, objective, space)
        if why:
            raise refusal(f"another sampler, e.g. tpe ({why})", at=("sampler",))
        if search.patience is not None and objective is not None and len(objective.keys) > 1:
            raise refusal("null: of several metrics no schedule is the best", at=("patience",))
        return search

    @field_validator("microbatch")
    @classmethod
    def _divides_the_chunk(cls, microbatch: int) -> int:
        if CHUNK % microbatch:
            raise ValueError("does not divide the chunk")
        return microbatch

    def value(self, key: str) -> Any:
        """Return what a dotted key holds; None as well where a section above it is null."""
        found: Any = self
        for name in key.split("."):
            found = None if found is None else getattr(found, name)
        return found

    @property
    def screen(self) -> int | None:
        """Dimensions in which the first of several rungs takes `fd`; None: it is no screen."""
        return self.objective.projection if len(self.search.rungs) > 1 else None

    def unfit_for(self, sampler: str) -> str:
        """Return why a sampler cannot serve this study, empty where it can.

        What the objective itself stands in the way of is known once it is loaded.

        Arguments:
            sampler: One of `SAMPLERS`.
        """
        return _unfit(sampler, self.objective, self.space)

    def replaced(self, key: str, value: Any) -> Self:
        """Return the spec with another value under a dotted key, which is not checked."""
        section, _, last = key.rpartition(".")
        owner = self.value(section) if section else self
        changed: Any = owner.model_copy(update={last: value})
        return self.replaced(section, changed) if section else changed

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain data, every default written out."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, source: str = "spec") -> Self:
        """Read plain data, e.g. what `to_json` gave.

        Arguments:
            values: Nested mappings.
            source: Where the values come from, for messages.

        Raises:
            SpecError: With every problem at once.
        """
        return cls._checked(Document(source, dict(values)), folder=Path.cwd())

    @classmethod
    def _checked(cls, document: Document, *, folder: Path) -> Self:
        problems = list(document.problems)
        hints: list[str] = []
        spec: Self | None = None
        folders = {
            path[-1]: Path.cwd() if document.is_overridden(path) else folder
            for path in (*FILE_KEYS, ("search", "warm_start"))
        }
        try:
            spec = cls.model_validate(document.values, context=folders)
        except ValidationError as error:
            values = document.values
            problems += problems_of(error, model=cls, values=values, where=document.where)
            explained = parse_yaml(preset_text(EXPLAINED), name=EXPLAINED).lines
            hints = hints_of(error, model=cls, values=values, explained=explained)
        if spec is None or problems:
            raise SpecError.of(problems, hint="; ".join(hints) or INIT_EXPLAINS)
        return spec

    def meaning(self) -> dict[str, Any]:
        """Return what may not change on resume: dotted key to plain value.

        The engine adds the hashes of what it loads (network, extractor, reference): those are
        identities, paths are not. Budget, sampler, promotion, the size of a confirm and further
        rungs are free. The decision rule is not: a level that may be raised afterwards is none.
        """
        meaning: dict[str, Any] = {}
        for section in ("setting", "space"):
            meaning |= _flat(getattr(self, section).model_dump(mode="json"), f"{section}.")
        objective = self.objective
        metric = objective.metric
        meaning["objective.metric"] = metric if isinstance(metric, str) else list(metric)
        meaning["objective.extractor"] = objective.extractor
        # Left out where they are not used: studies of earlier versions know nothing of them.
        if objective.constraints:
            meaning["objective.constraints"] = list(objective.constraints)
        if objective.beside:
            meaning["objective.beside"] = list(objective.beside)
        if objective.projection is not None:
            meaning["objective.projection"] = objective.projection
        if "teacher_loss" in {item.key for item in objective.items}:
            meaning["objective.teacher"] = objective.teacher.model_dump(mode="json")
        meaning["search.rungs"] = list(self.search.rungs)
        meaning["confirm.alpha"] = self.confirm.alpha
        meaning["confirm.min_gain"] = self.confirm.min_gain
        meaning["microbatch"] = self.microbatch
        return meaning


def _unfit(sampler: str, objective: ObjectiveSpec | None, space: SpaceSpec | None) -> str:
    """Return why a sampler cannot serve; sections that are wrong themselves say nothing."""
    windows = space is not None and space.window == "search"
    if sampler in ("descent", "moments") and space is not None and space.setting is not None:
        return f"{sampler} knows scales alone, and space.setting is searched"
    if sampler == "descent" and windows:
        return "descent walks in scales, and space.window is search"
    if sampler == "moments":
        if objective is not None and (objective.keys != ("fd",) or objective.constraints):
            return "moments models fd as the one metric, without constraints"
        if windows:
            return "moments models scales, and space.window is search"
    return ""


def difference(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[Problem]:
    """Return one problem per field in which two meanings differ: expected stored, found given.

    Rungs may be added at the end, but not behind a single one where there is a projection: the
    first of several is a screen, and what is stored of the single one is none.

    Arguments:
        stored: The meaning that the study was created with, dotted key to plain value.
        given: The meaning it is resumed with.
    """
    problems = []
    for key in [*stored, *(key for key in given if key not in stored)]:
        if key in stored and key in given:
            old, new = stored[key], given[key]
            if canonical(old) == canonical(new):
                continue
            if key == "search.rungs" and list(new[: len(old)]) == list(old):
                if len(old) > 1 or stored.get("objective.projection") is None:
                    continue
        expected = f"{shown(stored[key])} (stored)" if key in stored else "nothing (stored)"
        found = f"{shown(given[key])} (given)" if key in given else "nothing (given)"
        problems.append(Problem(key, expected, found))
    return problems


def presets() -> tuple[str, ...]:
    """Return the names of the bundled study files."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def preset_text(name: str) -> str:
    """Return a bundled study file with its comments.

    Raises:
        SpecError: When there is no preset of this name.
    """
    if name not in presets():
        raise SpecError(
            "preset",
            expected=f"one of {', '.join(presets())}{suggestion(name, presets())}",
            found=shown(name),
            hint="name a preset, or write your own study file and pass its path",
        )
    return (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def load_spec(path: Path | str, *, overrides: Sequence[str] = ()) -> StudySpec:
    """Read a study from a YAML file or a preset.

    Relative paths inside a file start at the file's folder; in a preset or an override, at the
    working directory.

    Arguments:
        path: A preset's bare name, e.g. ``fashion``, or the path of a YAML file; a preset goes
            before a file of the same name (write ``./fashion`` for that).
        overrides: `KEY=VALUE` texts, e.g. ``space.low=0.7``; values are YAML, a later one wins.
            An override of `setting.nfe` goes before the file's `steps`, and the other way round.

    Raises:
        SpecError: With every problem at once: the line or option, what was expected, and what
            was found.
    """
    name = str(path)
    if name in presets():
        document = parse_yaml(preset_text(name), name=f"preset {name}")
        folder = Path.cwd()
    else:
        file = Path(path)
        if not os.path.lexists(file) and not file.suffix and file.name == name:
            known = f"{', '.join(presets())}{suggestion(name, presets())}"
            raise SpecError(
                name,
                expected=f"a study file or a preset: {known}",
                found="neither",
                hint=INIT,
            )
        document = parse_yaml(read_text(file, hint=INIT), name=name)
        folder = file.absolute().parent
    document = document.overridden(overrides, replacing=REPLACING)
    return StudySpec._checked(document, folder=folder)


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
