"""What a study's row says of it without its network: `ledger.Study.board`.

Optuna's studies are made from it, other studies begin from it where they name this one, and what
this one begins from is kept in it.
"""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import distribution_to_json

from skiptune.sampling.checkpoint import Checkpoint
from skiptune.search.objective import Objective, objective_names
from skiptune.search.plan import confirm_images, search_images
from skiptune.search.space import Space
from skiptune.search.spec import StudySpec
from skiptune.search.strategy import chosen_sampler, resolved
from skiptune.search.warm_start import SPENT, Here, kept, spent_by
from skiptune.storage.database import Database
from skiptune.storage.records import Study

__all__ = ["board_of"]


def board_of(
    spec: StudySpec,
    parts: tuple[Checkpoint, Objective, Space],
    database: Database,
    row: Study | None,
    *,
    source: str,
) -> dict[str, Any]:
    """Return the board of a study that is opened.

    Arguments:
        spec: The study.
        parts: What `check_study` returns.
        database: Where other studies are.
        row: The study as it is stored, None before it is: what it begins from stays.
        source: Name of the file the spec came from, for messages.

    Raises:
        SpecError: A warm start that is named anew is none.
    """
    checkpoint, objective, space = parts
    names = objective_names(objective)
    skips = [skip.address for skip in sorted(checkpoint.skips, key=lambda skip: skip.index)]
    stored = {} if row is None else row.board
    starts: dict[str, Any] = {key: stored[key] for key in (SPENT,) if key in stored}
    if (named := spec.search.warm_start) is not None:
        here = Here(spec.study, space, tuple(skips), checkpoint.sha256)
        known = stored.get("warm_start", [])
        starts["warm_start"] = kept(named, known, database, here, source=source)
        fresh = [name for name in named if name not in [one["source"] for one in known]]
        starts[SPENT] = max(stored.get(SPENT, 0), spent_by(fresh, database))
    intervals = {}
    if space.interval_bounds:  # an open end is null
        ends = [[low, None if math.isinf(high) else high] for low, high in space.interval_bounds]
        intervals["intervals"] = ends
    costed = resolved(spec, objective, space)
    return {
        **starts,
        **intervals,
        "plan": {"search": search_images(costed), "confirm": confirm_images(costed)},
        "sampler": chosen_sampler(spec, objective, space),
        "skips": skips,
        "metric": names[0][0],
        "metrics": [{"name": name, "better": better} for name, better in names],
        "places": len(objective.spec.items),
        "constraints": [str(item.constraint) for item in objective.spec.items if item.constraint],
        "distributions": {
            key: distribution_to_json(item) for key, item in space.distributions().items()
        },
        "baseline": space.baseline_params(),
    }
