"""Commands that work without a study: reference statistics of images, scores of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skiptune.commands.exporting import _place as network_place
from skiptune.commands.interruption import stoppable
from skiptune.commands.options import Function, Options, device_option, pass_options, shared
from skiptune.errors import OutputError, SpecError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import nn

    from skiptune.objectives.extractors import Extractor
    from skiptune.objectives.image_files import ImageSource
    from skiptune.objectives.metrics import Sample
    from skiptune.objectives.standalone import Group, Measure
    from skiptune.sampling.schedule import Schedule
    from skiptune.sampling.setting import Setting
    from skiptune.search.tuned import Tuned

    Page = Iterator[RenderableType]

__all__ = ["ref", "score"]

BUNDLED = "fashion-train"
SAMPLED = 2_000  # images of each schedule when a tuned.json is scored
FINAL_SEEDS = 150_000  # seeds below are for final reports only
STOPPING = "Stopping after the images in hand if that takes seconds (once more stops at once)"


def image_options(function: Function) -> Function:
    """Add what says how images become features."""
    for option in reversed(
        (
            click.option("--weights", metavar="FILE", help="The extractor's weights."),
            click.option(
                "--weights-sha256",
                metavar="HEX",
                help="What weights of your own must hash to.",
            ),
            click.option(
                "--num", metavar="N", type=click.IntRange(min=1), help="The first N images only."
            ),
            click.option("--rgb", is_flag=True, help="Read gray images as RGB."),
        )
    ):
        function = option(function)
    return function


@click.command()
@click.argument("images")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=Path("stats.npz"),
    show_default=True,
    help="The reference file to write.",
)
@click.option(
    "--extractor",
    metavar="NAME",
    default="inception",
    show_default=True,
    help="The feature network.",
)
@image_options
@click.option(
    "--features",
    metavar="M",
    type=click.IntRange(min=0),
    default=5000,
    show_default=True,
    help="Images whose features are kept for KID, precision, recall, density and coverage.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@device_option
@shared
@pass_options
def ref(
    options: Options,
    images: str,
    output: Path,
    extractor: str,
    weights: str | None,
    weights_sha256: str | None,
    num: int | None,
    features: int,
    device: str,
    *,
    rgb: bool,
    force: bool,
) -> None:
    """Take the reference statistics of real images.

    IMAGES is a folder, a zip, an npz or npy, or fashion-test. A run that is stopped or killed
    goes on where it stood when it is started again.

    \b
    Examples:
      skiptune ref dataset/ -o stats.npz
      skiptune ref dataset.zip -o stats.npz --device cuda
      skiptune ref images.npz -o stats.npz --extractor efficientnet-lite0 --num 50000
    """
    from skiptune.cli import command_text
    from skiptune.commands.device import check_device
    from skiptune.commands.output import check_writable, print_json, say
    from skiptune.objectives.image_files import open_images

    same = output.exists() and Path(images).exists() and output.samefile(images)
    if same or output.suffix != ".npz":
        raise OutputError(
            f"-o {output}",
            expected="a file NAME.npz other than the images",
            found="the images themselves" if same else repr(output.name),
            hint="for example: -o stats.npz",
        )
    check_writable(output, force=force)
    source = open_images(images, images=num, rgb=rgb)
    for note in _part_notes(source, num):
        say(options, f"Caution: {note}")
    check_device(device)
    from skiptune.objectives.extractors import load_extractor
    from skiptune.objectives.image_statistics import make_reference

    network = load_extractor(extractor, weights=weights, sha256=weights_sha256, device=device)
    again = f"Go on with: {command_text(options.words)}"
    with stoppable(f"Stopped. {again}", first=STOPPING) as interruption:
        with _progress(options, output.name, source.count) as progress:
            reference = make_reference(
                source,
                output,
                extractor=network,
                keep=features,
                progress=progress,
                stopped=lambda: interruption.stop.requested,
            )
        if reference is None:
            interruption.raise_if_stopped()
    assert reference is not None
    kept = 0 if reference.features is None else len(reference.features)
    if options.json:
        print_json(
            {
                "written": output,
                "images": reference.images,
                "features": kept,
                "extractor": network.describe(),
                "digest": reference.digest,
                "features_digest": reference.features_digest,
                "header": reference.header,
            }
        )
    say(
        options,
        f"Wrote {output}: {reference.images:,} images, {network.name}, d = {network.dim:,},"
        f" features of {kept:,}",
    )
    say(options, f"Next: skiptune score OTHER-IMAGES --reference {output}")


@click.command()
@click.argument("images", metavar="IMAGES|TUNED.json")
@click.option(
    "--metric",
    "metrics",
    metavar="NAMES",
    default="fd",
    show_default=True,
    help="Metrics, separated by commas: fd, fid, fd_dinov2, fd:EXTRACTOR, kid, precision, recall,"
    " density, coverage.",
)
@click.option(
    "--reference",
    metavar="FILE",
    help="Reference statistics; fashion-train for the bundled extractor.",
)
@click.option(
    "--extractor",
    metavar="NAME",
    help="The feature network; by default the reference's or TUNED.json's.",
)
@image_options
@click.option(
    "--checkpoint",
    metavar="FILE",
    help="The network; by default the bundled one or the file beside TUNED.json.",
)
@device_option
@shared
@pass_options
def score(
    options: Options,
    images: str,
    metrics: str,
    reference: str | None,
    extractor: str | None,
    weights: str | None,
    weights_sha256: str | None,
    num: int | None,
    checkpoint: str | None,
    device: str,
    *,
    rgb: bool,
) -> None:
    """Score images, or tuned scales beside the untouched network.

    IMAGES is a folder, a zip, an npz or npy, or fashion-test. Of a TUNED.json, N images of both
    schedules are sampled from the seeds 0 to N - 1 (by default 2,000).

    \b
    Examples:
      skiptune score fashion-test --metric fd,kid
      skiptune score samples/ --metric fid --reference stats.npz
      skiptune score tuned.json --metric fd,recall --num 5000
    """
    from skiptune.commands.output import print_json, print_text
    from skiptune.objectives.standalone import metric_groups
    from skiptune.search.tuned import load

    tuned = load(images) if images.endswith(".json") else None
    groups = metric_groups(
        metrics,
        extractor=extractor,
        default=lambda: tuned.measure.extractor if tuned else _extractor_of(reference, images),
        sampled=tuned is not None,
    )
    loading = _Loading(groups, reference, weights, weights_sha256, device)
    if tuned is None:
        if checkpoint is not None:
            raise SpecError(
                f"--checkpoint {checkpoint}",
                expected="a TUNED.json to sample",
                found=images,
                hint="leave --checkpoint out to score images",
            )
        count, pages, scores = _score_images(options, images, loading, num=num, rgb=rgb)
    else:
        count = _sampled_count(num, rgb=rgb)
        place = network_place(checkpoint, tuned, Path(images))
        count, pages, scores = _score_tuned(options, images, loading, tuned, place, count)
    if options.json:
        print_json({"scored": images, "images": count, "scores": scores})
        return
    for index, page in enumerate(pages):
        print_text(*([""] if index else []), *page)


@dataclass(frozen=True)
class _Loading:
    """What has to be loaded to score, kept until everything cheap has been checked."""

    groups: Sequence[Group]
    reference: str | None
    weights: str | None
    weights_sha256: str | None
    device: str

    def measures(self, images: int) -> list[Measure]:
        """Load networks and references, and refuse those that do not fit so many images."""
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
            reference = self.reference
            if reference is None and group.extractor == FASHION_CNN:
                reference = BUNDLED
            if reference is None:
                raise _no_reference()
            network = load_extractor(
                group.extractor,
                weights=self.weights,
                sha256=self.weights_sha256,
                device=self.device,
            )
            measure = Measure(network, load_reference(reference, extractor=network), group.keys)
            measure.check(images)
            found.append(measure)
        return found


def _score_images(
    options: Options, images: str, loading: _Loading, *, num: int | None, rgb: bool
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
        with _progress(options, measure.extractor.name, source.count) as progress:
            features = features_of_images(source, measure.extractor, progress=progress)
        rows = scores_of(measure, Sample.of(features=features))
        notes = [*_part_notes(source, num), *measure.cautions(source.count)]
        title = f"{images}: {source.count:,} images, {_against(measure)}"
        pages.append(scores_view(title, rows, notes))
        plain += [{**row, **_meaning(measure), "cautions": notes} for row in scores_json(rows)]
    return source.count, pages, plain


def _score_tuned(
    options: Options, name: str, loading: _Loading, tuned: Tuned, place: str | Path, count: int
) -> tuple[int, list[Page], list[dict[str, Any]]]:
    """Sample with and without the scales; return as `_score_images`."""
    measures = loading.measures(count)
    from skiptune.objectives.standalone import compare
    from skiptune.sampling.checkpoint import load_checkpoint
    from skiptune.sampling.schedule import Schedule
    from skiptune.views.scores import pairs_json, pairs_view

    loaded = load_checkpoint(place, device=loading.device)
    tuned.check(loaded.skips, sha256=loaded.sha256)
    setting = tuned.setting.to_setting()
    networks = [measure.extractor for measure in measures]
    both = []
    for label, schedule in (("baseline", Schedule.baseline()), ("tuned", tuned.schedule)):
        with _progress(options, label, count) as progress:
            both.append(_sampled(loaded.network, setting, schedule, count, networks, progress))
    pages: list[Page] = []
    plain: list[dict[str, Any]] = []
    for measure, baseline, ours in zip(measures, *both, strict=True):
        pairs = compare(measure, baseline, ours)
        notes = [*_other_reference(measure, tuned), *measure.cautions(count)]
        title = f"{name}: seeds 0 to {count - 1:,} with and without scales, {_against(measure)}"
        pages.append(pairs_view(title, pairs, notes))
        plain += [{**row, **_meaning(measure), "cautions": notes} for row in pairs_json(pairs)]
    return count, pages, plain


def _sampled(
    network: nn.Module,
    setting: Setting,
    schedule: Schedule,
    count: int,
    networks: Sequence[Extractor],
    progress: Callable[[int], None],
) -> list[Sample]:
    """Sample the seeds 0 to `count` - 1; return the features of each feature network."""
    import numpy as np

    from skiptune.commands.pictures import MICROBATCH
    from skiptune.errors import ObjectiveError
    from skiptune.objectives.metrics import Sample
    from skiptune.sampling.hooks import scaled
    from skiptune.sampling.images import sample

    parts: list[list[Any]] = [[] for _ in networks]
    done, nfe = 0, 0.0
    with scaled(network, schedule):
        for batch in sample(network, setting, range(count), microbatch=min(MICROBATCH, count)):
            if not bool(batch.finite.all()):
                raise ObjectiveError(
                    f"image of seed {batch.seeds[int(batch.finite.int().argmin())]}",
                    expected="finite pixels",
                    found="NaN or infinity: the images diverge",
                    hint="tune at another setting: more steps or another solver",
                )
            for extractor, rows in zip(networks, parts, strict=True):
                rows.append(extractor(batch.images).cpu().numpy())
            done, nfe = done + len(batch.seeds), batch.nfe
            progress(done)
    samples = []
    for rows in parts:
        whole = Sample.of(features=np.concatenate(rows))
        samples.append(replace(whole, nfe=nfe, first_seed=0))
    return samples


def _sampled_count(num: int | None, *, rgb: bool) -> int:
    """Return how many images of each schedule to sample."""
    count = SAMPLED if num is None else num
    if not 2 <= count <= FINAL_SEEDS:
        raise SpecError(
            f"--num {count}",
            expected=f"2 to {FINAL_SEEDS:,}: seeds below that are for final reports",
            found=f"{count:,}",
            hint="for more images, sample them to files and score those",
        )
    if rgb:
        raise SpecError(
            "--rgb",
            expected="image files to read",
            found="a TUNED.json, whose network makes the images",
            hint="leave --rgb out: an extractor that wants three channels repeats the gray one",
        )
    return count


def _extractor_of(reference: str | None, images: str) -> str:
    """Return the feature network that a reference was made with."""
    from skiptune.objectives.image_files import BUNDLED_IMAGES
    from skiptune.objectives.names import FASHION_CNN
    from skiptune.objectives.reference import load_reference

    if reference is None and images in BUNDLED_IMAGES:
        return FASHION_CNN
    if reference is None:
        raise _no_reference()
    return load_reference(reference).extractor


def _no_reference() -> SpecError:
    return SpecError(
        "--reference",
        expected=f"a file of reference statistics, or {BUNDLED} for 32x32 Fashion-MNIST",
        found="nothing",
        hint="make one of real images: skiptune ref IMAGES -o stats.npz",
    )


def _against(measure: Measure) -> str:
    reference = measure.reference
    real = "" if reference.images is None else f" ({reference.images:,} images)"
    return f"features of {measure.extractor.name}, reference {reference.name}{real}"


def _meaning(measure: Measure) -> dict[str, Any]:
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


def _part_notes(source: ImageSource, num: int | None) -> list[str]:
    """Return what to know where only the first images were read."""
    if num is None or source.kind in ("arrays", "bundled"):
        return []
    return [
        f"The first {num:,} images in the order of their paths were taken: where folders are"
        " sorted by class, they are no random part."
    ]


@contextmanager
def _progress(options: Options, label: str, total: int) -> Iterator[Callable[[int], None]]:
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
