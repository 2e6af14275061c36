"""A worker: sample leased chunks, extract, store the arrays, commit the rows, until none is left.

What is stored is a pure function of (series, measure, schedule, seeds): nothing of the worker,
the order of work or a restart enters it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from skiptune.canonical import canonical
from skiptune.errors import LeaseLostError, StorageError
from skiptune.sampling.hooks import check_effect, scaled
from skiptune.sampling.images import sample, start
from skiptune.sampling.noise import ImageStreams
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting, sigmas
from skiptune.search.events import ChunkDone, ImagesMade, Listener, silent
from skiptune.search.liveness import break_dead_leases, worker_name
from skiptune.search.scoring import score_ready, scored_event
from skiptune.search.study import OpenStudy
from skiptune.storage import leases, ledger

__all__ = ["LEASE_SECONDS", "work", "work_off"]

LEASE_SECONDS = 120.0  # shortest lease; a chunk that takes longer renews it
POLL_SECONDS = 1.0  # between looks at chunks that another worker holds


def work_off(
    study: OpenStudy, *, on_event: Listener = silent, decide: Callable[[], int] = lambda: 0
) -> None:
    """Work until every rung of the study is scored, waiting for what other workers hold.

    Arguments:
        study: The open study.
        on_event: Who watches.
        decide: Called whenever scores may have changed; returns how many rungs it has entered.
    """
    worker = worker_name()
    break_dead_leases(study.database, study.id)
    while True:
        changed = score_ready(study, on_event=on_event) + decide()
        claim = leases.claim_chunk(study.database, study.id, worker=worker, seconds=LEASE_SECONDS)
        if claim is not None:
            # A chunk that somebody else was given meanwhile is theirs.
            with suppress(LeaseLostError):
                work(study, claim, on_event=on_event)
        elif not changed:
            if not ledger.open_rungs(study.database, study.id):
                return
            time.sleep(POLL_SECONDS)
            break_dead_leases(study.database, study.id)


def work(study: OpenStudy, claim: leases.Claim, *, on_event: Listener = silent) -> None:
    """Sample the claimed chunk and commit it.

    Images that are not finite are stored with their flag down and end the evaluation as
    ``diverged``: a fact about the schedule, not a failure of the worker.

    Raises:
        LeaseLostError: The lease went to another worker; nothing of this chunk is kept twice.
        NetworkError: The schedule left the network's output unchanged.
        KeyboardInterrupt: Passed on after the chunk went back to the queue.
    """
    try:
        _work(study, claim, on_event)
    except LeaseLostError:
        raise
    except BaseException:
        # Ctrl-C, a signal's SystemExit and errors alike: the chunk is somebody else's at once.
        leases.release(study.database, claim)
        raise


def _work(study: OpenStudy, claim: leases.Claim, on_event: Listener) -> None:
    began = time.monotonic()
    renewed = began
    network = study.checkpoint.network
    setting = Setting.from_json(claim.series["setting"])
    if canonical(study.series_of(setting)) != canonical(claim.series):
        raise StorageError(
            f"chunk {claim.chunk_id}",
            expected="a series that this network and this version make",
            found=canonical(claim.series),
            hint="let the version and the checkpoint that began this study go on with it",
        )
    schedule = Schedule.from_json(claim.schedule)
    seeds = range(claim.first_seed, claim.first_seed + claim.images)
    if claim.opens_evaluation:
        _check_effect(study, schedule, setting, seeds[0])
    features, finite, labels, nfe = [], [], [], 0.0
    made = 0
    with scaled(network, schedule):
        for batch in sample(network, setting, seeds, microbatch=study.spec.microbatch):
            features.append(study.extractor(batch.images).cpu().numpy())
            finite.append(batch.finite.cpu().numpy())
            if batch.labels is not None:
                labels.append(batch.labels.cpu().numpy())
            nfe = batch.nfe
            made += len(batch.seeds)
            on_event(ImagesMade(made, claim.images, claim.label))
            now = time.monotonic()
            lease = max(LEASE_SECONDS, 3 * (now - began) * claim.images / made)
            if now - renewed > LEASE_SECONDS / 3:
                leases.renew(study.database, claim, seconds=lease)
                renewed = now
    flags = np.concatenate(finite)
    arrays = {"features": np.concatenate(features), "finite": flags.astype(np.float32)}
    if labels:
        arrays["label"] = np.concatenate(labels).astype(np.float32)
    array = study.arrays.write(arrays)
    seconds = time.monotonic() - began
    leases.commit_chunk(study.database, claim, array=array, seconds=seconds, nfe=nfe)
    on_event(ChunkDone(claim.images, seconds, nfe, claim.label))
    if not flags.all():
        evaluation = ledger.finish_evaluation(
            study.database,
            claim.evaluation_id,
            state="diverged",
            reason=f"{int((~flags.astype(bool)).sum())} of {claim.images} images from seed "
            f"{claim.first_seed} on are not finite",
        )
        on_event(scored_event(evaluation, study.images_of(evaluation), None))


def _check_effect(study: OpenStudy, schedule: Schedule, setting: Setting, seed: int) -> None:
    """Refuse a schedule that changes nothing, on two images at the first sigma where it acts."""
    acting = [
        s
        for s in sigmas(setting)[:-1]
        if any(schedule.scale(address, s) != 1.0 for address in schedule.addresses)
    ]
    if not acting:
        return
    sigma = acting[0]
    network = study.checkpoint.network
    noise, labels = start(network, setting, ImageStreams([seed, seed + 1]))
    check_effect(network, schedule, x=noise * sigma, sigma=sigma, class_labels=labels)
