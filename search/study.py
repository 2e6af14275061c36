"""An open study: the spec, what it means exactly, and everything a worker needs to serve it.

Opening comes first and refuses everything that can be refused: the network, the extractor and
the reference are loaded, hashed and compared with each other and with what the database holds
under this name, before an image is sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiptune.errors import Problem, SpecError, quoted
from skiptune.objectives.catalogue import CATALOGUE, Unit
from skiptune.objectives.extractors import Extractor
from skiptune.objectives.metrics import Real, Summary
from skiptune.objectives.neighbours import LEAST_BLOCKS
from skiptune.objectives.paired import VERDICT_PER_FEATURE
from skiptune.objectives.reference import Reference
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.describe import describe as describe_series
from skiptune.sampling.images import problems_of
from skiptune.sampling.levels import grid_points
from skiptune.sampling.numeric_mode import in_mode
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Churn, Setting
from skiptune.search.artifacts import (
    artifacts_location,
    bound_store,
    required_store,
    share_files,
    shared_file,
)
from skiptune.search.board import board_of
from skiptune.search.decoding import renamed, with_decoder
from skiptune.search.fetching import refuse_missing
from skiptune.search.files import URL_KEYS, SourceFile, located, sources_of
from skiptune.search.knobs import knob_problems
from skiptune.search.objective import Objective, load_objective
from skiptune.search.prompting import prompt_problems, prompts_meaning, unit_of, with_prompts
from skiptune.search.resumption import check_unchanged
from skiptune.search.samplers import DESCENT
from skiptune.search.second import with_second
from skiptune.search.sloped import without_slopes
from skiptune.search.space import Space
from skiptune.search.spec import StudySpec
from skiptune.search.strategy import chosen_sampler
from skiptune.search.text_metrics import with_texts
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database, open_database
from skiptune.storage.records import CHUNK, Evaluation, Kind, Study, Turn

if TYPE_CHECKING:
    from skiptune.search.stored_moments import StoredMoments

__all__ = [
    "SEARCH",
    "SEARCH_SEED",
    "OpenStudy",
    "check_study",
    "open_stored",
    "open_study",
    "study_meaning",
]

SEARCH = SEARCH_BLOCK  # the block of seeds on which a search compares its evaluations
LEAST_BLOCKED = LEAST_BLOCKS * CHUNK  # images behind an interval of recall or coverage
GENERATORS = {"edm": "one CPU generator", "counter": "one Philox4x32-10 key"}
SEARCH_SEED = 1_000_000  # its first seed, the same for every study: all are paired


@dataclass(frozen=True)
class OpenStudy:
    """A study that is ready to be worked on.

    Arguments:
        spec: What the user asked for.
        row: The study in the database.
        database: Where rows go.
        arrays: Where per-image arrays go.
        checkpoint: The network under study, baseline weights, eval mode, with its decoder if any.
        objective: What is measured.
        space: Parameters to schedules.
        device: Torch device of network and extractor.
    """

    spec: StudySpec
    row: Study
    database: Database
    arrays: ArrayStore
    checkpoint: Checkpoint
    objective: Objective
    space: Space
    device: str

    @property
    def id(self) -> str:
        """The study's identity in our tables."""
        return self.row.id

    @property
    def rungs(self) -> tuple[int, ...]:
        """Images at which evaluations are compared, increasing."""
        return tuple(self.spec.search.rungs)

    @cached_property
    def setting(self) -> Setting:
        """How the study makes images."""
        return self.spec.setting.to_setting()

    @cached_property
    def series(self) -> dict[str, Any]:
        """The series of the study's own setting, plain data."""
        return self.series_of(self.setting)

    @cached_property
    def sampler(self) -> str:
        """Who proposes schedules, one of `SAMPLERS` without ``auto``."""
        return chosen_sampler(self.spec, self.objective, self.space)

    @property
    def unit(self) -> Unit:
        """What standard errors count: images, or prompts where each image is told one."""
        return unit_of(self.checkpoint, self.spec)

    @property
    def extractor(self) -> Extractor:
        """Images to features."""
        return self.objective.extractor

    @property
    def reference(self) -> Reference | None:
        """The distribution that features are compared with, where a metric needs one."""
        return self.objective.reference

    @cached_property
    def measure(self) -> dict[str, Any]:
        """What turns images into arrays, plain data."""
        return self.objective.measure

    @cached_property
    def real(self) -> Real | None:
        """The reference, with what metrics compute of it once."""
        return None if self.reference is None else Real(self.reference)

    @cached_property
    def baseline_summaries(self) -> dict[tuple[str, int, int | None], dict[str, Summary]]:
        """What metrics said of baselines, by evaluation, images and projection."""
        return {}

    @cached_property
    def summaries(self) -> dict[tuple[str, int], Summary]:
        """What the metric that decides said of proposals, by evaluation and level: the newest."""
        return {}

    @cached_property
    def moments(self) -> StoredMoments:
        """The moments of evaluations that a proposal has been made from."""
        from skiptune.search.stored_moments import StoredMoments  # it reads studies

        return StoredMoments(self)

    @cached_property
    def teacher_setting(self) -> Setting:
        """How images are made that `teacher_loss` compares with: many steps, the same noise."""
        teacher = self.spec.objective.teacher
        setting = self.setting.with_solver(teacher.solver, steps=teacher.steps)
        return replace(setting, churn=Churn())

    def fits(self, setting: Setting) -> bool:
        """Return whether the network can follow a setting."""
        return not problems_of(self.checkpoint.network, setting)

    def series_of(self, setting: Setting) -> dict[str, Any]:
        """Return the series that another setting of the same network makes, plain data."""
        return describe_series(self.checkpoint, setting, microbatch=self.spec.microbatch)

    def evaluate(
        self,
        schedule: Schedule,
        *,
        kind: Kind,
        label: str,
        block: str,
        first_seed: int,
        images: int,
        setting: Setting | None = None,
        params: Mapping[str, float] | None = None,
        turn: Turn | None = None,
        measure: Mapping[str, Any] | None = None,
    ) -> Evaluation:
        """Enter one evaluation with its first rung's chunks; the same again is the same row.

        Its images are made at `setting`, by default the study's own, with the schedule's knobs.

        Raises:
            BudgetSpentError: The study's budget does not hold it.
            TurnLostError: The turn in which it was proposed went to another worker.
        """
        made_at = (setting or self.setting).with_knobs(schedule.knobs)
        return ledger.add_evaluation(
            self.database,
            self.id,
            kind=kind,
            label=label,
            block=block,
            series=self.series_of(made_at) if setting or schedule.knobs else self.series,
            measure=measure or self.measure,
            schedule=schedule.to_json(),
            first_seed=first_seed,
            images=images,
            params=dict(params or {}),
            turn=turn,
        )

    def images_of(self, evaluation: Evaluation) -> int:
        """Return the images of an evaluation's highest rung."""
        return ledger.rungs(self.database, self.id, evaluation_id=evaluation.id)[-1].images

    def baseline(
        self,
        *,
        block: str,
        first_seed: int,
        images: int,
        measure: Mapping[str, Any] | None = None,
    ) -> Evaluation:
        """Enter the untouched network on a block: every comparison there is paired with it.

        Where a metric compares with the images of many steps, they are entered as well.
        """
        entered = self.evaluate(
            Schedule.baseline(),
            kind="baseline",
            label="baseline",
            block=block,
            first_seed=first_seed,
            images=images,
            measure=measure,
        )
        if self.objective.needs_teacher:
            self.evaluate(
                Schedule.baseline(),
                kind="teacher",
                label=f"{self.teacher_setting.solver}, {self.teacher_setting.steps} steps",
                block=block,
                first_seed=first_seed,
                images=images,
                setting=self.teacher_setting,
            )
        return entered


def check_study(
    spec: StudySpec, *, device: str = "cpu", source: str = "spec"
) -> tuple[Checkpoint, Objective, Space]:
    """Load everything that a spec names and refuse what does not fit together.

    Arguments:
        spec: The study.
        device: Torch device for network and extractor.
        source: Name of the file the spec came from, for messages.

    Raises:
        SkiptuneError: One of its kinds, naming what is wrong; nothing has been written.
    """
    refuse_missing(spec, source=source)
    checkpoint = load_checkpoint(
        spec.network.checkpoint, sha256=spec.network.sha256, device=device
    )
    checkpoint = with_prompts(checkpoint, spec.network.prompts, device=device, source=source)
    checkpoint = in_mode(checkpoint, spec.network.dtype)
    checkpoint = with_decoder(checkpoint, spec, device=device, source=source)
    channels, size, _ = checkpoint.image_shape
    objective = load_objective(
        spec.objective,
        channels=channels,
        size=size,
        classes=int(checkpoint.config.get("label_dim", 0)),
        device=device,
        microbatch=spec.microbatch,
    )
    objective = with_texts(objective, spec, shape=(channels, size, size), device=device)
    objective = with_second(objective, spec, shape=(channels, size, size), device=device)
    setting = spec.setting.to_setting()
    problems = [
        replace(problem, where=f"{source}: {problem.where}")
        for problem in problems_of(checkpoint.network, setting)
    ]
    network, ranges = checkpoint.network, spec.space.setting
    found = knob_problems(ranges, setting, network=network, samples=objective.samples)
    problems += [replace(problem, where=f"{source}: {problem.where}") for problem in found]
    found = prompt_problems(checkpoint, spec, objective.keys)
    problems += [replace(problem, where=f"{source}: {problem.where}") for problem in found]
    few = _too_few_images(spec, objective, source)
    if spec.search.sampler == DESCENT:
        found = without_slopes(spec, objective)
        problems += [replace(one, where=f"{source}: {one.where}") for one in found]
        if any(one.where == "search.rungs[0]" for one in found):
            # The only rung is too short for slopes, which is the larger of the two demands.
            few = [one for one in few if one.where != f"{source}: search.rungs"]
    problems += few
    if problems:
        raise SpecError.of(problems, hint=f"edit {source}, then `skiptune check {quoted(source)}`")
    points = grid_points(checkpoint.network, setting)
    space = Space.of(spec.space, checkpoint.skips, points, setting=setting)
    return checkpoint, objective, space


def _too_few_images(spec: StudySpec, objective: Objective, source: str) -> list[Problem]:
    """Return one problem for each count at which a metric of the study says too little."""
    dim, name = objective.extractor.dim, objective.extractor.name
    projection = spec.objective.projection
    problems = []
    for key, images, first in (
        ("search.rungs", spec.search.rungs[0], True),
        ("confirm.images", spec.confirm.images, False),
    ):
        fewest, why = 0, ""
        if "fd" in objective.keys:
            features = (spec.screen if first else None) or dim
            # Half a chunk of slack: 500 images serve d = 64, whose 8 d are 512.
            fewest = VERDICT_PER_FEATURE * features - CHUNK // 2
            why = f"{VERDICT_PER_FEATURE} per feature of {name}, rounded to chunks of {CHUNK}"
        in_blocks = [key for key in objective.keys if CATALOGUE[key].blocks]
        if in_blocks and fewest < LEAST_BLOCKED:
            fewest, why = LEAST_BLOCKED, f"an interval of {in_blocks[0]} needs blocks of seeds"
        if images < fewest:
            found = f"at least {max(fewest, 0)} images ({why})"
            problems.append(Problem(f"{source}: {key}", found, f"{images}"))
    if projection is not None and projection >= dim:
        where = f"{source}: objective.projection"
        problems.append(Problem(where, f"below the {dim} features of {name}", f"{projection}"))
    return problems


def study_meaning(spec: StudySpec, checkpoint: Checkpoint, objective: Objective) -> dict[str, Any]:
    """Return what a study keeps for life: the spec's part, and the hashes of what it loads."""
    meaning = {
        **spec.meaning(),
        "network.sha256": checkpoint.sha256,
        "objective.extractor.sha256": objective.extractor.sha256,
        "seeds": f"{GENERATORS[spec.setting.noise]} per image, search from {SEARCH_SEED}",
    }
    if checkpoint.dtype != "float32":  # studies of earlier versions know nothing of it
        meaning["network.dtype"] = checkpoint.dtype
    meaning |= prompts_meaning(checkpoint, spec)
    if checkpoint.decoder is not None:
        described = checkpoint.decoder.describe()
        meaning |= {f"network.decoder.{key}": value for key, value in described.items()}
    if objective.reference is not None:
        meaning["objective.reference.digest"] = objective.reference.digest
        if any(CATALOGUE[key].reference == "features" for key in objective.keys):
            meaning["objective.reference.features"] = objective.reference.features_digest
    for key, described in objective.measure.get("texts", {}).items():
        meaning[f"objective.{key}.sha256"] = described["sha256"]
    if objective.real is not None:
        meaning["objective.images.sha256"] = objective.measure["losses"]["images_sha256"]
    return meaning


def open_study(
    spec: StudySpec,
    *,
    storage: str,
    artifacts: str | Path | None = None,
    device: str = "cpu",
    source: str = "spec",
    group_writable: bool = False,
) -> OpenStudy:
    """Create the study or resume the one of the same name and meaning.

    Arguments:
        spec: The study.
        storage: Database URL, e.g. ``sqlite:///skiptune.db``.
        artifacts: Folder or ``s3://BUCKET/PREFIX`` of the per-image arrays; by default what
            `SKIPTUNE_ARTIFACTS` says, else ``skiptune-artifacts`` beside a SQLite database.
        device: Torch device.
        source: Name of the file the spec came from, for messages.
        group_writable: Let the group of the artifact folder write what is stored.

    Raises:
        StudyChangedError: A study of this name exists with another meaning; every differing
            field is named.
        SkiptuneError: Anything else that is wrong with the spec, its files or the database.
    """
    parts = check_study(spec, device=device, source=source)
    meaning = study_meaning(spec, *parts[:2])
    files = sources_of(spec, urls=_urls(spec))
    changeable: dict[str, Any] = {
        "spec": spec.to_json(),
        "files": [file.to_json() for file in files],
        "budget": spec.search.to_budget(),
    }
    artifacts_location(storage, artifacts)  # refused before a table is made
    database = open_database(storage, create=True)
    try:
        before = ledger.find_study(database, spec.study)
        changeable["board"] = board_of(spec, parts, database, before, source=source)
        store = bound_store(database, artifacts, group_writable=group_writable)
        share_files(database, store, files)
        row = ledger.create_study(database, name=spec.study, meaning=meaning, **changeable)
        check_unchanged(database, row, meaning, source=source)
        # Another machine may have created it in the same moment, and looked at other studies.
        changeable["board"] = board_of(spec, parts, database, row, source=source)
        stored = {"spec": row.spec, "files": list(row.files), "board": row.board}
        if {**stored, "budget": row.budget} != changeable:
            # A new budget, for example: workers and `status` read what is stored.
            row = ledger.set_study_spec(database, row.id, **changeable)
    except BaseException:
        database.close()
        raise
    return OpenStudy(spec, row, database, store, *parts, device)


def open_stored(
    name: str,
    *,
    storage: str,
    artifacts: str | Path | None = None,
    device: str = "cpu",
    group_writable: bool = False,
    given: StudySpec | None = None,
) -> OpenStudy:
    """Open a study that exists, from its name alone: what a worker on any machine does.

    The files that its spec names are looked for by their content (`files.locate`).

    Arguments:
        name: The study's name.
        storage: Database URL; the tables must be there.
        artifacts: As for `open_study`, but the store must carry the database's marker.
        device: Torch device.
        group_writable: Let the group of the artifact folder write what is stored.
        given: Its spec with something changed that a study may change, which is stored; its
            files are those that are stored.

    Raises:
        SkiptuneError: The database, study, store or a file is missing or is another one.
    """
    database = open_database(storage)
    try:
        row = ledger.require_study(database, name)
        store = required_store(database, artifacts, group_writable=group_writable)
        spec = given or StudySpec.from_json(row.spec, source=f"study {name}")
        sources = [SourceFile.from_json(file) for file in row.files]
        here = located(spec, sources, fetch=lambda source: shared_file(store, source))
        parts = check_study(here, device=device, source=f"study {name}")
        check_unchanged(database, row, study_meaning(here, *parts[:2]), source=f"study {name}")
        if given is not None:
            row = ledger.set_study_spec(
                database,
                row.id,
                given.to_json(),
                files=row.files,
                board=board_of(here, parts, database, row, source=f"study {name}"),
                budget=given.search.to_budget(),
            )
    except BaseException:
        database.close()
        raise
    # In a cache a file is named by its content; people know it by the name it had.
    names = {
        source.key: source.name if parts[0].path.is_dir() else Path(source.name).stem
        for source in sources
        if source.key == "network.checkpoint"
    }
    checkpoint = replace(parts[0], name=names.get("network.checkpoint", parts[0].name))
    checkpoint = renamed(checkpoint, spec.value("network.decoder.vae"))
    return OpenStudy(here, row, database, store, checkpoint, *parts[1:], device)


def _urls(spec: StudySpec) -> dict[str, str]:
    given = {key: spec.value(url_key) for key, url_key in URL_KEYS.items()}
    return {key: url for key, url in given.items() if url is not None}
