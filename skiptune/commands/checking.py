"""The command that looks at a study before it runs: what is wrong or missing, what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from skiptune.commands.options import (
    Options,
    device_option,
    pass_options,
    shared,
    study_option,
)

if TYPE_CHECKING:
    from skiptune.objectives.extractors import Extractor
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.search.fetching import Missing
    from skiptune.search.objective import Objective
    from skiptune.search.space import Space
    from skiptune.search.spec import StudySpec
    from skiptune.search.speed import Speed

__all__ = ["check"]

Value = TypeVar("Value")

_SHOWN = 5


@click.command()
@click.argument("spec", metavar="SPEC|PRESET")
@study_option
@device_option
@shared
@pass_options
def check(options: Options, spec: str, overrides: tuple[str, ...], device: str) -> None:
    """Check a study before it runs, and what it costs.

    Files, hashes, database, one microbatch: one line per check with its time. Nothing is written.
    Files that are missing and have an address are not downloaded but told of, all at once, with
    the command that fetches them; the cost is then told as far as it is known without them.

    \b
    Examples:
      skiptune check fashion
      skiptune check study.yaml --device cuda
      skiptune check study.yaml -s search.evaluations=100
    """
    from skiptune.commands.device import check_device
    from skiptune.commands.output import print_json
    from skiptune.search.fetching import missing_files
    from skiptune.search.spec import load_spec
    from skiptune.search.strategy import resolved

    report = _Report(quiet=options.json)
    study = report.add(
        "spec",
        lambda: load_spec(spec, overrides=overrides),
        lambda s: f"study {s.study}, space {s.space.kind}, {s.search.evaluations} schedules",
    )
    report.add("device", lambda: check_device(device), lambda _: device)
    missing = missing_files(study)
    if any(one.url is not None for one in missing):
        _check_without(report, study, missing, options, source=(spec, overrides), device=device)
        return
    checkpoint, objective, space = _check_parts(report, study, spec, device)
    row = _check_storage(report, study, options.url)
    report.extra["stored"] = row is not None
    if row is not None:
        from skiptune.search.resumption import check_unchanged
        from skiptune.storage.database import open_database

        def same() -> None:
            with open_database(options.url) as database:
                check_unchanged(database, row, report.meaning, source=spec)

        report.add(
            "resume",
            same,
            lambda _: f"study {study.study} is stored and means the same",
        )
    speed = _check_speed(report, study, checkpoint, objective.extractor, objective)
    _check_cost(report, resolved(study, objective, space), speed, device, objective)
    if options.json:
        print_json({"study": study.study, "checks": report.rows, **report.extra})


class _Report:
    """Checks, their times, and what is printed as JSON beside them."""

    def __init__(self, *, quiet: bool) -> None:
        self.rows: list[dict[str, Any]] = []
        self.extra: dict[str, Any] = {}
        self.meaning: dict[str, Any] = {}
        self._quiet = quiet

    def add(self, name: str, action: Callable[[], Value], words: Callable[[Value], str]) -> Value:
        """Run one check and print its line; what it raises ends the command."""
        began = time.perf_counter()
        value = action()
        seconds = time.perf_counter() - began
        found = words(value)
        self.rows.append({"check": name, "found": found, "seconds": round(seconds, 3)})
        if not self._quiet:
            print(f"ok  {name:<10} {found}  ({seconds:.1f} s)", flush=True)
        return value


def _check_parts(
    report: _Report, spec: StudySpec, source: str, device: str
) -> tuple[Checkpoint, Objective, Space]:
    from skiptune.search.strategy import chosen_sampler
    from skiptune.search.study import check_study, study_meaning

    def words(parts: Any) -> str:
        checkpoint, objective, space = parts
        extractor, reference = objective.extractor, objective.reference
        held = "no reference"
        if reference is not None:
            count = "unknown size" if reference.images is None else f"{reference.images:,} images"
            held = f"reference {reference.name} of {count}"
        scales = " and ".join(
            [f"{len(space.scale_names)} scales", *(f"setting.{k.name}" for k in space.knobs)]
        )
        decoder, decoded = checkpoint.decoder, ""
        if decoder is not None:
            size = checkpoint.image_shape[1]
            decoded = (
                f"decoder {decoder.name} (sha256 {decoder.sha256[:12]}) in {decoder.dtype}, "
                f"latents as {decoder.latents.name}, images of {size}x{size}; "
            )
        left = checkpoint.config.get("ignored")
        left_out = f" without its {' and '.join(left)}" if left else ""
        mode = "" if checkpoint.dtype == "float32" else f" in {checkpoint.dtype}"
        return (
            f"network {checkpoint.name}{left_out}{mode} (sha256 {checkpoint.sha256[:12]}), "
            f"{len(checkpoint.skips)} skips, {scales} searched by "
            f"{chosen_sampler(spec, objective, space)}"
            f"{', the untouched network not among them' if space.leaves_out_baseline else ''}; "
            f"{decoded}extractor {extractor.name}, {extractor.dim} features; "
            f"{held}; measures {', '.join(objective.keys)}"
        )

    checkpoint, objective, space = report.add(
        "parts", lambda: check_study(spec, device=device, source=source), words
    )
    _check_prompts(report, spec, checkpoint)
    report.meaning = study_meaning(spec, checkpoint, objective)
    return checkpoint, objective, space


def _check_prompts(report: _Report, spec: StudySpec, checkpoint: Checkpoint) -> None:
    """Tell what prompts search and confirm draw from, how many confirms they serve, which are cut.

    A prompt is cut off where its text encoder takes no more tokens.
    """
    from skiptune.search.prompting import confirms_served, cut_prompts, prompt_counts

    counts, cut = prompt_counts(checkpoint, spec), cut_prompts(checkpoint)
    if counts:
        report.extra["prompts"] = counts
    if cut:
        report.extra["prompts_cut"] = cut
    if not counts and not cut:
        return

    def words(served: int) -> str:
        from skiptune.views.forecast import prompts_text

        said = []
        if counts:
            times = "one confirm" if served == 1 else f"{served} confirms"
            said.append(f"{prompts_text(counts)} They serve {times}")
        if cut:
            first = ", ".join(map(str, cut[:_SHOWN])) + (", ..." if cut[_SHOWN:] else "")
            said.append(f"the text encoder cuts {len(cut)} off: line {first}")
        return "; ".join(said)

    report.add("prompts", lambda: confirms_served(checkpoint, spec), words)


def _check_storage(report: _Report, spec: StudySpec, url: str) -> Any:
    """Return the stored study of this name, or None; nothing is created."""
    from skiptune.commands.output import check_writable
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database
    from skiptune.storage.location import masked_url, sqlite_path

    def look() -> Any:
        path = sqlite_path(url)
        if path is not None and not path.exists():
            check_writable(path, force=False, option="--storage")
            return None
        with open_database(url) as database:
            names = {study.name: study for study in ledger.list_studies(database)}
        return names.get(spec.study)

    def words(row: Any) -> str:
        state = "new study" if row is None else "the study is there and would go on"
        return f"{masked_url(url)}: {state}"

    return report.add("storage", look, words)


def _check_without(
    report: _Report,
    spec: StudySpec,
    missing: tuple[Missing, ...],
    options: Options,
    *,
    source: tuple[str, tuple[str, ...]],
    device: str,
) -> None:
    """Check what can be checked without the files that are missing, then raise what is missing."""
    from skiptune.commands.fetching import fetch_command
    from skiptune.commands.output import print_json
    from skiptune.search.fetching import missing_error

    report.extra["stored"] = _check_storage(report, spec, options.url) is not None
    speed = None
    if not any(one.key.startswith("network.") for one in missing) and spec.objective.samples:
        from skiptune.sampling.checkpoint import load_checkpoint
        from skiptune.sampling.numeric_mode import in_mode
        from skiptune.search.decoding import with_decoder
        from skiptune.search.prompting import with_prompts

        def loaded() -> Any:
            network, sha256 = spec.network.checkpoint, spec.network.sha256
            found = load_checkpoint(network, sha256=sha256, device=device)
            prompts = spec.network.prompts
            found = with_prompts(found, prompts, source=source[0], device=device)
            found = in_mode(found, spec.network.dtype)
            return with_decoder(found, spec, device=device, source=source[0])

        checkpoint = report.add(
            "network",
            loaded,
            lambda found: f"{found.name} (sha256 {found.sha256[:12]}), {len(found.skips)} skips",
        )
        speed = _check_speed(report, spec, checkpoint, None, None)
    _check_cost(report, spec, speed, device)
    command = fetch_command(*source)
    if options.json:
        rows = [
            {"key": one.key, "path": one.path, "url": one.url, "sha256": one.sha256}
            for one in missing
        ]
        extra = {"missing": rows, "command": command}
        print_json({"study": spec.study, "checks": report.rows, **report.extra, **extra})
    raise missing_error(missing, source=source[0], command=command)


def _check_speed(
    report: _Report,
    spec: StudySpec,
    checkpoint: Checkpoint,
    extractor: Extractor | None,
    objective: Objective | None,
) -> Speed:
    """Measure one microbatch, without the features where their files are missing."""
    from skiptune.search.speed import measured_speed

    def words(speed: Speed) -> str:
        note = f", {speed.left_out}" if speed.left_out else ""
        return f"one microbatch of {spec.microbatch}: {speed.rate(spec):.3g} images/s{note}"

    def probe() -> Speed:
        return measured_speed(spec, checkpoint, extractor, objective)

    speed = report.add("sampling", probe, words)
    report.extra["images_per_second"] = speed.rate(spec)
    return speed


def _check_cost(
    report: _Report,
    spec: StudySpec,
    speed: Speed | None,
    device: str,
    objective: Objective | None = None,
) -> None:
    """Tell images, network evaluations and device hours of the search and of one confirm."""
    from skiptune.search.plan import Cost, confirm_cost, search_cost
    from skiptune.search.samplers import DESCENT
    from skiptune.views.cost import cost_text, device_text

    loss_nfe = 0.0 if speed is None else speed.loss_nfe
    if speed is None and _has_losses(spec):
        from skiptune.objectives.denoising import LEVELS

        loss_nfe = float(len(LEVELS))
    parts = {
        "search": search_cost(spec, loss_nfe=loss_nfe),
        "confirm": confirm_cost(spec, loss_nfe=loss_nfe),
    }
    if objective is not None and spec.search.sampler == DESCENT:
        from skiptune.search.sloped import slopes_cost

        parts = {"search": parts["search"], "slopes": slopes_cost(spec, objective), **parts}
    seconds = None
    if speed is not None:
        seconds = {name: speed.seconds(cost) for name, cost in parts.items()}
    whole = sum(parts.values(), Cost())
    report.extra |= {
        "images": whole.images,
        "evaluations": round(whole.evaluations),
        "device": device_text(device),
        "seconds": None if seconds is None else round(sum(seconds.values())),
        "device_hours": None if seconds is None else sum(seconds.values()) / 3600,
    }
    for name, cost in parts.items():
        report.extra[name] = {
            "images": cost.images,
            "evaluations": round(cost.evaluations),
            "seconds": None if seconds is None else round(seconds[name]),
        }
    left_out = "" if speed is None else speed.left_out
    report.add(
        "cost",
        lambda: None,
        lambda _: cost_text(parts, seconds, device=device_text(device), left_out=left_out),
    )


def _has_losses(spec: StudySpec) -> bool:
    """Whether a study compares denoised real images, which takes evaluations of its own."""
    from skiptune.objectives.catalogue import CATALOGUE

    return any(CATALOGUE[item.key].real_images for item in spec.objective.items)
