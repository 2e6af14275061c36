"""What a study knows: its evaluations, their rungs and chunks, scores, and seeds that are spent.

Every function is one short transaction and may be called again after a crash: the same call
leaves the same rows. What could be said twice is found by its natural key and returned as it was
stored first. This module only gathers functions and records under one name.
"""

from __future__ import annotations

from skiptune.storage.artifacts import artifacts, newest_array, put_artifact
from skiptune.storage.budgets import budget_left
from skiptune.storage.counts import (
    count_evaluations,
    foreign_formats,
    images_wanted,
    network_images,
    progress,
    reused_chunks,
    spending,
)
from skiptune.storage.evaluations import (
    add_evaluation,
    chunks_of,
    description,
    entered_rungs,
    evaluation,
    evaluations,
    find_evaluation,
    finish_evaluation,
    open_rungs,
    promote,
    ready_rungs,
    reopen_chunks,
    rungs,
)
from skiptune.storage.launches import add_launch, forget_launch, launches
from skiptune.storage.pictures import drop_pictures, grids, put_grid, put_pair
from skiptune.storage.poisoning import retry_failed
from skiptune.storage.projections import Untold, forget_told, mark_told, untold
from skiptune.storage.ranking import Standing, leading, promotable, scored_count, standings
from skiptune.storage.records import (
    CHUNK,
    Artifact,
    Budget,
    Chunk,
    Evaluation,
    EvaluationState,
    Kind,
    Launch,
    NewScore,
    Progress,
    Rung,
    Score,
    Spending,
    SpentBlock,
    Study,
    StudyState,
)
from skiptune.storage.removal import delete_study, drop_arrays, droppable_arrays, named_files
from skiptune.storage.scores import baseline_score, baseline_scores, put_score, put_scores, scores
from skiptune.storage.seeds import block_at, block_of_confirm, spend_block, spent_blocks
from skiptune.storage.studies import (
    create_study,
    database_id,
    find_study,
    list_studies,
    require_study,
    set_study_spec,
    set_study_state,
)

__all__ = [
    "CHUNK",
    "Artifact",
    "Budget",
    "Chunk",
    "Evaluation",
    "EvaluationState",
    "Kind",
    "Launch",
    "NewScore",
    "Progress",
    "Rung",
    "Score",
    "Spending",
    "SpentBlock",
    "Standing",
    "Study",
    "StudyState",
    "Untold",
    "add_evaluation",
    "add_launch",
    "artifacts",
    "baseline_score",
    "baseline_scores",
    "block_at",
    "block_of_confirm",
    "budget_left",
    "chunks_of",
    "count_evaluations",
    "create_study",
    "database_id",
    "delete_study",
    "description",
    "drop_arrays",
    "drop_pictures",
    "droppable_arrays",
    "entered_rungs",
    "evaluation",
    "evaluations",
    "find_evaluation",
    "find_study",
    "finish_evaluation",
    "foreign_formats",
    "forget_launch",
    "forget_told",
    "grids",
    "images_wanted",
    "launches",
    "leading",
    "list_studies",
    "mark_told",
    "named_files",
    "network_images",
    "newest_array",
    "open_rungs",
    "progress",
    "promotable",
    "promote",
    "put_artifact",
    "put_grid",
    "put_pair",
    "put_score",
    "put_scores",
    "ready_rungs",
    "reopen_chunks",
    "require_study",
    "retry_failed",
    "reused_chunks",
    "rungs",
    "scored_count",
    "scores",
    "set_study_spec",
    "set_study_state",
    "spend_block",
    "spending",
    "spent_blocks",
    "standings",
    "untold",
]
