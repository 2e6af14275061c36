"""Seeds that are spent: each confirm of a study gets images that no decision has seen.

The k-th confirm of a study (k from 1) may use the k-th block of seeds, from 2,000,000 + k x
100,000 on, and may test at level alpha / 2^k. The levels of all confirms that ever follow sum to
less than alpha, so confirming again and again until something wins does not raise the rate of
false wins above it (a Bonferroni bound with geometric weights).

A study that begins from others passes over the blocks that their confirms have spent: a schedule
that won on some images is not tested on them again. Their level is not the study's own.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, select

from skiptune.storage.database import Database
from skiptune.storage.records import CHUNK, SpentBlock
from skiptune.storage.rows import spent_of, study_row
from skiptune.storage.tables import SpentSeedsRow

__all__ = [
    "CONFIRM_SEED",
    "CONFIRM_SEEDS",
    "block_at",
    "block_of_confirm",
    "spend_block",
    "spent_blocks",
]

CONFIRM_SEED: Final = 2_000_000
"""The blocks of confirms lie above this seed."""

CONFIRM_SEEDS: Final = 100_000
"""Seeds of one confirm."""


def block_at(seed: int) -> int:
    """Return the number of the block of seeds that holds a seed, from 1 on; 0 below all."""
    return max((seed - CONFIRM_SEED) // CONFIRM_SEEDS, 0)


def block_of_confirm(database: Database, study_id: str, number: int, *, after: int) -> int:
    """Return the number of the block of seeds that a confirm has spent or would spend.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        number: Of the confirm, from 1 on.
        after: As for `spend_block`.
    """
    begun, blocks = 0, 0
    for block in spent_blocks(database, study_id):
        begun, blocks = block.number, block_at(block.first_seed)
        if begun == number:
            return blocks
    return max(blocks, after) + number - begun


def spend_block(
    database: Database, study_id: str, *, block: str, images: int, alpha: float, after: int = 0
) -> SpentBlock:
    """Hand a confirm its seeds, for ever; asked again for the same block, the same seeds.

    A confirm that needs several sets of images (to choose, then to test) spends one block and
    divides it, because every block halves the level of the next.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        block: Name of the confirm, unique in the study.
        images: How many it needs in all, whole chunks, at most `CONFIRM_SEEDS`.
        alpha: Level of all confirms of the study together, between 0 and 1.
        after: Blocks of seeds up to this number are passed over.

    Raises:
        StorageError: There is no such study.
        ValueError: Images or level are out of range, or the block was spent with fewer images.
    """
    if not 0 < images <= CONFIRM_SEEDS or images % CHUNK:
        raise ValueError(f"a block has 1 to {CONFIRM_SEEDS} images in whole chunks, not {images}")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"a level lies between 0 and 1, not at {alpha}")
    with database.write("spend_block") as session:
        study_row(session, study_id)
        row = session.scalar(select(SpentSeedsRow).filter_by(study_id=study_id, block=block))
        if row is None:
            last, seed = session.execute(
                select(func.max(SpentSeedsRow.number), func.max(SpentSeedsRow.first_seed)).where(
                    SpentSeedsRow.study_id == study_id
                )
            ).one()
            number = (last or 0) + 1
            place = max(block_at(seed or 0), after) + 1
            row = SpentSeedsRow(
                study_id=study_id,
                block=block,
                number=number,
                first_seed=CONFIRM_SEED + place * CONFIRM_SEEDS,
                images=images,
                alpha=alpha / 2.0**number,
            )
            session.add(row)
            session.flush()
        elif images > row.images:
            raise ValueError(
                f"block {block!r} was spent with {row.images} images; {images} need another block"
            )
        return spent_of(row)


def spent_blocks(database: Database, study_id: str) -> tuple[SpentBlock, ...]:
    """Return the blocks that a study's confirms have spent, by number."""
    query = (
        select(SpentSeedsRow)
        .where(SpentSeedsRow.study_id == study_id)
        .order_by(SpentSeedsRow.number)
    )
    with database.read() as session:
        return tuple(spent_of(row) for row in session.scalars(query))
