"""What is wrong with stored files, where the store answers and where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from skiptune.errors import StorageError
from skiptune.sampling.schedule import Schedule
from skiptune.search.store_findings import missing_files, orphaned, undelivered
from skiptune.storage import leases, ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database, init_database


class Silent(ArrayStore):
    """A store that cannot be reached."""

    def _fails(self, *given: object, **named: object) -> Iterator[str]:
        raise StorageError("s3://b", expected="an answer", found="none", hint="look at the net")

    size = files = notes = _fails  # type: ignore[assignment]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with init_database(database_url) as opened:
        yield opened


def sampled(database: Database, store: ArrayStore) -> tuple[ledger.Study, list[str]]:
    """A study with three chunks, whose files are in a store."""
    study = ledger.create_study(database, name="cats", spec={}, meaning={})
    ledger.add_evaluation(
        database, study.id, kind="proposal", label="proposal", block="search",
        series={"network": "n"}, measure={"extractor": "e"},
        schedule=Schedule.uniform({"8x8_block0": 0.5}).to_json(), first_seed=1_000_000,
        images=750, params={},
    )  # fmt: skip
    digests = []
    while (held := leases.claim_chunk(database, study.id, worker="w", seconds=60.0)) is not None:
        array = {"features": np.full((250, 2), held.first_seed, dtype=np.float32)}
        digests.append(store.write(array))
        leases.commit_chunk(database, held, array=digests[-1], seconds=1.0, nfe=6.0)
    return study, digests


def test_each_missing_file_is_named_with_its_chunk(database: Database, tmp_path: Path) -> None:
    store = ArrayStore(tmp_path / "arrays")
    study, digests = sampled(database, store)
    sizes: list[int] = []
    assert list(missing_files(database, store, study, most=10, sizes=sizes)) == []
    assert len(sizes) == 3 and min(sizes) > 250 * 2 * 4
    Path(store.place(digests[1])).unlink()
    (found,) = missing_files(database, store, study, most=10, sizes=[])
    assert found.found == "1 of 3 stored files looked for are missing"
    assert found.details == (f"chunk from seed 1000250: {store.place(digests[1])}",)
    assert found.is_left and not found.fixable and found.study == "cats"
    assert list(undelivered(store, study)) == []


def test_a_store_that_does_not_answer_is_said_by_each_check(
    database: Database, tmp_path: Path
) -> None:
    study, _ = sampled(database, ArrayStore(tmp_path / "arrays"))
    silent = Silent(tmp_path / "arrays")
    found = [
        *missing_files(database, silent, study, most=10, sizes=[]),
        *undelivered(silent, study),
        *orphaned(database, silent),
    ]
    assert [(one.check, one.study) for one in found] == [
        ("files", "cats"), ("pending", "cats"), ("orphans", None),
    ]  # fmt: skip
    assert {one.found for one in found} == {"s3://b: none (expected: an answer)"}
    assert {one.mend for one in found} == {"look at the net"}
