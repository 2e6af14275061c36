"""The command that shows how the objective moves with every skip's scale."""

from __future__ import annotations

import math
from typing import Any

import click

from skiptune.commands.options import (
    Options,
    device_option,
    pass_options,
    shared,
    store_options,
)

__all__ = ["sensitivity"]


@click.command()
@click.argument("study")
@click.option(
    "--of",
    metavar="SCHEDULE",
    default="best",
    show_default=True,
    help="Which schedule: baseline, best, or a number of `skiptune status`.",
)
@device_option
@store_options
@shared
@pass_options
def sensitivity(
    options: Options,
    study: str,
    of: str,
    device: str,
    artifacts: str | None,
    *,
    group_writable: bool,
) -> None:
    """Show what a little more of each skip would do.

    The derivative of the study's objective goes back through the sampler to every scale at every
    noise level, on 50 images of each of up to 8 chunks of the search's seeds, at the price of
    about 1,600 images. What was computed once is stored and read.

    \b
    Examples:
      skiptune sensitivity fashion                  at the best schedule so far
      skiptune sensitivity fashion --of baseline    at the untouched network
      skiptune sensitivity fashion --of 7 --json
    """
    from skiptune.commands.device import check_device
    from skiptune.commands.output import print_json, print_text, say
    from skiptune.commands.studies import stored_study
    from skiptune.commands.tuning import watched
    from skiptune.sampling.schedule import place_name
    from skiptune.storage import ledger

    check_device(device)
    from skiptune.search.tune import differentiated

    place: dict[str, Any] = {
        "device": device,
        "artifacts": artifacts,
        "group_writable": group_writable,
    }
    with stored_study(options, study, **place) as opened:
        with watched(options, opened) as (listener, interruption):
            found = differentiated(opened, of, on_event=listener, stop=interruption.stop)
        interruption.raise_if_stopped()
        assert found is not None
        evaluation, slopes = found
        baseline = ledger.baseline_score(opened.database, opened.id)
        assert baseline is not None
        metric, value = baseline[1].metric, baseline[1].value
        addresses = [
            place_name(skip.address, part)
            for part in opened.space.parts
            for skip in opened.checkpoint.skips
        ]
        bounds = opened.space.interval_bounds
    if options.json:
        values, errors = slopes.map
        sums, sum_errors = slopes.skips
        within = slopes.within(bounds) if bounds else None
        print_json(
            {
                "study": study,
                "of": evaluation.label,
                "number": evaluation.number,
                "metric": metric,
                "baseline": value,
                "blocks": len(slopes.blocks),
                "nfe": slopes.nfe,
                "levels": slopes.levels,
                "intervals": [
                    {"low": low, "high": None if math.isinf(high) else high}
                    for low, high in bounds
                ],
                "skips": [
                    {
                        "address": address,
                        "slope": float(sums[row]),
                        "standard_error": float(sum_errors[row]),
                        "slopes": values[row].tolist(),
                        "standard_errors": errors[row].tolist(),
                        "interval_slopes": [] if within is None else within[0][row].tolist(),
                        "interval_errors": [] if within is None else within[1][row].tolist(),
                    }
                    for row, address in enumerate(addresses)
                ],
            }
        )
        return
    from skiptune.views.slopes import CLEAR, PART, interval_table, sensitivity_table

    log = math.log1p(PART)
    print_text(sensitivity_table(slopes, addresses, unit=value, log=log))
    if bounds:
        print_text("", interval_table(slopes, addresses, bounds=bounds, unit=value, log=log))
    say(
        options,
        f"{evaluation.label} of {study}: change of {metric} in % of the untouched network's "
        f"{value:.2f} where a scale is {PART:.0%} larger, at each noise level and at all "
        f"(± standard error of {len(slopes.blocks)} blocks of seeds); "
        f"* from {CLEAR:g} standard errors on",
    )
