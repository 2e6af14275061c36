"""When a study will be done, told from its rows: what is left of its plan, and how fast it goes.

The plan is what the study's row keeps of it (`board_of`): the images of a search that makes all
its proposals, and of one confirm. A search that ends early, by patience or by a budget of
seconds, is over before; what the derivatives of a descent take comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.crews import Member
from skiptune.storage.database import Database
from skiptune.storage.records import Spending, Study

__all__ = ["images_left", "seconds_left"]


def images_left(
    database: Database, study: Study, confirms: Mapping[str, bool], *, most: int | None = None
) -> int | None:
    """Return the images that a study will sample yet if it makes all its proposals.

    Arguments:
        database: Where the study lives.
        study: Its row.
        confirms: Whether each of its confirms is finished, by its block's name.
        most: Images that the search may still spend, None for no limit.

    Returns:
        None where the row knows no plan, because a version before 0005 opened the study last.
    """
    plan = study.board.get("plan")
    if plan is None:
        return None
    over = study.state == "complete" and all(confirms.values())
    if over or study.state == "stopped":
        return 0
    open_now = [block for block, finished in confirms.items() if not finished]
    search = 0
    if not open_now:  # also after a confirm, where the budget was raised
        search = _rest(plan["search"], ledger.spending(database, study.id, block=SEARCH_BLOCK))
        search = search if most is None else min(search, most)
    confirm = int(plan["confirm"])
    for block in open_now:
        for half in "AB":
            there = ledger.spending(database, study.id, block=f"{block}/{half}")
            confirm = _rest(confirm, there)
    return search + confirm


def seconds_left(images: int | None, crew: Sequence[Member]) -> float | None:
    """Return how long images take those who work now.

    Those who have stored nothing yet count as the mean of the others.

    Arguments:
        images: From `images_left`.
        crew: Who works.

    Returns:
        Seconds; None where nobody's speed is known.
    """
    rates = [member.rate for member in crew if member.rate]
    if images is None or not rates:
        return None
    return images / (sum(rates) / len(rates) * len(crew))


def _rest(planned: int, spent: Spending) -> int:
    return max(int(planned) - spent.images - spent.reused_images, 0)
