"""Spent seeds: no two confirms of a study ever see the same image, and their levels stay small."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiptune.errors import StorageError
from skiptune.storage import ledger
from skiptune.storage.database import Database, open_database
from tests.storage.conftest import BACKENDS, Fresh

CALLS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("pqrst"), st.integers(1, 400)),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("kind", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(calls=CALLS)
def test_concurrent_callers_never_share_seeds(
    fresh: Fresh, kind: str, calls: list[tuple[str, str, int]]
) -> None:
    most = {key: max(n for *k, n in calls if tuple(k) == key) for key in {c[:2] for c in calls}}
    with fresh(kind) as url:
        with open_database(url) as database:
            ids = {
                name: ledger.create_study(database, name=name, spec={}, meaning={}).id
                for name in "ab"
            }

            def spend(call: tuple[str, str, int]) -> ledger.SpentBlock:
                study, block, _ = call
                return ledger.spend_block(
                    database,
                    ids[study],
                    block=block,
                    images=250 * most[study, block],
                    alpha=0.05,
                )

            with ThreadPoolExecutor(4) as pool:
                handed = list(pool.map(spend, calls))
            for call, block in zip(calls, handed, strict=True):
                assert spend(call) == block
            for name, study_id in ids.items():
                spent = ledger.spent_blocks(database, study_id)
                assert {block.block for block in spent} == {c[1] for c in calls if c[0] == name}
                assert [block.number for block in spent] == list(range(1, len(spent) + 1))
                for block, following in pairwise(spent):
                    assert block.first_seed + block.images <= following.first_seed
                assert all(block.first_seed >= 2_100_000 for block in spent)
                assert sum(block.alpha for block in spent) < 0.05


def test_the_kth_confirm(database: Database, study: ledger.Study) -> None:
    for k in (1, 2, 3):
        block = ledger.spend_block(
            database, study.id, block=f"confirm-{k}", images=4000, alpha=0.05
        )
        assert block.number == k
        assert block.first_seed == 2_000_000 + k * 100_000
        assert block.alpha == 0.05 / 2**k


def test_blocks_that_others_have_spent_are_passed_over(
    database: Database, study: ledger.Study
) -> None:
    def would(number: int, after: int) -> int:
        return ledger.block_of_confirm(database, study.id, number, after=after)

    assert would(1, 3) == 4
    found = []
    for k, after in ((1, 2), (2, 0), (3, 7)):
        expected = would(k, after)
        block = ledger.spend_block(
            database, study.id, block=f"confirm-{k}", images=4000, alpha=0.05, after=after
        )
        # The level is that of the study's own confirms.
        assert (block.number, block.alpha) == (k, 0.05 / 2**k)
        assert block.first_seed == 2_000_000 + expected * 100_000
        assert ledger.block_at(block.first_seed) == expected
        assert ledger.block_at(block.first_seed + 99_999) == expected
        found.append(expected)
    assert found == [3, 4, 8]
    assert [would(k, 99) for k in (1, 2, 3)] == found
    assert [would(k, 0) for k in (4, 5)] == [9, 10]
    assert ledger.block_at(1_000_000) == ledger.block_at(2_099_999) == 0


def test_the_same_block_is_the_same_seeds(database: Database, study: ledger.Study) -> None:
    first = ledger.spend_block(database, study.id, block="c", images=4000, alpha=0.05)
    assert ledger.spend_block(database, study.id, block="c", images=2000, alpha=0.5) == first
    with pytest.raises(ValueError, match="another block"):
        ledger.spend_block(database, study.id, block="c", images=8000, alpha=0.05)


@pytest.mark.parametrize(
    "images, alpha", [(0, 0.05), (100, 0.05), (100_250, 0.05), (250, 0.0), (250, 1.0)]
)
def test_out_of_range(database: Database, study: ledger.Study, images: int, alpha: float) -> None:
    with pytest.raises(ValueError):
        ledger.spend_block(database, study.id, block="c", images=images, alpha=alpha)
    assert ledger.spent_blocks(database, study.id) == ()


def test_an_unknown_study_spends_nothing(database: Database) -> None:
    with pytest.raises(StorageError, match="a study of this database"):
        ledger.spend_block(database, "0" * 32, block="c", images=250, alpha=0.05)
