from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from skiptune.errors import LeaseLostError, StorageError, UnavailableError
from skiptune.search.renewal import Renewal
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import leases
from skiptune.storage.leases import Claim
from tests.search.conftest import Tiny

AWAY = UnavailableError("database", expected="an answer", found="none", hint="wait")


class Renewals:
    """What `leases.renew` does, one after another; waits until so many are through."""

    def __init__(self, *errors: Exception | None) -> None:
        self._errors = list(errors)
        self._through = threading.Condition()
        self.lengths: list[float] = []

    def __call__(self, database: Any, claim: Claim, *, seconds: float) -> None:
        error = self._errors.pop(0) if self._errors else None
        try:
            if error is not None:
                raise error
            RENEW(database, claim, seconds=seconds)
        finally:
            with self._through:
                self.lengths.append(seconds)
                self._through.notify_all()

    def wait(self, count: int) -> None:
        with self._through:
            assert self._through.wait_for(lambda: len(self.lengths) >= count, timeout=60)


RENEW = leases.renew


def claimed(study: OpenStudy, worker: str = "host:0:1:1", *, seconds: float = 600.0) -> Claim:
    study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=250)
    claim = leases.claim_chunk(study.database, study.id, worker=worker, seconds=seconds)
    assert claim is not None
    return claim


def remaining(study: OpenStudy) -> float:
    (lease,) = leases.leases(study.database, study.id)
    return lease.remaining


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(6000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen within a minute")


def test_a_lease_is_renewed_for_as_long_as_the_block_lasts(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = tiny.open(), tiny.open()
    claim = claimed(study, seconds=-5.0)
    assert remaining(other) < 0
    renewals = Renewals()
    monkeypatch.setattr(leases, "renew", renewals)
    lengths = iter([0.03, 500.0, 0.03, 700.0])
    with Renewal(study.database, claim, seconds=lambda: next(lengths, 3000.0)) as renewal:
        renewals.wait(2)
        assert 500.0 < remaining(other) <= 700.0
        renewal.check()
    # The thread has ended: nobody renews any more.
    assert renewals.lengths == [500.0, 700.0]
    assert "renewal" not in {thread.name for thread in threading.enumerate()}


def test_a_lost_lease_is_told_at_the_next_look(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = tiny.open(), tiny.open()
    claim = claimed(study, seconds=-5.0)
    theirs = leases.claim_chunk(other.database, other.id, worker="quick:0:1:1", seconds=600.0)
    assert theirs is not None and theirs.chunk_id == claim.chunk_id
    renewals = Renewals()
    monkeypatch.setattr(leases, "renew", renewals)

    def lost(renewal: Renewal) -> bool:
        try:
            renewal.check()
        except LeaseLostError:
            return True
        return False

    with Renewal(study.database, claim, seconds=lambda: 0.03) as renewal:
        until(lambda: lost(renewal))
    assert len(renewals.lengths) == 1
    assert remaining(other) > 500.0


@pytest.mark.parametrize(
    "error", [AWAY, StorageError("database", expected="a", found="b", hint="c")]
)
def test_a_database_that_is_away_is_asked_again(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    study, other = tiny.open(), tiny.open()
    claim = claimed(study, seconds=-5.0)
    renewals = Renewals(error, error, None)
    monkeypatch.setattr(leases, "renew", renewals)
    with Renewal(study.database, claim, seconds=lambda: 0.3) as renewal:
        renewals.wait(3)
        renewal.check()
    assert remaining(other) > -5.0


def test_an_error_in_the_block_passes_and_ends_the_thread(tiny: Tiny) -> None:
    study = tiny.open()
    with (
        pytest.raises(ZeroDivisionError),
        Renewal(study.database, claimed(study), seconds=lambda: 600.0),
    ):
        raise ZeroDivisionError
    assert "renewal" not in {thread.name for thread in threading.enumerate()}
