"""Commands that work without a study: reference statistics of images, scores of images."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from skiptune.commands.interruption import stoppable
from skiptune.commands.measuring import (
    Loading,
    image_progress,
    known_references,
    no_reference,
    part_notes,
    score_images,
    score_tuned,
)
from skiptune.commands.options import (
    Function,
    Options,
    device_option,
    pass_options,
    shared,
    store_options,
    tuned_files_options,
)
from skiptune.commands.tuned_network import decoder_place, network_place, prompts_place
from skiptune.errors import OutputError, SpecError, quoted

__all__ = ["ref", "score"]

SAMPLED = 2_000  # images of each schedule when a tuned.json is scored
FINAL_SEEDS = 150_000  # seeds below are for final reports only
OF_STUDY = "--metric, --reference and --top: the rest of a study is what it was sampled with"
CONFIRMED = "no more than where things are: with --confirmed the file says all the rest"
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
    for note in part_notes(source, num):
        say(options, f"Caution: {note}")
    check_device(device)
    from skiptune.objectives.extractors import load_extractor
    from skiptune.objectives.image_statistics import make_reference

    network = load_extractor(extractor, weights=weights, sha256=weights_sha256, device=device)
    again = f"Go on with: {command_text(options.words)}"
    with stoppable(f"Stopped. {again}", first=STOPPING) as interruption:
        with image_progress(options, output.name, source.count) as progress:
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
    say(options, f"Next: skiptune score OTHER-IMAGES --reference {quoted(output)}")


@click.command()
@click.argument("images", metavar="IMAGES|TUNED.json|STUDY")
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
    help="Reference statistics; by default those of TUNED.json, bundled or beside it, and"
    " fashion-train for the bundled extractor.",
)
@click.option(
    "--extractor",
    metavar="NAME",
    help="The feature network; by default the reference's or TUNED.json's.",
)
@image_options
@tuned_files_options
@click.option(
    "--confirmed",
    is_flag=True,
    help="Of a TUNED.json: make its own scores again, from its own seeds, to the last bit.",
)
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Of a STUDY: how many of its best schedules.",
)
@device_option
@store_options
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
    decoder: str | None,
    top: int,
    device: str,
    artifacts: str | None,
    *,
    rgb: bool,
    confirmed: bool,
    group_writable: bool,
) -> None:
    """Score images, tuned scales, or a finished study once more.

    IMAGES is a folder, a zip, an npz or npy, or fashion-test. Of a TUNED.json, N images of both
    schedules are sampled from the seeds 0 to N - 1 (by default 2,000). With --confirmed the seeds
    are those behind its verdict, and what is found stands beside what the file says. Of a STUDY,
    the stored features are scored by another metric or against another reference; nothing is
    sampled.

    \b
    Examples:
      skiptune score samples/ --metric fid --reference stats.npz
      skiptune score tuned.json --metric fd,recall --num 5000
      skiptune score tuned.json --confirmed
      skiptune score fashion --metric fd --top 5
    """
    from skiptune.commands.output import print_json, print_text
    from skiptune.objectives.standalone import metric_groups
    from skiptune.search.tuned import load

    if confirmed:
        from skiptune.commands.reproducing import reproduce

        given = {
            "--metric": None if metrics == "fd" else metrics,
            "--num": num,
            "--rgb": rgb or None,
        }
        given |= {"--extractor": extractor, "--weights-sha256": weights_sha256}
        _refuse(images, [word for word, value in given.items() if value is not None], of=CONFIRMED)
        where = {"checkpoint": checkpoint, "decoder": decoder}
        reproduce(options, images, where, reference=reference, weights=weights, device=device)
        return
    if _is_study(options, images):
        given = {
            "--extractor": extractor,
            "--weights": weights,
            "--weights-sha256": weights_sha256,
            "--num": num,
            "--checkpoint": checkpoint,
            "--decoder": decoder,
            "--rgb": rgb or None,
        }
        _refuse(images, [word for word, value in given.items() if value is not None])
        stored = {"device": device, "artifacts": artifacts, "group_writable": group_writable}
        _score_study(options, images, metrics, reference, top=top, place=stored)
        return
    tuned = load(images) if images.endswith(".json") else None
    if tuned is None:
        _refuse_absent(images)
    groups = metric_groups(
        metrics,
        extractor=extractor,
        default=lambda: (
            tuned.measure.extractor if tuned else _extractor_of(reference, images, weights=weights)
        ),
        sampled=tuned is not None,
    )
    known = known_references(tuned, Path(images)) if tuned else {}
    loading = Loading(groups, reference, weights, weights_sha256, device, known)
    if tuned is None:
        for option, given_place in (("--checkpoint", checkpoint), ("--decoder", decoder)):
            if given_place is not None:
                raise SpecError(
                    f"{option} {given_place}",
                    expected="a TUNED.json to sample",
                    found=images,
                    hint=f"leave {option} out to score images",
                )
        count, pages, scores = score_images(options, images, loading, num=num, rgb=rgb)
    else:
        count = _sampled_count(num, rgb=rgb)
        path = Path(images)
        network = network_place(checkpoint, tuned, path)
        vae = decoder_place(decoder, tuned, path, network)
        places = network, vae, prompts_place(tuned, path)
        count, pages, scores = score_tuned(options, images, loading, tuned, places, count)
    if options.json:
        print_json({"scored": images, "images": count, "scores": scores})
        return
    for index, page in enumerate(pages):
        print_text(*([""] if index else []), *page)


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


def _extractor_of(reference: str | None, images: str, *, weights: str | None) -> str:
    """Return the feature network that a reference was made with."""
    from skiptune.objectives.image_files import BUNDLED_IMAGES
    from skiptune.objectives.names import EXPORTED, FASHION_CNN, known_extractors
    from skiptune.objectives.reference import load_reference

    if reference is None and images in BUNDLED_IMAGES:
        return FASHION_CNN
    if reference is None:
        raise no_reference()
    name = load_reference(reference).extractor
    # An exported program names itself; only its file says what it is.
    return EXPORTED if weights is not None and name not in known_extractors() else name


def _is_study(options: Options, name: str) -> bool:
    """Return whether a bare name that is no file is that of a study in the database."""
    from skiptune.objectives.image_files import BUNDLED_IMAGES

    if name in BUNDLED_IMAGES or "/" in name or Path(name).suffix or Path(name).exists():
        return False
    from skiptune.errors import StorageError
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    try:
        with open_database(options.url) as database:
            return ledger.find_study(database, name) is not None
    except StorageError:
        return False  # then it is a name of images, and refused as such


def _refuse_absent(name: str) -> None:
    """Refuse a word that is neither images nor a study, before its reference is asked for."""
    from skiptune.objectives.image_files import BUNDLED_IMAGES

    if name in BUNDLED_IMAGES or Path(name).exists():
        return
    near = get_close_matches(name, BUNDLED_IMAGES, n=1)
    meant = f"did you mean {near[0]}? else " if near else ""
    raise SpecError(
        f"skiptune score {name}",
        expected=f"images, {', '.join(BUNDLED_IMAGES)}, a TUNED.json, or a study of the database",
        found="no such file, and no study of this name",
        hint=f"{meant}check the path; `skiptune status` lists the studies",
    )


def _refuse(name: str, words: list[str], *, of: str = OF_STUDY) -> None:
    """Refuse options that a study has decided for ever."""
    if words:
        raise SpecError(
            f"skiptune score {name}",
            expected=of,
            found=", ".join(words),
            hint=f"leave {' and '.join(words)} out",
        )


def _score_study(
    options: Options,
    name: str,
    metrics: str,
    reference: str | None,
    *,
    top: int,
    place: dict[str, Any],
) -> None:
    from skiptune.commands.output import print_json, print_text
    from skiptune.commands.studies import stored_study
    from skiptune.objectives.catalogue import PROMPT
    from skiptune.objectives.reference import load_reference
    from skiptune.objectives.standalone import metric_groups
    from skiptune.search.rescoring import rescored
    from skiptune.views.scores import rescored_view

    with stored_study(options, name, **place) as study:
        own = study.extractor.name
        [group] = metric_groups(
            metrics,
            extractor=own,
            default=lambda: own,
            sampled=True,
            stored=study.measure["arrays"],
        )
        held = None
        if reference is not None:
            held = load_reference(reference, extractor=study.extractor)
        rows = rescored(study, group.keys, reference=held, top=top)
    if options.json:
        print_json({"scored": name, "scores": [row.to_json() for row in rows]})
        return
    against = "" if held is None else f" against {held.name}"
    counted = "; errors count prompts" if any(row.unit == PROMPT for row in rows) else ""
    print_text(*rescored_view(f"{name}{against}, from what is stored{counted}", rows))
