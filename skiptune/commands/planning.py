"""The command that tells what a study will take, and what that can prove."""

from __future__ import annotations

import shlex
from typing import Any

import click

from skiptune.commands.options import (
    Options,
    device_option,
    pass_options,
    shared,
    study_option,
)

__all__ = ["plan"]


@click.command()
@click.argument("spec", metavar="SPEC|PRESET")
@study_option
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many shall work on it, each on a device like this one.",
)
@click.option(
    "--pilot",
    metavar="N",
    type=click.IntRange(min=1),
    help="Sample N images of two schedules to learn how noisy a comparison is.",
)
@device_option
@shared
@pass_options
def plan(
    options: Options,
    spec: str,
    overrides: tuple[str, ...],
    workers: int,
    pilot: int | None,
    device: str,
) -> None:
    """Tell what a study takes, and the smallest gain it can prove.

    Images, network evaluations and time on this machine, part by part, from one microbatch. How
    noisy a comparison is comes from a study of the same images and metric in the database, or from
    a pilot, which is thrown away. Nothing is written.

    \b
    Examples:
      skiptune plan fashion
      skiptune plan fashion --pilot 500
      skiptune plan study.yaml --device cuda --workers 8
      skiptune plan study.yaml -s confirm.images=8000 --json
    """
    from skiptune.commands.device import check_device
    from skiptune.commands.output import print_hints, print_json, print_text, say
    from skiptune.commands.studies import hush
    from skiptune.search.spec import load_spec

    study = load_spec(spec, overrides=overrides)
    check_device(device)
    from skiptune.search.forecast import forecast

    hush(verbose=options.verbose)
    if pilot is not None:
        say(options, f"Pilot: {pilot:,} images of the untouched network and of one schedule")
    place: dict[str, Any] = {"storage": options.url, "device": device, "source": spec}
    found = forecast(study, workers=workers, pilot=pilot, **place)
    assert found is not None  # nobody asks it to stop
    if options.json:
        print_json(found.to_json())
        return
    from skiptune.views.cost import device_text
    from skiptune.views.forecast import forecast_hints, forecast_view

    print_text(*forecast_view(found, device=device_text(device)))
    words = [spec, *(word for override in overrides for word in ("-s", override))]
    print_hints(forecast_hints(found, source=shlex.join(words)))
