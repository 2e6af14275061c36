"""From a study's result to `tuned.json`: the scales with everything that speaks for them.

Before a confirm there is no result, only what the search has seen: its best evaluation, on the
seeds it was chosen by. Such a file says ``not confirmed`` and claims no gain.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version

from skiptune import __version__
from skiptune.canonical import digest
from skiptune.errors import OutputError, StorageError
from skiptune.search.evidence import Measure, Provenance, Score, SeedBlock, TextModel, Verdict
from skiptune.search.overview import leaders
from skiptune.search.result import NOT_CONFIRMED, Measured, Result, of_search
from skiptune.search.study import SEARCH_SEED, OpenStudy
from skiptune.search.tuned import Tuned
from skiptune.search.tuned_network import TunedDecoder, TunedNetwork, TunedPrompts

__all__ = ["best_so_far", "tuned_of"]

# What a score may depend on beyond the stored arrays' own identity.
PACKAGES = ("torch", "numpy", "optuna")


def tuned_of(study: OpenStudy, result: Result) -> Tuned:
    """Return the document of a study's result.

    Arguments:
        study: The study.
        result: What one of its confirms found, a win or not: the verdict says which; or
            `best_so_far`.

    Raises:
        OutputError: No candidate could be measured, so there are no scales to hand over.
    """
    if result.winner is None:
        raise OutputError(
            f"study {result.study}",
            expected="a schedule that was measured on fresh seeds",
            found="none: every candidate diverged, or the search proposed none",
            hint=f"look at them with `skiptune status {result.study}`",
        )
    gain = result.winner.gain(result.baseline.value)
    ends = result.winner.gain_interval(result.baseline.value, 1 - result.alpha)
    images = result.baseline.images
    confirmed = result.verdict != NOT_CONFIRMED
    return Tuned.of(
        result.schedule,
        skips=study.checkpoint.skips,
        study=result.study,
        network=TunedNetwork(
            name=_network_name(study),
            sha256=study.checkpoint.sha256,
            dtype=study.checkpoint.dtype,
            decoder=_decoder(study),
            prompts=_prompts(study),
        ),
        setting=study.setting.with_knobs(result.schedule.knobs).to_json()
        if result.schedule.knobs
        else study.spec.setting,
        untouched_setting=study.spec.setting if result.schedule.knobs else None,
        verdict=Verdict(
            verdict="win" if result.verdict == "win" else "no significant gain",
            gain=None if gain is None else 100 * gain,
            interval=None if ends is None else (100 * ends[0], 100 * ends[1]),
            alpha=result.alpha,
        )
        if confirmed
        else Verdict(verdict="not confirmed"),
        measure=Measure(
            metric=result.metric,
            better=result.better,
            extractor=study.extractor.name,
            extractor_sha256=study.extractor.sha256,
            reference=None if study.reference is None else study.reference.name,
            reference_sha256=None if study.reference is None else study.reference.digest,
            unit=result.unit,
            text_models={
                one.key: TextModel(name=one.name, sha256=one.encoder.sha256)
                for one in study.objective.texts
            },
        ),
        baseline=_score(result.baseline),
        tuned=_score(result.winner),
        controls=[_score(row) for row in result.controls],
        seeds={
            "search": SeedBlock(first=SEARCH_SEED, images=study.rungs[-1]),
            "confirm A": SeedBlock(first=result.seeds[0], images=images),
            "confirm B": SeedBlock(first=result.seeds[1], images=images),
        }
        if confirmed
        else {"search": SeedBlock(first=SEARCH_SEED, images=images)},
        microbatch=study.spec.microbatch,
        provenance=Provenance(
            skiptune=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            evaluations=result.evaluations,
            images=result.images,
            seconds=result.seconds,
            device=str(next(study.checkpoint.network.parameters()).device),
            versions={package: version(package) for package in PACKAGES},
        ),
    )


def best_so_far(study: OpenStudy) -> Result:
    """Return the best evaluation of a search as a result that is not confirmed.

    Raises:
        StorageError: No evaluation is scored yet.
    """
    first = next(iter(leaders(study.database, study.spec.study, 1)), None)
    if first is None:
        raise StorageError(
            f"study {study.spec.study}",
            expected="a finished confirm, or at least one scored schedule of the search",
            found="none",
            hint=f"go on with `skiptune worker {study.spec.study}`",
        )
    return Result(
        **of_search(study),
        metric=first.metric,
        confirm=0,
        alpha=study.spec.confirm.alpha,
        seeds=(SEARCH_SEED, SEARCH_SEED),
        baseline=first.baseline,
        winner=first.measured,
        controls=(),
        schedule=first.schedule,
        params=dict(first.params),
        edges=(),
        verdict=NOT_CONFIRMED,
        tested=False,
    )


def _network_name(study: OpenStudy) -> str:
    """Return the bundled name, or the file's or pipeline's own: paths mean nothing elsewhere."""
    checkpoint = study.checkpoint
    bundled = study.spec.network.checkpoint == checkpoint.name or checkpoint.path.is_dir()
    return checkpoint.name if bundled else f"{checkpoint.name}{checkpoint.path.suffix}"


def _decoder(study: OpenStudy) -> TunedDecoder | None:
    decoder = study.checkpoint.decoder
    if decoder is None:
        return None
    return TunedDecoder(
        name=decoder.name,
        sha256=decoder.sha256,
        dtype=decoder.dtype,
        latents=decoder.latents.name,
        microbatch=decoder.microbatch,
        identity=digest(decoder.describe()),
    )


def _prompts(study: OpenStudy) -> TunedPrompts | None:
    told = study.checkpoint.config.get("prompts")
    if told is None:
        return None
    # In a cache the file is called by its content.
    names = {file["key"]: file["name"] for file in study.row.files}
    return TunedPrompts(
        name=names["network.prompts"], sha256=told["sha256"], identity=digest(told)
    )


def _score(row: Measured) -> Score:
    return Score(
        label=row.label,
        images=row.images,
        nfe=row.nfe,
        value=row.value,
        standard_error=row.standard_error,
        interval=row.interval(),
        difference=row.difference,
        difference_error=row.difference_error,
    )
