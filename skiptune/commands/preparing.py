"""Commands before a study: write its file, look at the network, tell what is installed."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skiptune import __version__
from skiptune.commands.options import (
    Options,
    pass_options,
    shared,
    study_option,
)
from skiptune.errors import SpecError, quoted

if TYPE_CHECKING:
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.sampling.norms import NormRatios
    from skiptune.search.spec import StudySpec

__all__ = ["env", "init", "skips"]

PACKAGES = (
    "torch", "torchvision", "torch-fidelity", "numpy", "optuna", "sqlalchemy", "alembic",
    "pydantic", "click", "rich", "pillow", "safetensors", "diffusers",
)  # fmt: skip
PROBE_SEED = 0  # of the images that `skips --norms` makes and throws away
NORM_IMAGES = 16


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--preset",
    metavar="NAME",
    default="fashion",
    show_default=True,
    help="The study to begin with.",
)
@click.option("--list", "list_", is_flag=True, help="List the presets and write nothing.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@shared
@pass_options
def init(options: Options, file: Path | None, preset: str, *, list_: bool, force: bool) -> None:
    """Write a commented study file to FILE.

    Presets other than `fashion` name published networks: `skiptune fetch FILE` brings them, `hf
    download` those that are pipelines of diffusers. What is published about them, and was not run
    here, stands in the list.

    \b
    Examples:
      skiptune init study.yaml                              begin with the bundled study
      skiptune init study.yaml --preset edm-cifar10-cond    EDM's network of CIFAR-10
      skiptune init --list                                  which presets there are
      skiptune init --list --json                           the same with every source
    """
    from skiptune.commands.output import print_json, print_text, say
    from skiptune.search.output import write_whole
    from skiptune.search.spec import preset_text, presets

    if list_:
        from dataclasses import asdict

        from skiptune.search.published import PUBLISHED
        from skiptune.views.presets import preset_table

        if options.json:
            published = {name: asdict(found) for name, found in PUBLISHED.items()}
            print_json({"presets": presets(), "published": published, "run_here": False})
        else:
            print_text(preset_table())
            say(options, "FIDs are what others have published, not run here: docs/presets.md")
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
    needs = "_url:" in text
    say(options, f"Next: skiptune {'fetch' if needs else 'check'} {quoted(file)}")


@click.command()
@click.argument("network", metavar="SPEC|CHECKPOINT")
@click.option("--norms", is_flag=True, help="Show the norm of each skip over the main path's.")
@click.option("--trace", is_flag=True, help="Watch one call instead of knowing the family.")
@study_option
@shared
@pass_options
def skips(
    options: Options, network: str, overrides: tuple[str, ...], *, norms: bool, trace: bool
) -> None:
    """List the skip connections of a network, deepest first.

    A scale acts through the block's shortcut; the normalised branch undoes it, unless one of its
    groups mixes channels of the main path and the skip.

    With --norms: how strong each skip is beside the main path it joins, per noise level, measured
    while a few images are sampled as the study says, or with dpmpp_2m in 6 steps.

    With --trace: what one call of the network concatenates to its main path and gives to which
    module, and whether that is what is known of its family. For networks of your own there is
    skiptune.sampling.tracing.trace_skips.

    \b
    Examples:
      skiptune skips fashion                 the bundled network
      skiptune skips study.yaml              the network of a study, and what is searched
      skiptune skips network.safetensors --trace
      skiptune skips fashion --norms --json
    """
    from skiptune.commands.output import print_json, print_text, say

    spec = _spec_if_any(network, overrides)
    checkpoint = _checkpoint(network, spec, calls=trace or norms)
    if trace:
        _traced(options, checkpoint)
        return
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


def _traced(options: Options, checkpoint: Checkpoint) -> None:
    """Print what one call of a network joins, and hold it against what its family knows."""
    from dataclasses import asdict

    import torch

    from skiptune.commands.output import print_json, print_text, say
    from skiptune.sampling.tracing import trace_skips
    from skiptune.views.network import skip_table

    network: Any = checkpoint.network
    if getattr(network, "needs_prompts", False):
        network = network.without_words()
    size = network.img_resolution
    x = torch.zeros(1, network.img_channels, size, size)
    traced = [place.skip for place in trace_skips(network, x, torch.tensor(1.0), None)]
    joined = [(skip.resolution, skip.main_channels, skip.skip_channels) for skip in traced]
    known = [(s.resolution, s.main_channels, s.skip_channels) for s in checkpoint.skips]
    agrees = joined == known
    if options.json:
        identity = {"network": checkpoint.name, "sha256": checkpoint.sha256}
        print_json({**identity, "traced": [asdict(skip) for skip in traced], "agrees": agrees})
        return
    print_text(skip_table(traced))
    words = "as its family has them" if agrees else f"its family has {len(known)} others"
    say(options, f"{checkpoint.name}: {len(traced)} skips in one call, {words}")


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


def _spec_if_any(target: str, overrides: tuple[str, ...]) -> StudySpec | None:
    from skiptune.search.spec import load_spec, presets

    if target in presets() or Path(target).suffix in (".yaml", ".yml") or overrides:
        return load_spec(target, overrides=overrides)
    return None


def _checkpoint(target: str, spec: StudySpec | None, *, calls: bool) -> Checkpoint:
    """Load a network, and where it is called also the prompts that its study tells it."""
    from skiptune.sampling.checkpoint import load_checkpoint
    from skiptune.search.prompting import with_prompts

    if spec is None:
        return load_checkpoint(target)
    found = load_checkpoint(spec.network.checkpoint, sha256=spec.network.sha256)
    return with_prompts(found, spec.network.prompts, source=target) if calls else found


def _norms(spec: StudySpec | None, checkpoint: Checkpoint) -> NormRatios:
    from skiptune.sampling.levels import usual_setting
    from skiptune.sampling.norms import norm_ratios

    usual = usual_setting(checkpoint.network)
    setting = usual if spec is None else spec.setting.to_setting()
    seeds = range(PROBE_SEED, PROBE_SEED + NORM_IMAGES)
    return norm_ratios(checkpoint.network, setting, seeds)


def _searched(spec: StudySpec, checkpoint: Checkpoint) -> frozenset[str]:
    from skiptune.sampling.levels import grid_points
    from skiptune.search.space import Space

    points = grid_points(checkpoint.network, spec.setting.to_setting())
    space = Space.of(spec.space, checkpoint.skips, points)
    return frozenset(skip.address for skip in space.skips)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
