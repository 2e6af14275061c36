"""`skiptune score TUNED.json --confirmed`: what the file says, made once more."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from skiptune.commands.measuring import image_progress, study_reference
from skiptune.commands.tuned_network import (
    decoder_place,
    network_place,
    prompts_place,
    tuned_network,
)
from skiptune.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skiptune.commands.options import Options

__all__ = ["reproduce"]

_OTHERWISE = (
    "Another kind of device, number of threads or version of torch changes the last digits:"
    " the file's `provenance` says which made it."
)

_FAR = 1e-3  # of the score: roundings of another device stay far below
_OTHER = (
    "These are other numbers, not other roundings: the file's scores, setting or seeds are not"
    " those of its study. Export it again."
)


def reproduce(
    options: Options,
    name: str,
    places: Mapping[str, str | None],
    *,
    reference: str | None,
    weights: str | None,
    device: str,
) -> None:
    """Sample the seeds behind a file's scores, and print both beside each other.

    Arguments:
        options: Shared ones.
        name: The TUNED.json.
        places: Of `checkpoint` and `decoder`, where they are named.
        reference: Of the study, where it is not bundled.
        weights: The extractor's, where they are not its own.
        device: Torch device.
    """
    from skiptune.commands.device import check_device
    from skiptune.commands.output import print_json, print_text
    from skiptune.search.tuned import load

    path = Path(name)
    if path.suffix != ".json":
        raise SpecError(
            f"--confirmed {name}",
            expected="a TUNED.json",
            found=name,
            hint="export one: skiptune export STUDY -o tuned.json",
        )
    tuned = load(path)
    from skiptune.search.reproduction import deciding_seeds, reproduced

    # Before anything is asked for: of a file that is not confirmed nothing can be made again.
    seeds = deciding_seeds(tuned, name=name)
    network = network_place(places["checkpoint"], tuned, path)
    vae = decoder_place(places["decoder"], tuned, path, network)
    held_against = reference or study_reference(tuned, path)
    if held_against is None:
        called = "" if tuned.measure.reference is None else f", {tuned.measure.reference}"
        raise SpecError(
            "--reference",
            expected=f"the statistics that {name} was scored against{called}",
            found="nothing, and no such file beside it",
            hint="say where they are: --reference FILE",
        )
    check_device(device)
    from skiptune.objectives.extractors import load_extractor
    from skiptune.objectives.reference import load_reference
    from skiptune.views.scores import reproduced_view

    extractor = load_extractor(tuned.measure.extractor, weights=weights, device=device)
    held = load_reference(held_against, extractor=extractor)
    loaded = tuned_network(tuned, network, vae, prompts_place(tuned, path), device=device)
    with ExitStack() as stack:
        bars: dict[str, Callable[[int], None]] = {}

        def told(label: str, done: int) -> None:
            if label not in bars:
                stack.close()
                bars[label] = stack.enter_context(image_progress(options, label, len(seeds)))
            bars[label](done)

        rows = reproduced(tuned, loaded, extractor, held, name=name, on_images=told)
    identical = all(row.is_same for row in rows)
    if options.json:
        print_json(
            {
                "reproduced": name,
                "metric": tuned.measure.metric,
                "seeds": [seeds[0], seeds[-1]],
                "identical": identical,
                "scores": [
                    {"name": row.name, "stored": row.stored, "found": row.found} for row in rows
                ],
            }
        )
        return
    title = f"{name}: {tuned.measure.metric}, seeds {seeds[0]:,} to {seeds[-1]:,}"
    far = any(abs(row.found - row.stored) > _FAR * abs(tuned.baseline.value) for row in rows)
    notes = [] if identical else [_OTHERWISE, *([_OTHER] if far else [])]
    print_text(*reproduced_view(title, rows, notes))
