"""Scores without a study: loading what is needed, extracting or sampling, and pages of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiptune.commands.options import Options
from skiptune.errors import SpecError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skiptune.objectives.catalogue import Unit
    from skiptune.objectives.extractors import Extractor
    from skiptune.objectives.image_files import ImageSource
    from skiptune.objectives.metrics import Sample
    from skiptune.objectives.standalone import Group, Measure
    from skiptune.objectives.units import Units
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.sampling.schedule import Schedule
    from skiptune.sampling.setting import Setting
    from skiptune.search.sections import SettingSpec
    from skiptune.search.tuned import Tuned

    Page = Iterator[RenderableType]
    Places = tuple[str | Path, str | Path | None, Path | None]

__all__ = [
    "Loading",
    "against",
    "cautions_of",
    "image_progress",
    "known_references",
    "meaning",
    "no_reference",
    "part_notes",
    "sampled",
    "score_images",
    "score_tuned",
    "study_reference",
]

BUNDLED = "fashion-train"


@dataclass(frozen=True)
class Loading:
    """What has to be loaded to score, kept until everything cheap has been checked.

    Arguments:
        groups: Metrics by feature network.
        reference: Name or file; None for the bundled one of the bundled network.
        weights: Of the one feature network, where they are not its own.
        weights_sha256: What they must hash to.
        device: Of the feature networks.
        known: References by feature network, for those that no reference was named for.
    """

    groups: Sequence[Group]
    reference: str | None
    weights: str | None
    weights_sha256: str | None
    device: str
    known: Mapping[str, str | Path] = field(default_factory=dict)

    def measures(self, images: int, *, unit: Unit = "image") -> list[Measure]:
        """Load networks and references, and refuse those that do not fit so many images.

        Arguments:
            images: How many there are.
            unit: What their errors count.
        """
        from skiptune.commands.device import check_device
        from skiptune.objectives.names import FASHION_CNN
        from skiptune.objectives.standalone import Measure

        check_device(self.device)
        from skiptune.objectives.extractors import load_extractor
        from skiptune.objectives.reference import load_reference

        if self.weights is not None and len(self.groups) > 1:
            names = ", ".join(group.extractor for group in self.groups)
            raise SpecError(
                f"--weights {self.weights}",
                expected="metrics of one feature network",
                found=f"metrics of {names}",
                hint="score them one by one",
            )
        found = []
        for group in self.groups:
            reference = self.reference or self.known.get(group.extractor)
            if reference is None and group.extractor == FASHION_CNN:
                reference = BUNDLED
            if reference is None:
                raise no_reference()
            network = load_extractor(
                group.extractor,
                weights=self.weights,
                sha256=self.weights_sha256,
                device=self.device,
            )
            measure = Measure(network, load_reference(reference, extractor=network), group.keys)
            measure.check(images, unit=unit)
            found.append(measure)
        return found


def study_reference(tuned: Tuned, path: Path) -> str | Path | None:
    """Return the reference that a TUNED.json was scored against; None where it is not at hand.

    Arguments:
        tuned: The file's content.
        path: The file; statistics of one's own lie beside it by the name that it says.
    """
    from skiptune.objectives.names import REFERENCES

    name = tuned.measure.reference
    if name is None or name in REFERENCES:
        return name
    beside = (path.parent / name, path.parent / f"{name}.npz")
    return next((place for place in beside if place.is_file()), None)


def known_references(tuned: Tuned, path: Path) -> dict[str, str | Path]:
    """Return the same by the feature network that it belongs to, for `Loading`."""
    reference = study_reference(tuned, path)
    return {} if reference is None else {tuned.measure.extractor: reference}


def score_images(
    options: Options, images: str, loading: Loading, *, num: int | None, rgb: bool
) -> tuple[int, list[Page], list[dict[str, Any]]]:
    """Return how many images there are, a page for each feature network, and plain data."""
    from skiptune.objectives.image_files import open_images

    source = open_images(images, images=num, rgb=rgb)
    measures = loading.measures(source.count)
    from skiptune.objectives.image_statistics import features_of_images
    from skiptune.objectives.metrics import Sample
    from skiptune.objectives.standalone import score as scores_of
    from skiptune.views.scores import scores_json, scores_view

    pages: list[Page] = []
    plain: list[dict[str, Any]] = []
    for measure in measures:
        with image_progress(options, measure.extractor.name, source.count) as progress:
            features = features_of_images(source, measure.extractor, progress=progress)
        rows = scores_of(measure, Sample.of(features=features))
        notes = [*part_notes(source, num), *measure.cautions(source.count)]
        title = f"{images}: {source.count:,} images, {against(measure)}"
        pages.append(scores_view(title, rows, notes))
        plain += [{**row, **meaning(measure), "cautions": notes} for row in scores_json(rows)]
    return source.count, pages, plain


def score_tuned(
    options: Options, name: str, loading: Loading, tuned: Tuned, places: Places, count: int
) -> tuple[int, list[Page], list[dict[str, Any]]]:
    """Sample with and without the scales, at the places of network, decoder and prompts.

    Returns as `score_images`.
    """
    drawn = tuned.network.prompts is not None and tuned.setting.labels == "random"
    measures = loading.measures(count, unit="prompt" if drawn else "image")
    from skiptune.commands.tuned_network import tuned_network
    from skiptune.objectives.standalone import compare
    from skiptune.sampling.schedule import Schedule
    from skiptune.views.scores import pairs_json, pairs_view

    before = _untouched_setting(name, tuned).to_setting()
    loaded = tuned_network(tuned, *places, device=loading.device)
    networks = [measure.extractor for measure in measures]
    both = []
    for label, schedule, setting in (
        ("baseline", Schedule.baseline(), before),
        ("tuned", tuned.schedule, tuned.setting.to_setting()),
    ):
        with image_progress(options, label, count) as progress:
            made = sampled(loaded, setting, schedule, count, networks, progress, drawn=drawn)
            both.append(made)
    pages: list[Page] = []
    plain: list[dict[str, Any]] = []
    for measure, baseline, ours in zip(measures, *both, strict=True):
        pairs = compare(measure, baseline, ours)
        notes = cautions_of(measure, tuned, ours)
        units = ours.units()
        counted = {} if units is None else {"unit": "prompt", "prompts": units.count}
        what = "".join(f" and {key} {value:.4g}" for key, value in tuned.knobs.items())
        title = f"{name}: seeds 0 to {count - 1:,} with and without scales{what}, "
        title += against(measure)
        if units is not None:
            title += f"; errors count prompts, {units.count:,} of them"
        pages.append(pairs_view(title, pairs, notes))
        rows = pairs_json(pairs)
        plain += [{**row, **meaning(measure), **counted, "cautions": notes} for row in rows]
    return count, pages, plain


def _untouched_setting(name: str, tuned: Tuned) -> SettingSpec:
    """Return the setting of the untouched network, which the tuned one is held against.

    Raises:
        SpecError: Numbers of the setting were tuned too, and the file does not say from where.
    """
    if tuned.untouched_setting is not None:
        return tuned.untouched_setting
    # Files of earlier versions hold the tuned setting alone.
    from skiptune.search.knobs import SETTING_ALONE
    from skiptune.search.tuned import EXPORT

    alone = tuned.schedule.is_baseline and bool(tuned.tuned.difference)
    if alone or any(row.label == SETTING_ALONE for row in tuned.controls):
        raise SpecError(
            f"{name}: untouched_setting",
            expected="the setting of the untouched network, because numbers of it were tuned",
            found="nothing: without it the scales alone would be measured",
            hint=EXPORT,
        )
    return tuned.setting


def sampled(
    checkpoint: Checkpoint,
    setting: Setting,
    schedule: Schedule,
    count: int,
    networks: Sequence[Extractor],
    progress: Callable[[int], None],
    *,
    drawn: bool,
) -> list[Sample]:
    """Sample the seeds 0 to `count` - 1; return the features of each feature network.

    Where prompts are drawn, images of one prompt count together.
    """
    import numpy as np

    from skiptune.commands.pictures import MICROBATCH
    from skiptune.errors import ObjectiveError
    from skiptune.objectives.catalogue import FEATURES, LABEL
    from skiptune.objectives.metrics import Sample
    from skiptune.sampling.hooks import scaled
    from skiptune.sampling.images import sample

    parts: list[list[Any]] = [[] for _ in networks]
    labels: list[Any] = []
    done, nfe = 0, 0.0
    network, decoder, size = checkpoint.network, checkpoint.decoder, min(MICROBATCH, count)
    with scaled(network, schedule):
        for batch in sample(network, setting, range(count), microbatch=size, decoder=decoder):
            if not bool(batch.finite.all()):
                raise ObjectiveError(
                    f"image of seed {batch.seeds[int(batch.finite.int().argmin())]}",
                    expected="finite pixels",
                    found="NaN or infinity: the images diverge",
                    hint="tune at another setting: more steps or another solver",
                )
            for extractor, rows in zip(networks, parts, strict=True):
                rows.append(extractor(batch.images).cpu().numpy())
            if batch.labels is not None:
                labels.append(batch.labels.cpu().numpy())
            done, nfe = done + len(batch.seeds), batch.nfe
            progress(done)
    samples = []
    for rows in parts:
        arrays = {FEATURES: np.concatenate(rows)}
        if drawn:
            arrays[LABEL] = np.concatenate(labels)
        whole = replace(Sample.of(**arrays), unit_array=LABEL if drawn else None)
        samples.append(replace(whole, nfe=nfe, first_seed=0))
    return samples


def cautions_of(measure: Measure, tuned: Tuned, sample: Sample) -> list[str]:
    """Return what a person has to know of the scores of sampled images, in sentences."""
    cautions = [*_other_reference(measure, tuned), *measure.cautions(sample.images)]
    return cautions + _few_prompts(sample.units())


def _few_prompts(units: Units | None) -> list[str]:
    """Return what to know where errors rest on few prompts."""
    from skiptune.objectives.units import LEAST_UNITS

    if units is None or units.count >= LEAST_UNITS:
        return []
    return [f"Errors of fewer than {LEAST_UNITS} prompts are too small more often than not."]


def no_reference() -> SpecError:
    """Return the error of a score that nothing says what to hold against."""
    return SpecError(
        "--reference",
        expected=f"a file of reference statistics, or {BUNDLED} for 32x32 Fashion-MNIST",
        found="nothing",
        hint="make one of real images: skiptune ref IMAGES -o stats.npz",
    )


def against(measure: Measure) -> str:
    """Return with what images are scored, for a title."""
    reference = measure.reference
    real = "" if reference.images is None else f" ({reference.images:,} images)"
    return f"features of {measure.extractor.name}, reference {reference.name}{real}"


def meaning(measure: Measure) -> dict[str, Any]:
    """Return what scores mean as plain data."""
    reference = measure.reference
    return {
        "extractor": measure.extractor.describe(),
        "reference": {
            "name": reference.name,
            "images": reference.images,
            "digest": reference.digest,
            "features_digest": reference.features_digest,
        },
    }


def _other_reference(measure: Measure, tuned: Tuned) -> list[str]:
    """Return what to know where a study was scored against something else."""
    before = tuned.measure
    now = measure.reference
    if before.extractor != measure.extractor.name or before.reference_sha256 in (None, now.digest):
        return []
    return [f"The study was scored against other statistics, called {before.reference}."]


def part_notes(source: ImageSource, num: int | None) -> list[str]:
    """Return what to know where only the first images were read."""
    if num is None or source.kind in ("arrays", "bundled"):
        return []
    return [
        f"The first {num:,} images in the order of their paths were taken: where folders are"
        " sorted by class, they are no random part."
    ]


@contextmanager
def image_progress(options: Options, label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield what is told how many images are done."""
    from skiptune.commands.output import say, stderr_console
    from skiptune.views.scores import image_bar, image_lines

    console = stderr_console()
    if options.quiet:
        yield lambda done: None
    elif console.is_terminal and not options.no_progress:
        with image_bar(console, label, total) as told:
            yield told
    else:
        yield image_lines(lambda text: say(options, text), label, total)
