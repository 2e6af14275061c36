"""What survives: studies, evaluations, chunks, scores, spent seeds, leases, and stored files.

This room turns strings, numbers, bytes and numpy arrays into identity, leases, budgets and files;
it also opens Optuna's storage in the same database. It imports no torch and no other room, only
the leaves `skiptune.errors` and `skiptune.canonical`.

`database` opens one database for all; `ledger` and `leases` hold the functions on it, each one
short transaction, and are used under their names (`ledger.add_evaluation(database, ...)`);
`arrays` holds the files that rows name; `records` is what the functions return; `failpoints` are
the places where a test kills the process.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiptune.storage.arrays import ArrayStore
    from skiptune.storage.database import Database, init_database, open_database, upgrade_database
    from skiptune.storage.leases import (
        break_lease,
        claim_chunk,
        commit_chunk,
        poison,
        release,
        renew,
    )
    from skiptune.storage.location import masked_url, resolve_url
    from skiptune.storage.optuna_rows import optuna_storage
    from skiptune.storage.patience import Patience
    from skiptune.storage.records import (
        CHUNK,
        LOST_LEASES,
        Artifact,
        Budget,
        Chunk,
        Claim,
        Evaluation,
        Lease,
        Progress,
        Rung,
        Score,
        Spending,
        SpentBlock,
        Study,
        Turn,
    )
    from skiptune.storage.turns import end_turn, renew_turn, take_turn

_HOME = {
    "CHUNK": "records",
    "LOST_LEASES": "records",
    "ArrayStore": "arrays",
    "Artifact": "records",
    "Budget": "records",
    "Chunk": "records",
    "Claim": "records",
    "Spending": "records",
    "Database": "database",
    "Evaluation": "records",
    "Lease": "records",
    "Patience": "patience",
    "Progress": "records",
    "Rung": "records",
    "Score": "records",
    "SpentBlock": "records",
    "Study": "records",
    "Turn": "records",
    "break_lease": "leases",
    "claim_chunk": "leases",
    "commit_chunk": "leases",
    "end_turn": "turns",
    "init_database": "database",
    "masked_url": "location",
    "open_database": "database",
    "optuna_storage": "optuna_rows",
    "poison": "leases",
    "release": "leases",
    "renew": "leases",
    "renew_turn": "turns",
    "resolve_url": "location",
    "take_turn": "turns",
    "upgrade_database": "database",
}

__all__ = [
    "CHUNK",
    "LOST_LEASES",
    "ArrayStore",
    "Artifact",
    "Budget",
    "Chunk",
    "Claim",
    "Database",
    "Evaluation",
    "Lease",
    "Patience",
    "Progress",
    "Rung",
    "Score",
    "Spending",
    "SpentBlock",
    "Study",
    "Turn",
    "break_lease",
    "claim_chunk",
    "commit_chunk",
    "end_turn",
    "init_database",
    "masked_url",
    "open_database",
    "optuna_storage",
    "poison",
    "release",
    "renew",
    "renew_turn",
    "resolve_url",
    "take_turn",
    "upgrade_database",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"skiptune.storage.{_HOME[name]}"), name)
    raise AttributeError(f"module 'skiptune.storage' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
