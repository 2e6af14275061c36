"""What a study cost, how its schedule is used, where its numbers come from and where they end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import yaml

from skiptune.errors import quoted
from skiptune.objectives.catalogue import PROMPT
from skiptune.search.findings import Cost, Findings
from skiptune.search.result import WIN
from skiptune.views import numbers
from skiptune.views.report.blocks import (
    Block,
    Bullets,
    Code,
    Facts,
    Fold,
    Listing,
    Paragraph,
    Section,
)

__all__ = [
    "cost_section",
    "limits_section",
    "no_proof_text",
    "provenance_section",
    "use_section",
]

COST_HEADS = ("part", "images", "taken over", "network evaluations", "worker time")


def cost_section(found: Findings) -> Section:
    """Return images, worker seconds and GPU hours, part by part."""
    study = found.explanation.overview
    rows = [_cost_row(cost) for cost in found.costs]
    if len(rows) > 1:
        rows.append(_cost_row(Cost("together", study.spending)))
    devices = [
        f"{device.device or 'a device that no chunk tells'}: {numbers.count(device.images)} images"
        f" in {numbers.duration(device.seconds)}"
        for device in found.origin.devices
    ]
    gpu = sum(device.seconds for device in found.origin.devices if device.is_gpu)
    facts = [
        ("schedules", f"{study.evaluations} of {study.budget}, {_states(study.states)}"),
        ("GPU hours", f"{gpu / 3600:.2f}" if gpu else "none"),
        ("devices", "; ".join(devices) or "none"),
        ("taken over from other studies", f"{numbers.count(study.spending.reused_images)} images"),
        (
            "sampled twice after a lost worker",
            f"{numbers.count(study.spending.doubled_images)} images",
        ),
    ]
    table = Listing(
        COST_HEADS,
        rows,
        right=COST_HEADS[1:],
        caption="What was sampled for this study; what it took over cost it nothing",
        strong=len(rows) - 1 if len(rows) > 1 else None,
    )
    return Section("cost", "What it cost", [table, Facts(facts)])


def use_section(found: Findings) -> Section:
    """Return the commands and the lines of Python that use the schedule."""
    name = quoted(found.explanation.overview.study)
    if found.result is None:
        commands = [f"skiptune confirm {name}", *_commands(name)]
        blocks: list[Block] = [
            Paragraph(
                "Nothing is proved yet: confirm it on fresh seeds first. A study that has not "
                "ended goes on with skiptune tune or skiptune worker.",
                "warning",
            )
        ]
        if found.explanation.overview.best is None:
            blocks = [Paragraph("There is nothing to use yet: keep the untouched network.")]
            return Section("use", "How to use it", blocks)
    elif found.result.winner is None:
        blocks = [Paragraph("There is nothing to use: keep the untouched network.")]
        return Section("use", "How to use it", blocks)
    else:
        commands, blocks = _commands(name), []
        if found.result.verdict != WIN:
            text = (
                f"{no_proof_text(found)}: the untouched network is what to use. The schedule can "
                "be handed over all the same."
            )
            blocks.append(Paragraph(text, "warning"))
    blocks += [
        Paragraph("On a host with the study's database:"),
        Code("\n".join(f"$ {line}" for line in commands), "console"),
        Paragraph(
            "In Python; another network than the one it was tuned on is refused, and without "
            "the handle the network is as it was:"
        ),
        Code(_PYTHON, "python"),
        Paragraph(
            "A schedule belongs to its network and its setting: with another solver or another "
            "number of steps it has to be measured anew.",
            "quiet",
        ),
    ]
    return Section("use", "How to use it", blocks)


def no_proof_text(found: Findings) -> str:
    """Return that the newest confirm proves no gain, and whether an earlier one does."""
    won = [str(one.number) for one in found.explanation.overview.confirms if one.verdict == WIN]
    if not won:
        return "No gain is proved"
    return f"The newest confirm proves no gain, confirm {' and '.join(won)} did"


_PYTHON = """\
import skiptune

handle = skiptune.load("tuned.json").apply(network)
...  # every call of network(x, sigma, labels) is scaled
handle.remove()"""


def _commands(name: str) -> list[str]:
    return [
        f"skiptune export {name} -o tuned.json",
        "skiptune sample tuned.json --compare -o grid.png",
        f"skiptune best {name}",
    ]


def limits_section(found: Findings) -> Section:
    """Return what the figures do not say."""
    return Section("limits", "What the figures do not say", [Bullets(list(_limits(found)))])


def _limits(found: Findings) -> Iterator[str]:
    result, study = found.result, found.explanation.overview
    setting = found.explanation.setting
    if result is None:
        yield (
            "Nothing here is proved. Every gain is from seeds on which schedules were chosen, "
            "and is too good on average."
        )
    yield (
        f"They hold for this network at {setting['solver']}, {setting['steps']} steps. Another "
        "solver, number of steps, guidance or checkpoint is another question."
    )
    yield (
        f"{study.metric} is a distance of features, corrected for its number of images. It is "
        "not what people prefer, and comparable only with figures of the same features, "
        "reference and correction."
        if "FD(" in str(study.metric) or "FID" in str(study.metric)
        else f"{study.metric} is what was optimised. It is not what people prefer, and "
        "comparable only with figures that were measured in the same way."
    )
    if result is not None and result.tested:
        yield (
            "Intervals are normal ones of paired differences over image seeds; the untouched "
            "network's own value, the unit of a gain, is taken as exact."
            if result.unit != PROMPT
            else "Intervals are normal ones over prompts; another set of prompts is another "
            "population. The untouched network's own value is taken as exact."
        )
        yield (
            "The 95 % intervals of the table are each for themselves; the verdict alone is "
            f"tested, at level {result.alpha:g}."
        )
        if result.second is None:
            yield (
                "No features but those of the search were looked at: part of a gain may be one "
                "in these alone (confirm.second_opinion)."
            )
    yield (
        "A mean over images says nothing of single ones: some are worse with the schedule, and "
        "rare kinds of images may be."
    )
    yield (
        f"The search tried {study.evaluations} schedules. That there is no better one is not "
        "shown."
    )


def provenance_section(found: Findings) -> Section:
    """Return spec, hashes, seeds, versions and devices."""
    origin, study = found.origin, found.explanation.overview
    schedule = None if found.result is None else found.result.schedule
    facts = [
        ("study", f"{study.study}, {origin.study_id}"),
        ("created", f"{origin.created:%Y-%m-%d %H:%M} UTC"),
        ("state", study.state),
        *(("schedule, SHA-256", one.digest) for one in [schedule] if one is not None),
        ("series, SHA-256", origin.series),
        *(
            (f"{what}, SHA-256", f"{name} {digest}".strip())
            for what, name, digest in origin.hashes
        ),
        ("versions", _versions(origin.versions)),
        ("devices", ", ".join(device.device for device in origin.devices if device.device)),
    ]
    seeds = [
        (block.name, numbers.count(block.first), numbers.count(block.count))
        for block in origin.seeds
    ]
    heads = ("block of seeds", "first seed", "images at most")
    spec = yaml.safe_dump(dict(origin.spec), sort_keys=True, allow_unicode=True, width=88)
    blocks: list[Block] = [
        Facts([(name, words) for name, words in facts if words]),
        Listing(
            heads, seeds, right=heads[1:], caption="Seeds: all schedules of a block share them"
        ),
        Fold("The study's whole spec", [Code(spec, "yaml")]),
    ]
    return Section("provenance", "Where the numbers come from", blocks)


def _cost_row(cost: Cost) -> tuple[str, ...]:
    spending = cost.spending
    return (
        cost.name,
        numbers.count(spending.images),
        numbers.count(spending.reused_images),
        numbers.count(round(spending.network_images)),
        numbers.duration(spending.seconds),
    )


def _states(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none yet"


def _versions(versions: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{name} {', '.join(found)}" for name, found in versions.items())
