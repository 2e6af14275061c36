"""From tuned scales to a folder that holds the network with these scales in its weights.

The folder is there whole or not at all. Beside the weights it holds what was done to them, for
people (`BAKED.md`) and programs (`baked.json`), and what the source says of its licence.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from skiptune import __version__
from skiptune.canonical import file_digest
from skiptune.errors import NetworkError, OutputError, Problem
from skiptune.sampling.baked_files import (
    BAKED_KEY,
    MARKER,
    check_original,
    is_notice,
    scales_within,
    source_metadata,
    stored_tensors,
    write_baked,
)
from skiptune.sampling.checkpoint import SOURCE_KEY, Checkpoint
from skiptune.sampling.deviation import Deviation, Deviations, deviations
from skiptune.sampling.fold import Fold, fold
from skiptune.sampling.norm_fit import fit_norms
from skiptune.sampling.official import LICENCE, LICENCE_NOTE
from skiptune.search.output import check_folder_free, whole_folder
from skiptune.search.study import SEARCH_SEED
from skiptune.search.tuned import Tuned

__all__ = ["FORMAT", "IMAGES", "MARKER", "Baked", "bake", "measured_fold"]

FORMAT = "skiptune.baked"
IMAGES = 4
"""Images on which normalisations are fitted, and as many others on which is compared."""

_CARD = "BAKED.md"
_LICENCE_KEY = "skiptune.licence"
_MOST_CARD = 1 << 20  # characters of a card that is looked through for a licence
_LONGEST_TITLE = 1000
# What eps leaves of blocks that fold exactly is far below.
_MOST_OFF, _MOST_LOST = 1e-3, 0.1
_NVIDIAS = ("SongUNet", "DhariwalUNet")


@dataclass(frozen=True)
class Baked:
    """What was written.

    Arguments:
        folder: Where.
        weights: The files in it that hold changed weights.
        fold: What was changed.
        deviations: How far that is from the hooked network.
        licence: Of the weights, as far as the source says it.
        verdict: Of the study, as `tuned.json` has it.
    """

    folder: Path
    weights: tuple[Path, ...]
    fold: Fold
    deviations: Deviations
    licence: str
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {
            "written": self.folder,
            "weights": list(self.weights),
            "verdict": self.verdict,
            "licence": self.licence,
            **_measured(self.fold, self.deviations),
        }


def bake(
    document: Tuned,
    checkpoint: Checkpoint,
    folder: Path,
    *,
    mixed: str = "fold",
    images: int = IMAGES,
    original: Path | None = None,
    force: bool = False,
) -> Baked:
    """Fold tuned scales into the weights of their network and write these.

    Arguments:
        document: The scales.
        checkpoint: Their network, with its decoder and prompts if any; as it was afterwards.
        folder: What is written.
        mixed: What becomes of blocks that cannot be folded exactly: one of `fold.MIXED`.
        images: See `measured_fold`.
        original: The .pt, .pth or .ckpt that the checkpoint was converted from: its whole content
            is written, with the changed weights in it, in place of the U-Net's state alone.
        force: Replace a folder of this kind.

    Raises:
        NetworkError: The network is another one, or the scales cannot be weights.
        OutputError: The folder is there, holds the network itself, or cannot be written.
    """
    document.check(checkpoint.skips, sha256=checkpoint.sha256)
    check_folder_free(folder, marker=MARKER, force=force)
    _refuse_over_source(folder, checkpoint.path)
    if original is not None:
        check_original(checkpoint, original)
    folded, found = measured_fold(document, checkpoint, mixed=mixed, images=images)
    licence = _licence(checkpoint)
    within = scales_within(checkpoint.path)
    network = {"name": document.network.name, "sha256": document.network.sha256}
    about = {
        "format": FORMAT,
        "schema_version": 1,
        "skiptune": __version__,
        "study": document.study,
        "verdict": document.verdict.verdict,
        "network": network if within is None else {**network, "baked": _origin(within)},
        "schedule_sha256": document.schedule_sha256,
        "setting": document.setting.to_setting().to_json(),
        "licence": licence,
        **_measured(folded, found),
    }
    metadata = {BAKED_KEY: json.dumps(about), _LICENCE_KEY: licence}
    with whole_folder(folder, marker=MARKER, force=force) as place:
        weights = write_baked(checkpoint, folded, place, metadata=metadata, original=original)
        if not checkpoint.path.is_dir():  # pipelines bring theirs
            for path in _cards(checkpoint):
                shutil.copyfile(path, place / "README.md")
            for path in _notices(checkpoint):
                shutil.copyfile(path, place / path.name)
        names = {str(path.relative_to(place)): file_digest(path) for path in weights}
        text = json.dumps({**about, "weights": names}, indent=2, allow_nan=False) + "\n"
        (place / MARKER).write_text(text, encoding="utf-8")
        card = _card_text(document, folded, found, licence, tuple(names), within)
        (place / _CARD).write_text(card, encoding="utf-8")
    return Baked(
        folder=folder,
        weights=tuple(folder / name for name in names),
        fold=folded,
        deviations=found,
        licence=licence,
        verdict=document.verdict.verdict,
    )


def measured_fold(
    document: Tuned, checkpoint: Checkpoint, *, mixed: str = "fold", images: int = IMAGES
) -> tuple[Fold, Deviations]:
    """Fold tuned scales, and measure how far the weights are from the hooks; nothing is written.

    Arguments:
        document: The scales, and the setting at which images are made.
        checkpoint: Their network, as it was afterwards.
        mixed: As for `bake`.
        images: On so many normalisations are fitted (seeds of the search), and on so many others
            the two are compared (seeds from 0 on).

    Raises:
        NetworkError: The scales cannot be weights, or there are none; the file's type cannot hold
            the weights; or blocks that should fold exactly do not.
    """
    schedule = document.schedule
    if not schedule.terms:
        knobs = document.knob_changes
        raise NetworkError(
            f"scales of {document.study}",
            expected="at least one scale other than 1",
            found=f"an untouched network{' and ' + ', '.join(knobs) if knobs else ''}",
            hint=f"use {document.network.name} as it is{', at that setting' if knobs else ''}",
        )
    network, setting = checkpoint.network, document.setting.to_setting()
    fold(network, schedule, mixed=mixed)  # refuses before anything is sampled
    seeds = range(SEARCH_SEED, SEARCH_SEED + images)
    fitted = fit_norms(network, schedule, setting, seeds)
    if not all(t.isfinite().all() for fit in fitted.values() for t in (fit.factor, fit.shift)):
        raise _diverged(document)
    folded = fold(network, schedule, mixed=mixed, fitted=fitted)
    tensors = stored_tensors(checkpoint, folded.keys)
    _refuse_overflow(document, folded, tensors)

    def off(tensors: Mapping[str, Tensor]) -> Deviations:
        return deviations(
            network,
            schedule,
            folded,
            setting,
            range(images),
            tensors=tensors,
            decoder=checkpoint.decoder,
        )

    found = off(tensors)
    if not all(math.isfinite(value) for value in (*asdict(found.whole).values(), found.levels)):
        raise _diverged(document)
    lost = found.exact
    if found.rounded and _is_lost(lost):
        # Rounding to bfloat16 alone may do that: it is told, and is no other use of the skip.
        lost = off({key: tensor.float() for key, tensor in tensors.items()}).exact
    if _is_lost(lost):
        raise NetworkError(
            f"scales of {document.study}",
            expected="skips that only the blocks' shortcuts and a normalisation read, and scales"
            " beside which the normalisation's eps is small",
            found=f"blocks that make something else of them, or scales too near 0: folded,"
            f" {lost.effect:.0%} of the scales' effect is lost",
            hint="install these scales at run time instead: skiptune.load(FILE).apply(network)",
        )
    return folded, found


def _is_lost(found: Deviation) -> bool:
    return found.output > _MOST_OFF and found.effect > _MOST_LOST


def _diverged(document: Tuned) -> NetworkError:
    return NetworkError(
        f"scales of {document.study}",
        expected="images that can be compared",
        found="NaN or infinity: with these scales the network diverges",
        hint="export scales that were measured: skiptune export STUDY",
    )


def _refuse_overflow(document: Tuned, folded: Fold, tensors: Mapping[str, Tensor]) -> None:
    """Refuse scales that make weights which the file's type cannot hold."""
    problems = []
    for key, tensor in folded.apply(tensors).items():
        before = tensors[key]
        if before.isfinite().all() and not tensor.isfinite().all():
            exact = folded.apply({key: before.double()})[key]
            where, held = f"scales of {document.study}", str(before.dtype)[6:]
            found = f"{float(exact.abs().max()):.2g} in {key}"
            problems.append(Problem(where, f"weights that the file's {held} can hold", found))
    if problems:
        hint = "bake a file in float32, or install these scales at run time instead"
        raise NetworkError.of(problems, hint=f"{hint}: skiptune.load(FILE).apply(network)")


def _refuse_over_source(folder: Path, source: Path) -> None:
    """Refuse a folder that holds the network which is read: --force would take it away."""
    if source.resolve().is_relative_to(folder.resolve()):
        raise OutputError(
            str(folder),
            expected="a folder without the network that is read",
            found=str(source),
            hint="choose another folder",
        )


def _measured(folded: Fold, found: Deviations) -> dict[str, Any]:
    blocks = []
    for block in folded.blocks:
        row: dict[str, Any] = {"address": block.address, "scales": dict(block.terms)}
        row |= {"exact": not block.mixed, "left": block.left}
        if block.address in found.blocks:
            row["deviation"] = asdict(found.blocks[block.address])
        blocks.append(row)
    return {
        "blocks": blocks,
        "deviation": asdict(found.whole),
        "deviation_of_exact_blocks": asdict(found.exact),
        "grey_levels": found.levels,
        "grey_levels_of_the_scales": found.moved,
        "images": found.images,
        "rounded_to": list(found.rounded),
    }


def _origin(within: Mapping[str, Any]) -> dict[str, Any]:
    """Return what scales a network held before; theirs may have come upon others in turn."""
    return {key: within.get(key) for key in ("study", "schedule_sha256", "network")}


def _licence(checkpoint: Checkpoint) -> str:
    """Return what the source says of its licence, in one sentence."""
    for card in _cards(checkpoint):
        with open(card, encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST_CARD)
        row = re.search(r"^\| licence \| (.+) \|$", text, re.MULTILINE)
        front = re.search(r"\A---\n(?:(?!---).*\n)*?license: *['\"]?([^\s'\"]+)", text)
        if row or front:
            return str((row or front)[1])  # type: ignore[index]
    metadata = source_metadata(checkpoint)
    if _LICENCE_KEY in metadata:
        return metadata[_LICENCE_KEY]
    source = json.loads(metadata.get(SOURCE_KEY, "{}"))
    if str(source.get("file", "")).endswith(".pkl"):
        return LICENCE_NOTE
    config = checkpoint.config
    if config.get("precond") == "edm2" or config.get("model_type", "SongUNet") in _NVIDIAS:
        return f"not said by the file it was made from; {LICENCE} if that was NVIDIA's"
    return "not said by what it was made from: that of the original weights"


def _cards(checkpoint: Checkpoint) -> list[Path]:
    """Return the cards that speak of this checkpoint."""
    path = checkpoint.path
    if path.is_dir():
        return [card for card in (path / "README.md",) if card.is_file()]
    own = path.with_suffix(".md")
    if own.is_file():
        return [own]
    card = path.with_name("README.md")
    if not card.is_file():
        return []
    with open(card, encoding="utf-8", errors="replace") as file:
        title = file.readline(_LONGEST_TITLE)
    return [card] if path.name in title else []


def _notices(checkpoint: Checkpoint) -> list[Path]:
    """Return the licences that lie beside a checkpoint."""
    beside = sorted(checkpoint.path.parent.iterdir())
    return [path for path in beside if path.is_file() and is_notice(path)]


def _card_text(
    document: Tuned,
    folded: Fold,
    found: Deviations,
    licence: str,
    weights: Sequence[str],
    within: Mapping[str, Any] | None,
) -> str:
    """Return the text of the card: what was done to which weights, and how exact it is."""
    network = document.network
    before = ""
    if within is not None:
        origin = _origin(within)
        before = f", which holds scales already: study {origin['study']}, schedule"
        before += f" `{origin['schedule_sha256']}`"
    rows: Mapping[str, str] = {
        "made from": f"{network.name}, sha256 `{network.sha256}`{before}",
        "changed": ", ".join(f"`{name}`" for name in weights),
        "scales of": f"study {document.study}, schedule `{document.schedule_sha256}`",
        "verdict": document.verdict.verdict,
        **({"not in the weights": "; ".join(document.knob_changes)} if document.knobs else {}),
        "tuned at": f"`{json.dumps(document.setting.to_setting().to_json())}`",
        "baked against hooked": f"{found.whole.output:.2g} of the output, {found.whole.effect:.2g}"
        f" of the scales' effect, {found.levels:.2g} of 255 grey levels ({found.images} images)"
        + (f", rounding to {' and '.join(found.rounded)} among it" if found.rounded else ""),
        "baked by": f"skiptune {__version__}",
        "licence": licence,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    blocks = "\n".join(_block_row(block, found) for block in folded.blocks)
    return (
        "# A network with tuned skip scales in its weights\n\n"
        "The scales are in: do not apply them again. Whatever loads the original loads this.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"| skip | scales | folded | of the output | of the effect |\n|---|---|---|---|---|\n"
        f"{blocks}\n"
    )


def _block_row(block: Any, found: Deviations) -> str:
    scales = ", ".join(
        f"{scale:g}" if part == "both" else f"{part} {scale:g}"
        for part, scale in block.terms.items()
    )
    one = found.blocks.get(block.address)
    how = "left at 1" if block.left else "nearly: a mixed group" if block.mixed else "exactly"
    numbers = ("", "") if one is None else (f"{one.output:.2g}", f"{one.effect:.2g}")
    return f"| {block.address} | {scales} | {how} | {numbers[0]} | {numbers[1]} |"
