"""Commands before a study: write its file, look at the network, check everything."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from skiptune import __version__
from skiptune.commands.options import (
    Options,
    device_option,
    pass_options,
    shared,
    study_option,
)
from skiptune.errors import SpecError

if TYPE_CHECKING:
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.sampling.norms import NormRatios
    from skiptune.search.spec import StudySpec

__all__ = ["check", "env", "init", "skips"]

PACKAGES = (
    "torch", "torchvision", "torch-fidelity", "numpy", "optuna", "sqlalchemy", "alembic",
    "pydantic", "click", "rich", "pillow", "safetensors",
)  # fmt: skip
PROBE_SEED = 0  # of the images that `check` and `skips --norms` make and throw away
NORM_IMAGES = 16
Value = TypeVar("Value")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--preset", default="fashion", show_default=True, help="The study to begin with.")
@click.option("--list", "list_", is_flag=True, help="List the presets and write nothing.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@shared
@pass_options
def init(options: Options, file: Path | None, preset: str, *, list_: bool, force: bool) -> None:
    """Write a commented study file to FILE.

    \b
    Examples:
      skiptune init study.yaml                     begin with the bundled study
      skiptune init study.yaml --preset fashion    name the preset
      skiptune init --list                         which presets there are
    """
    from skiptune.commands.output import print_json, say
    from skiptune.search.output import write_whole
    from skiptune.search.spec import preset_text, presets

    if list_:
        if options.json:
            print_json({"presets": presets()})
        else:
            print("\n".join(presets()))
        return
    text = preset_text(preset)
    if file is None:
        raise SpecError(
            "skiptune init FILE",
            expected="the path of the file to write",
            found="nothing",
            hint="for example: skiptune init study.yaml",
        )
    write_whole(file, text.encode("utf-8"), force=force)
    if options.json:
        print_json({"written": str(file), "preset": preset})
    say(options, f"Wrote study: {file}")
    say(options, f"Next: skiptune check {file}")


@click.command()
@click.argument("network", metavar="SPEC|CHECKPOINT")
@click.option("--norms", is_flag=True, help="Show the norm of each skip over the main path's.")
@study_option
@shared
@pass_options
def skips(options: Options, network: str, overrides: tuple[str, ...], *, norms: bool) -> None:
    """List the skip connections of a network, deepest first.

    A scale acts through the block's shortcut; the normalised branch undoes it, unless one of its
    groups mixes channels of the main path and the skip.

    With --norms: how strong each skip is beside the main path it joins, per noise level, measured
    while a few images are sampled as the study says, or with dpmpp_2m in 6 steps.

    \b
    Examples:
      skiptune skips fashion                 the bundled network
      skiptune skips study.yaml              the network of a study, and what is searched
      skiptune skips network.safetensors     a checkpoint
      skiptune skips fashion --norms --json
    """
    from skiptune.commands.output import print_json, print_text, say

    spec = _spec_if_any(network, overrides)
    checkpoint = _checkpoint(network, spec)
    searched = None if spec is None else _searched(spec, checkpoint)
    found = _norms(spec, checkpoint) if norms else None
    if options.json:
        from dataclasses import asdict

        rows = [asdict(skip) for skip in checkpoint.skips]
        if searched is not None:
            rows = [row | {"searched": row["address"] in searched} for row in rows]
        extra = {} if found is None else {"norms": asdict(found)}
        identity = {"network": checkpoint.name, "sha256": checkpoint.sha256}
        print_json({**identity, "skips": rows, **extra})
        return
    from skiptune.views.network import heat_table, skip_table

    if found is not None:
        print_text(heat_table(found))
        say(
            options,
            f"{checkpoint.name}: norm of the skip over norm of the main path, "
            f"mean of {found.images} images on their way through the solver",
        )
        return
    print_text(skip_table(checkpoint.skips, searched=searched))
    say(options, f"{checkpoint.name}: {len(checkpoint.skips)} skips, sha256 {checkpoint.sha256}")


@click.command()
@click.argument("spec", metavar="SPEC|PRESET")
@study_option
@device_option
@shared
@pass_options
def check(options: Options, spec: str, overrides: tuple[str, ...], device: str) -> None:
    """Check a study before it runs, and what it costs.

    Files, hashes, database, one microbatch: one line per check with its time. Nothing is written.

    \b
    Examples:
      skiptune check fashion
      skiptune check study.yaml --device cuda
      skiptune check study.yaml -s search.evaluations=100
    """
    from skiptune.commands.device import check_device
    from skiptune.commands.output import print_json
    from skiptune.search.spec import load_spec

    report = _Report(quiet=options.json)
    study = report.add(
        "spec",
        lambda: load_spec(spec, overrides=overrides),
        lambda s: f"study {s.study}, space {s.space.kind}, {s.search.evaluations} schedules",
    )
    report.add("device", lambda: check_device(device), lambda _: device)
    _check_parts(report, study, spec, device)
    row = _check_storage(report, study, options.url)
    report.extra["stored"] = row is not None
    checkpoint, meaning = report.kept["checkpoint"], report.kept["meaning"]
    if row is not None:
        from skiptune.search.study import check_unchanged

        report.add(
            "resume",
            lambda: check_unchanged(row, meaning, source=spec),
            lambda _: f"study {study.study} is stored and means the same",
        )
    _check_speed(report, study, checkpoint)
    if options.json:
        print_json({"study": study.study, "checks": report.rows, **report.extra})


@click.command()
@shared
@pass_options
def env(options: Options) -> None:
    """Print versions, threads and devices: text for a bug report.

    \b
    Examples:
      skiptune env
      skiptune env --json
    """
    import torch

    from skiptune.commands.output import print_json
    from skiptune.storage.location import masked_url

    facts: dict[str, Any] = {
        "skiptune": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "devices": ["cpu"]
        + [
            f"cuda:{index} {torch.cuda.get_device_name(index)}"
            for index in range(torch.cuda.device_count())
        ],
        "storage": masked_url(options.url),
        "variables": {
            name: masked_url(text) if "://" in text else text
            for name, text in sorted(os.environ.items())
            if name.startswith("SKIPTUNE_") or name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        },
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if options.json:
        print_json(facts)
        return
    for key, fact in facts.items():
        if isinstance(fact, dict):
            for name, text in fact.items():
                print(f"{name}: {text}")
        else:
            print(f"{key}: {', '.join(fact) if isinstance(fact, list) else fact}")


class _Report:
    """Checks, their times, and what later ones need of earlier ones."""

    def __init__(self, *, quiet: bool) -> None:
        self.rows: list[dict[str, Any]] = []
        self.kept: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
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


def _check_parts(report: _Report, spec: StudySpec, source: str, device: str) -> None:
    from skiptune.search.study import check_study, study_meaning

    def words(parts: Any) -> str:
        checkpoint, objective, space = parts
        extractor, reference = objective.extractor, objective.reference
        held = "no reference"
        if reference is not None:
            count = "unknown size" if reference.images is None else f"{reference.images:,} images"
            held = f"reference {reference.name} of {count}"
        return (
            f"network {checkpoint.name} (sha256 {checkpoint.sha256[:12]}), "
            f"{len(checkpoint.skips)} skips, {len(space.scale_names)} scales searched; "
            f"extractor {extractor.name}, {extractor.dim} features; "
            f"{held}; measures {', '.join(objective.keys)}"
        )

    parts = report.add("parts", lambda: check_study(spec, device=device, source=source), words)
    report.kept["checkpoint"], report.kept["extractor"] = parts[0], parts[1].extractor
    report.kept["meaning"] = study_meaning(spec, *parts[:2])


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


def _check_speed(report: _Report, spec: StudySpec, checkpoint: Checkpoint) -> None:
    from skiptune.sampling.images import sample
    from skiptune.search.plan import confirm_images, search_images
    from skiptune.views.numbers import count, duration

    setting = spec.setting.to_setting()
    extractor = report.kept["extractor"]

    def probe() -> float:
        seeds = range(PROBE_SEED, PROBE_SEED + spec.microbatch)
        # The first microbatch warms up; what a study does thousands of times is the second.
        for _ in range(2):
            began = time.perf_counter()
            for batch in sample(checkpoint.network, setting, seeds, microbatch=spec.microbatch):
                extractor(batch.images)
            seconds = time.perf_counter() - began
        return spec.microbatch / seconds

    rate = report.add(
        "sampling", probe, lambda r: f"one microbatch of {spec.microbatch}: {r:.1f} images/s"
    )
    images = search_images(spec) + confirm_images(spec)
    seconds = images / rate
    report.extra |= {"images": images, "seconds": round(seconds), "images_per_second": rate}
    report.add(
        "cost",
        lambda: None,
        lambda _: f"about {count(images)} images, {duration(seconds)} on one worker",
    )


def _spec_if_any(target: str, overrides: tuple[str, ...]) -> StudySpec | None:
    from skiptune.search.spec import load_spec, presets

    if target in presets() or Path(target).suffix in (".yaml", ".yml") or overrides:
        return load_spec(target, overrides=overrides)
    return None


def _checkpoint(target: str, spec: StudySpec | None) -> Checkpoint:
    from skiptune.sampling.checkpoint import load_checkpoint

    if spec is None:
        return load_checkpoint(target)
    return load_checkpoint(spec.network.checkpoint, sha256=spec.network.sha256)


def _norms(spec: StudySpec | None, checkpoint: Checkpoint) -> NormRatios:
    from skiptune.sampling.norms import norm_ratios
    from skiptune.sampling.setting import Setting

    setting = Setting() if spec is None else spec.setting.to_setting()
    seeds = range(PROBE_SEED, PROBE_SEED + NORM_IMAGES)
    return norm_ratios(checkpoint.network, setting, seeds)


def _searched(spec: StudySpec, checkpoint: Checkpoint) -> frozenset[str]:
    from skiptune.sampling.setting import sigmas
    from skiptune.search.space import Space

    space = Space.of(spec.space, checkpoint.skips, sigmas(spec.setting.to_setting()))
    return frozenset(skip.address for skip in space.skips)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
