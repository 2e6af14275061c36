"""The command that makes images with tuned scales: grids, folders, and comparisons."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skiptune.commands.options import (
    Options,
    device_option,
    pass_options,
    shared,
    tuned_files_options,
)
from skiptune.commands.tuned_network import (
    decoder_place,
    network_place,
    prompts_place,
    tuned_network,
)
from skiptune.errors import SpecError

if TYPE_CHECKING:
    from skiptune.commands.comparing import Compared, Line
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.sampling.setting import Setting
    from skiptune.search.tuned import Tuned
    from skiptune.views.picture import Row

__all__ = ["sample"]

MOST_IMAGES = 10_000  # a picture of more is not looked at
MOST_IN_FOLDER = 1_000_000
COLUMNS = 16


@dataclass(frozen=True)
class _Label:
    """What all images of a part of the picture are of: a class, a prompt, or as the setting says.

    Arguments:
        name: For captions and folders.
        number: Of the class, or of the prompt among those given; None as the setting says.
        is_text: Whether it is a prompt.
    """

    name: str
    number: int | None = None
    is_text: bool = False

    def setting(self, setting: Setting) -> Setting:
        return setting if self.number is None else replace(setting, labels=self.number)


@dataclass(frozen=True)
class _Part:
    """A folder of images: of one schedule, and of one class or prompt where these were named.

    Arguments:
        folder: Where it is.
        line: The schedule, with the setting of these images.
        meaning: What made them, from `meaning_of`.
    """

    folder: Path
    line: Line
    meaning: dict[str, Any]


@click.command()
@click.argument("schedules", metavar="TUNED.json...", nargs=-1)
@click.option(
    "--seeds", metavar="LIST", default="0-15", show_default=True, help="Image seeds: 0-15,20."
)
@click.option(
    "--compare",
    is_flag=True,
    help="Several TUNED.json, and `baseline`, below each other from the same seeds; of one, the"
    " baseline above it.",
)
@click.option(
    "--class",
    "--classes",
    "classes",
    metavar="LIST",
    help="Class numbers instead of those of the setting: 3 or 0,1,2.",
)
@click.option(
    "--prompt", "texts", metavar="TEXT", multiple=True, help="A prompt; may be repeated."
)
@click.option(
    "--prompts",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file with one prompt per line.",
)
@click.option(
    "--num",
    metavar="N",
    type=click.IntRange(min=1),
    help="With --compare: score N images of each schedule too, from the seeds 0 to N - 1.",
)
@click.option(
    "--metric", metavar="NAMES", default="fd", show_default=True, help="With --num: what to score."
)
@click.option(
    "--reference",
    metavar="FILE",
    help="With --num: reference statistics; by default those of TUNED.json, bundled or beside it.",
)
@click.option("--weights", metavar="FILE", help="With --num: the extractor's weights.")
@tuned_files_options
@click.option(
    "-o",
    "--output",
    metavar="PLACE",
    default="grid.png",
    show_default=True,
    help="The picture to write; of a folder, FOLDER/, one PNG per seed goes into it.",
)
@click.option("--force", is_flag=True, help="Replace an existing picture or image.")
@device_option
@shared
@pass_options
def sample(
    options: Options,
    schedules: tuple[str, ...],
    seeds: str,
    classes: str | None,
    texts: tuple[str, ...],
    prompts: Path | None,
    num: int | None,
    metric: str,
    reference: str | None,
    weights: str | None,
    checkpoint: str | None,
    decoder: str | None,
    output: str,
    device: str,
    *,
    compare: bool,
    force: bool,
) -> None:
    """Make images with tuned scales: a picture, or a folder.

    A folder gets one PNG per seed, called as EDM's generate.py does; run again, it goes on where
    it stood. With several schedules, classes or prompts it gets a folder for each.

    With --compare and --num the schedules are also scored, and held against the first one in
    pairs, image by image of the same seed.

    \b
    Examples:
      skiptune sample tuned.json --seeds 0-7 --compare -o before-after.png
      skiptune sample --compare A.json B.json baseline --num 2000
      skiptune sample tuned.json --seeds 0-4999 -o images/
      skiptune sample tuned.json --classes 0,1,2 --device cuda
    """
    from skiptune.commands.comparing import first_file, lines_of, scored_lines
    from skiptune.commands.device import check_device
    from skiptune.commands.image_folders import check_images
    from skiptune.commands.output import check_writable, print_json, print_text, say

    folder = _is_folder(output)
    most = MOST_IN_FOLDER if folder else MOST_IMAGES
    hint = "leave --seeds out for the first 16"
    wanted = list(dict.fromkeys(_numbers(seeds, "--seeds", most=most, hint=hint)))
    path = first_file(schedules)
    lines, document = lines_of(schedules, compare=compare)
    _refuse_stdout(output)
    if not folder:
        _refuse_other_pictures(Path(output))
        check_writable(Path(output), force=force)
    controls = _controls(classes, texts, prompts)
    _refuse_lone_options(compare=compare, num=num, reference=reference, weights=weights)
    if num is not None and controls:
        raise SpecError(
            f"--num {num}",
            expected="images as the setting labels them, as the reference has them",
            found=f"{controls[0].name}{' and others' if controls[1:] else ''}",
            hint="leave --num out for the pictures alone",
        )
    _refuse_many(wanted, lines, controls, folder=folder)
    check_device(device)
    loaded = _loaded(document, path, checkpoint, decoder, controls, device=device)
    labels = controls or (_Label(""),)
    parts = _parts(Path(output), loaded, lines, labels) if folder else []
    for part in parts:
        check_images(part.folder, part.meaning)
    compared = None
    if num is not None:
        from skiptune.commands.measuring import Loading, known_references
        from skiptune.objectives.standalone import metric_groups

        groups = metric_groups(
            metric, extractor=None, default=lambda: document.measure.extractor, sampled=True
        )
        known = known_references(document, path)
        loading = Loading(groups, reference, weights, None, device, known)
        compared = scored_lines(options, loaded, lines, loading, num, tuned=document)
    made: dict[str, Any] = {"written": output, "seeds": wanted, "compare": compare}
    if folder:
        made |= _write_folders(options, Path(output), loaded, parts, wanted, force=force)
    else:
        _write_grid(Path(output), loaded, lines, labels, wanted, compared, force=force)
    if compare:
        made["rows"] = [line.label for line in lines]
    if controls:
        made["labels"] = [label.name for label in labels]
    if compared is not None:
        made["scores"] = list(compared.plain)
    if options.json:
        print_json(made)
    elif compared is not None:
        for page in compared.pages:
            print_text(*page)
    what = "1 seed" if len(wanted) == 1 else f"{len(wanted)} seeds"
    what += f" of {len(lines)} schedules" if len(lines) > 1 else ""
    say(options, f"Wrote {output}: {what}")
    if compare and num is None:
        say(options, "Pictures decide nothing: add --num 2000 for scores with paired intervals")


def _write_grid(
    path: Path,
    loaded: Checkpoint,
    lines: Sequence[Line],
    labels: Sequence[_Label],
    seeds: Sequence[int],
    compared: Compared | None,
    *,
    force: bool,
) -> None:
    """Write one picture: class by class or prompt by prompt, all schedules of it together."""
    from skiptune.commands.pictures import images_of
    from skiptune.views.picture import Row, folded, write_picture

    rows: list[Row] = []
    alone = len(lines) == 1 and len(labels) == 1
    columns = None if alone else min(len(seeds), COLUMNS)
    for label in labels:
        parts = [
            folded(
                Row(
                    "" if alone and not label.name else _caption(line, lines, label, compared),
                    images_of(loaded, label.setting(line.setting), line.schedule, seeds),
                ),
                columns,
            )
            for line in lines
        ]
        rows += [row for group in zip(*parts, strict=True) for row in group]
    write_picture(path, rows, force=force)


def _caption(line: Line, lines: Sequence[Line], label: _Label, compared: Compared | None) -> str:
    name = line.label if len(lines) > 1 or not label.name else ""
    words = ", ".join(word for word in (name, label.name) if word)
    for score in () if compared is None else compared.scores:
        if score.label == line.label:
            against = f", {score.difference} against {lines[0].label}" if score.difference else ""
            return f"{words}: {score.metric} {score.value}{against}"
    return words


def _parts(
    folder: Path, loaded: Checkpoint, lines: Sequence[Line], labels: Sequence[_Label]
) -> list[_Part]:
    """Return the folders below a folder, for each schedule and label; one alone is it itself."""
    from skiptune.commands.image_folders import meaning_of

    line_names = _file_names([line.label for line in lines])
    label_names = _file_names([label.name for label in labels])
    parts = []
    for line, line_name in zip(lines, line_names, strict=True):
        for label, label_name in zip(labels, label_names, strict=True):
            names = [line_name] if len(lines) > 1 else []
            names += [label_name] if len(labels) > 1 else []
            setting = label.setting(line.setting)
            more = {"label": label.name} if label.name else {}
            meaning = meaning_of(loaded, setting, line.schedule, **more)
            parts.append(_Part(folder.joinpath(*names), replace(line, setting=setting), meaning))
    return parts


def _write_folders(
    options: Options,
    folder: Path,
    loaded: Checkpoint,
    parts: Sequence[_Part],
    seeds: Sequence[int],
    *,
    force: bool,
) -> dict[str, Any]:
    """Write one PNG per seed into each of the folders."""
    from skiptune.commands.image_folders import write_images
    from skiptune.commands.measuring import image_progress
    from skiptune.commands.output import say

    total = diverged = 0
    for part in parts:
        name = "/".join((folder.name, *part.folder.relative_to(folder).parts))
        with image_progress(options, name, len(seeds)) as progress:
            written, black = write_images(
                part.folder,
                loaded,
                part.line.setting,
                part.line.schedule,
                seeds,
                meaning=part.meaning,
                force=force,
                progress=progress,
            )
        total, diverged = total + written, diverged + black
    there = len(seeds) * len(parts) - total
    if there:
        say(options, f"{there} images were there already")
    if diverged:
        say(options, f"Caution: {diverged} images diverged and are black")
    return {"images": total, "diverged": diverged}


def _file_names(texts: Sequence[str]) -> list[str]:
    """Return names of folders, each once: those that begin alike get their hash behind them."""
    names = [re.sub(r"[^\w.-]+", "-", text).strip("-.")[:60] or "images" for text in texts]
    lower = [name.lower() for name in names]  # some file systems know no case
    return [
        name
        if lower.count(name.lower()) == 1
        else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        for name, text in zip(names, texts, strict=True)
    ]


def _is_folder(output: str) -> bool:
    """Return whether an output is a folder: by its end, or because it is one."""
    path = Path(output)
    return output.endswith("/") or path.is_dir() or (not path.suffix and not path.exists())


def _refuse_other_pictures(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise SpecError(
            f"-o {path}",
            expected="a picture NAME.png, or a folder",
            found=repr(path.name),
            hint="for example: -o grid.png, or -o images/ for a folder",
        )


def _refuse_stdout(output: str) -> None:
    if output == "-":
        raise SpecError(
            "-o -",
            expected="a picture or a folder",
            found="stdout",
            hint="name a picture: -o grid.png",
        )


def _controls(
    classes: str | None, texts: Sequence[str], prompts: Path | None
) -> tuple[_Label, ...]:
    """Return the classes or prompts that a command line asks for; none for the setting's own."""
    given = [
        option
        for option, value in (("--class", classes), ("--prompt", texts), ("--prompts", prompts))
        if value
    ]
    if len(given) > 1:
        raise SpecError(
            " and ".join(given),
            expected="one of --class, --prompt and --prompts",
            found="both" if len(given) == 2 else "all of them",
            hint="leave one out",
        )
    if classes is not None:
        numbers = _numbers(classes, "--class", hint="for example: --classes 0,1,2")
        return tuple(_Label(f"class {number}", number) for number in dict.fromkeys(numbers))
    if prompts is not None:
        from skiptune.sampling.prompts import read_prompts

        texts = read_prompts(prompts).texts
    if not all(text.strip() for text in texts):
        raise SpecError(
            "--prompt",
            expected="a text",
            found="nothing",
            hint='for example: --prompt "a red boat"',
        )
    unlike = dict.fromkeys(text.strip() for text in texts)
    return tuple(_Label(text, place, is_text=True) for place, text in enumerate(unlike))


def _refuse_lone_options(
    *, compare: bool, num: int | None, reference: str | None, weights: str | None
) -> None:
    if num is not None and not compare:
        raise SpecError(
            f"--num {num}",
            expected="--compare: scores are of schedules side by side",
            found="one schedule",
            hint="add --compare, or use `skiptune score TUNED.json`",
        )
    for option, value in (("--reference", reference), ("--weights", weights)):
        if value is not None and num is None:
            raise SpecError(
                f"{option} {value}",
                expected="--num N: how many images to score",
                found="no --num",
                hint=f"add --num 2000, or leave {option} out",
            )


def _refuse_many(
    seeds: Sequence[int], lines: Sequence[Line], controls: Sequence[_Label], *, folder: bool
) -> None:
    count = len(seeds) * len(lines) * max(1, len(controls))
    if count > MOST_IMAGES and not folder:
        raise SpecError(
            "skiptune sample",
            expected=f"a picture of at most {MOST_IMAGES:,} images",
            found=f"{count:,}",
            hint="name fewer --seeds, or a folder: -o images/",
        )


def _loaded(
    document: Tuned,
    path: Path,
    checkpoint: str | None,
    decoder: str | None,
    controls: Sequence[_Label],
    *,
    device: str,
) -> Checkpoint:
    """Load the network; with prompts of the command line instead of those it was tuned with."""
    network = network_place(checkpoint, document, path)
    vae = decoder_place(decoder, document, path, network)
    if not any(label.is_text for label in controls):
        places = network, vae, prompts_place(document, path)
        loaded = tuned_network(document, *places, device=device)
        _refuse_classes(loaded, document, controls)
        return loaded
    if document.network.prompts is None:
        raise SpecError(
            "--prompt",
            expected="scales of a network that reads text",
            found=f"{path}, whose network reads none",
            hint="leave it out; classes are chosen with --class",
        )
    from skiptune.sampling.prompts import Prompts
    from skiptune.search.prompting import prompted

    loaded = tuned_network(document, network, vae, None, device=device)
    lines = tuple(label.name for label in controls)
    sha256 = hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()
    return prompted(loaded, Prompts(lines, "--prompt", sha256), device=device)


def _refuse_classes(loaded: Checkpoint, document: Tuned, controls: Sequence[_Label]) -> None:
    network: Any = loaded.network
    known = 0 if document.network.prompts is not None else int(network.label_dim)
    wrong = [label.number for label in controls if label.number is not None]
    wrong = [number for number in wrong if number >= known]
    if wrong:
        text = document.network.prompts is not None
        raise SpecError(
            f"--class {wrong[0]}",
            expected=f"a class from 0 to {known - 1}" if known else "a network that knows classes",
            found=f"{wrong[0]}" if known else "one that reads text" if text else "one without",
            hint="name prompts with --prompt" if text else "leave --class out",
        )


def _numbers(text: str, option: str, *, most: int = MOST_IMAGES, hint: str) -> list[int]:
    """Return the numbers of a list such as ``0-15,20``."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,12})(?:-(\d{1,12}))?\s*", part)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else -1
        if match is None or last < first or last - first >= most:
            raise SpecError(
                f"{option} {text}",
                expected=f"numbers and ranges of at most {most:,} images, e.g. 0-15,20",
                found=repr(part),
                hint=hint,
            )
        numbers.extend(range(first, last + 1))
    return numbers
