"""What a study knows: its evaluations, their rungs and chunks, scores, and seeds that are spent.

Every function is one short transaction and may be called again after a crash: the same call
leaves the same rows. What could be said twice is found by its natural key and returned as it was
stored first. This module only gathers functions and records under one name.
"""

from __future__ import annotations

from skiptune.storage.artifacts import artifacts, put_artifact
from skiptune.storage.counts import progress, spending
from skiptune.storage.evaluations import (
    add_evaluation,
    chunks_of,
    description,
    evaluation,
    evaluations,
    finish_evaluation,
    open_rungs,
    promote,
    ready_rungs,
    reopen_chunks,
    rungs,
)
from skiptune.storage.records import (
    CHUNK,
    Artifact,
    Chunk,
    Evaluation,
    EvaluationState,
    Kind,
    Progress,
    Rung,
    Score,
    Spending,
    SpentBlock,
    Study,
    StudyState,
)
from skiptune.storage.scores import put_score, scores
from skiptune.storage.seeds import spend_block, spent_blocks
from skiptune.storage.studies import (
    create_study,
    find_study,
    list_studies,
    require_study,
    set_study_spec,
    set_study_state,
)

__all__ = [
    "CHUNK",
    "Artifact",
    "Chunk",
    "Evaluation",
    "EvaluationState",
    "Kind",
    "Progress",
    "Rung",
    "Score",
    "Spending",
    "SpentBlock",
    "Study",
    "StudyState",
    "add_evaluation",
    "artifacts",
    "chunks_of",
    "create_study",
    "description",
    "evaluation",
    "evaluations",
    "find_study",
    "finish_evaluation",
    "list_studies",
    "open_rungs",
    "progress",
    "promote",
    "put_artifact",
    "put_score",
    "ready_rungs",
    "reopen_chunks",
    "require_study",
    "rungs",
    "scores",
    "set_study_spec",
    "set_study_state",
    "spend_block",
    "spending",
    "spent_blocks",
]
