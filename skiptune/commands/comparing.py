"""Schedules side by side: which ones, on which network, and how their scores differ in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiptune.commands.measuring import (
    Loading,
    against,
    cautions_of,
    image_progress,
    meaning,
    sampled,
)
from skiptune.errors import NetworkError, Problem, SpecError, quoted
from skiptune.objectives.paired import VERDICT_PER_FEATURE

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skiptune.commands.options import Options
    from skiptune.objectives.standalone import Measure
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.sampling.schedule import Schedule
    from skiptune.sampling.setting import Setting
    from skiptune.search.tuned import Tuned
    from skiptune.views.scores import ComparedRow

__all__ = ["BASELINE", "Compared", "Line", "first_file", "lines_of", "scored_lines"]

BASELINE = "baseline"


@dataclass(frozen=True)
class Line:
    """One schedule of a picture.

    Arguments:
        label: What it is called.
        schedule: The scales; None for the untouched network.
        setting: How its images are made.
    """

    label: str
    schedule: Schedule | None
    setting: Setting


@dataclass(frozen=True)
class Compared:
    """What was measured of several schedules.

    Arguments:
        scores: By metric and schedule.
        pages: For a person.
        plain: For ``--json``.
    """

    scores: Sequence[ComparedRow]
    pages: Sequence[Iterator[RenderableType]]
    plain: Sequence[dict[str, Any]]


def first_file(words: Sequence[str]) -> Path:
    """Return the first TUNED.json of a command line: what the network and the baseline are of.

    Raises:
        SpecError: There is none.
    """
    files = [word for word in words if word != BASELINE]
    if not files:
        raise SpecError(
            "skiptune sample",
            expected="a TUNED.json, which names the network",
            found=f"{BASELINE} alone" if words else "nothing",
            hint="for example: skiptune sample tuned.json --compare",
        )
    return Path(files[0])


def lines_of(words: Sequence[str], *, compare: bool) -> tuple[tuple[Line, ...], Tuned]:
    """Return the schedules that a command line names, and the file that the network is of.

    Arguments:
        words: Paths of tuned.json files, and ``baseline``, in the order of the picture.
        compare: Whether they are held against each other: one file alone stands below the
            untouched network.

    Raises:
        SpecError: A file is none, one is named twice, or there are several and no `compare`.
        NetworkError: They are of different networks.
    """
    from skiptune.search.tuned import load

    path = first_file(words)
    if len(words) > 1 and not compare:
        raise SpecError(
            "skiptune sample",
            expected="one TUNED.json, or --compare for several",
            found=f"{len(words)} names",
            hint=f"skiptune sample --compare {' '.join(map(quoted, words))}",
        )
    if compare and len(words) == 1:
        words = (BASELINE, *words)
    if len({word if word == BASELINE else Path(word).absolute() for word in words}) < len(words):
        raise SpecError(
            "skiptune sample",
            expected="every name once",
            found=" ".join(words),
            hint="name each schedule once",
        )
    documents = {word: load(word) for word in words if word != BASELINE}
    first = next(iter(documents.values()))
    _refuse_other_networks(str(path), first, documents)
    untouched = first.untouched_setting or first.setting
    labels = _labels(list(documents))
    lines = [
        Line(labels[word], documents[word].schedule, documents[word].setting.to_setting())
        if word in documents
        else Line(BASELINE, None, untouched.to_setting())
        for word in words
    ]
    return tuple(lines), first


def scored_lines(
    options: Options,
    loaded: Checkpoint,
    lines: Sequence[Line],
    loading: Loading,
    count: int,
    *,
    tuned: Tuned,
) -> Compared:
    """Sample the seeds 0 to `count` - 1 of every schedule, and hold them against the first one.

    Arguments:
        options: For progress.
        loaded: The network, with its decoder and prompts if any.
        lines: The schedules.
        loading: What is measured.
        count: Images of each.
        tuned: The first file.

    Raises:
        SpecError: They are too few for a verdict, or labelled in different ways.
        ObjectiveError: As `Measure.check`; or images diverge.
    """
    from skiptune.objectives.standalone import compare
    from skiptune.sampling.schedule import Schedule
    from skiptune.search.prompting import shares_of
    from skiptune.views.scores import ComparedRow, compared_view, estimate_text, pairs_json

    _refuse_other_labels(lines)
    # As a study counts: one prompt for all images is no unit.
    drawn = shares_of(loaded) is not None and lines[0].setting.labels == "random"
    measures = loading.measures(count, unit="prompt" if drawn else "image")
    for measure in measures:
        _refuse_few(measure, count)
    networks = [measure.extractor for measure in measures]
    samples = []
    for line in lines:
        with image_progress(options, line.label, count) as progress:
            schedule = Schedule.baseline() if line.schedule is None else line.schedule
            samples.append(
                sampled(loaded, line.setting, schedule, count, networks, progress, drawn=drawn)
            )
    scores: list[ComparedRow] = []
    plain: list[dict[str, Any]] = []
    pages = []
    for place, measure in enumerate(measures):
        own: list[ComparedRow] = []
        units = samples[0][place].units()
        notes = cautions_of(measure, tuned, samples[0][place])
        counted = {} if units is None else {"unit": "prompt", "prompts": units.count}
        for line, sample in zip(lines, samples, strict=True):
            pairs = compare(measure, samples[0][place], sample[place])
            for pair, row in zip(pairs, pairs_json(pairs), strict=True):
                if pair.difference is None:
                    continue  # a raw value, whose differences mislead
                is_first = line is lines[0]
                own.append(
                    ComparedRow(
                        line.label,
                        pair.tuned.name,
                        pair.tuned.better,
                        estimate_text(pair.tuned.estimate),
                        "" if is_first else estimate_text(pair.difference),
                    )
                )
                kept = {"metric": row["metric"], "key": row["key"], "better": row["better"]}
                difference = None if is_first else row["difference"]
                score = {"label": line.label, **kept, **row["tuned"], "difference": difference}
                plain.append({**score, **meaning(measure), **counted, "cautions": notes})
        title = f"Seeds 0 to {count - 1:,}, {against(measure)}"
        if units is not None:
            title += f"; errors count prompts, {units.count:,} of them"
        pages.append(compared_view(title, own, notes, first=lines[0].label))
        scores += own
    return Compared(scores, pages, plain)


def _refuse_few(measure: Measure, count: int) -> None:
    least = VERDICT_PER_FEATURE * measure.reference.dim
    if "fd" in measure.keys and count < least:
        raise SpecError(
            f"--num {count}",
            expected=f"at least {least:,}: {VERDICT_PER_FEATURE} images per feature, with fewer"
            " differences favour what spreads less",
            found=f"{count:,}",
            hint=f"--num {least}, or leave --num out for the pictures alone",
        )


def _refuse_other_labels(lines: Sequence[Line]) -> None:
    """Refuse pairs whose images are not of the same class or prompt."""
    problems = [
        Problem(f"{line.label}: setting.labels", f"{lines[0].setting.labels}", f"{found}")
        for line in lines[1:]
        if (found := line.setting.labels) != lines[0].setting.labels
    ]
    if problems:
        hint = "score schedules of equal labels, or leave --num out for the pictures alone"
        raise SpecError.of(problems, hint=hint)


def _refuse_other_networks(path: str, first: Tuned, documents: dict[str, Tuned]) -> None:
    problems = []
    for name, document in documents.items():
        ours, theirs = first.network.model_dump(), document.network.model_dump()
        problems += [
            Problem(f"{name}: network.{key}", f"{_shown(ours[key])}, as {path}", _shown(value))
            for key, value in theirs.items()
            if key != "name" and value != ours[key]
        ]
    if problems:
        raise NetworkError.of(problems, hint="compare schedules of one network")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {item}" for key, item in value.items())
    return "none" if value is None else str(value)


def _labels(words: Sequence[str]) -> dict[str, str]:
    """Return short names of files: without their folders where that leaves them apart."""
    stems = [Path(word).stem for word in words]
    bare = [str(Path(word).with_suffix("")) for word in words]
    labels = [
        stem if stems.count(stem) == 1 and stem != BASELINE else name
        for stem, name in zip(stems, bare, strict=True)
    ]
    # The whole name of baseline.json in this folder, for the untouched network has the other, and
    # of a.json beside a.bak: a picture finds its scores by the label.
    return {
        word: str(Path(word)) if label == BASELINE or labels.count(label) > 1 else label
        for word, label in zip(words, labels, strict=True)
    }
