"""Make the tables: studies, what they evaluate, chunks and leases, scores, spent seeds.

Revision 0001, the first. The tables are described in `skiptune.storage.tables`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "skiptune_artifacts",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_skiptune_artifacts"),
    )
    op.create_table(
        "skiptune_measures",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_skiptune_measures"),
    )
    op.create_table(
        "skiptune_schedules",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_skiptune_schedules"),
    )
    op.create_table(
        "skiptune_series",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_skiptune_series"),
    )
    op.create_table(
        "skiptune_studies",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("meaning", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_skiptune_studies"),
        sa.UniqueConstraint("name", name="uq_skiptune_studies_name"),
    )
    op.create_table(
        "skiptune_chunks",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("series", sa.String(length=64), nullable=False),
        sa.Column("measure", sa.String(length=64), nullable=False),
        sa.Column("schedule", sa.String(length=64), nullable=False),
        sa.Column("first_seed", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("study_id", sa.String(length=32), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("nfe", sa.Double(), nullable=True),
        sa.Column("array", sa.String(length=64), nullable=True),
        sa.Column("provenance", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("doubled_images", sa.Integer(), nullable=False),
        sa.Column("committed", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["measure"], ["skiptune_measures.digest"], name="fk_skiptune_chunks_measure"
        ),
        sa.ForeignKeyConstraint(
            ["schedule"], ["skiptune_schedules.digest"], name="fk_skiptune_chunks_schedule"
        ),
        sa.ForeignKeyConstraint(
            ["series"], ["skiptune_series.digest"], name="fk_skiptune_chunks_series"
        ),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["skiptune_studies.id"],
            name="fk_skiptune_chunks_study_id",
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_skiptune_chunks"),
        sa.UniqueConstraint(
            "series",
            "measure",
            "schedule",
            "first_seed",
            name="uq_skiptune_chunks_series_measure_schedule_first_seed",
        ),
    )
    op.create_index("ix_skiptune_chunks_array", "skiptune_chunks", ["array"], unique=False)
    op.create_index(
        "ix_skiptune_chunks_study_id_state", "skiptune_chunks", ["study_id", "state"], unique=False
    )
    op.create_table(
        "skiptune_evaluations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("study_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("block", sa.String(length=64), nullable=False),
        sa.Column("series", sa.String(length=64), nullable=False),
        sa.Column("measure", sa.String(length=64), nullable=False),
        sa.Column("schedule", sa.String(length=64), nullable=False),
        sa.Column("first_seed", sa.BigInteger(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("finished", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["measure"], ["skiptune_measures.digest"], name="fk_skiptune_evaluations_measure"
        ),
        sa.ForeignKeyConstraint(
            ["schedule"], ["skiptune_schedules.digest"], name="fk_skiptune_evaluations_schedule"
        ),
        sa.ForeignKeyConstraint(
            ["series"], ["skiptune_series.digest"], name="fk_skiptune_evaluations_series"
        ),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["skiptune_studies.id"],
            name="fk_skiptune_evaluations_study_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_skiptune_evaluations"),
        sa.UniqueConstraint(
            "study_id",
            "block",
            "series",
            "measure",
            "schedule",
            name="uq_skiptune_evaluations_study_id_block_series_measure_schedule",
        ),
        sa.UniqueConstraint("study_id", "number", name="uq_skiptune_evaluations_study_id_number"),
    )
    op.create_index(
        "ix_skiptune_evaluations_study_id_state",
        "skiptune_evaluations",
        ["study_id", "state"],
        unique=False,
    )
    op.create_index(
        "ix_skiptune_evaluations_series_measure_schedule",
        "skiptune_evaluations",
        ["series", "measure", "schedule"],
        unique=False,
    )
    op.create_table(
        "skiptune_spent_seeds",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("study_id", sa.String(length=32), nullable=False),
        sa.Column("block", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("first_seed", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("alpha", sa.Double(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["skiptune_studies.id"],
            name="fk_skiptune_spent_seeds_study_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_skiptune_spent_seeds"),
        sa.UniqueConstraint("study_id", "block", name="uq_skiptune_spent_seeds_study_id_block"),
        sa.UniqueConstraint("study_id", "number", name="uq_skiptune_spent_seeds_study_id_number"),
    )
    op.create_table(
        "skiptune_turns",
        sa.Column("study_id", sa.String(length=32), nullable=False),
        sa.Column("task", sa.String(length=32), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["skiptune_studies.id"],
            name="fk_skiptune_turns_study_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("study_id", "task", name="pk_skiptune_turns"),
    )
    op.create_table(
        "skiptune_rungs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("evaluation_id", sa.String(length=32), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("completed", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["evaluation_id"],
            ["skiptune_evaluations.id"],
            name="fk_skiptune_rungs_evaluation_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_skiptune_rungs"),
        sa.UniqueConstraint(
            "evaluation_id", "images", name="uq_skiptune_rungs_evaluation_id_images"
        ),
        sa.UniqueConstraint(
            "evaluation_id", "level", name="uq_skiptune_rungs_evaluation_id_level"
        ),
    )
    op.create_table(
        "skiptune_scores",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("evaluation_id", sa.String(length=32), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(length=128), nullable=False),
        sa.Column("reference", sa.String(length=64), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("standard_error", sa.Double(), nullable=False),
        sa.Column("raw", sa.Double(), nullable=True),
        sa.Column("difference", sa.Double(), nullable=True),
        sa.Column("difference_error", sa.Double(), nullable=True),
        sa.Column("baseline_images", sa.Integer(), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"],
            ["skiptune_evaluations.id"],
            name="fk_skiptune_scores_evaluation_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_skiptune_scores"),
        sa.UniqueConstraint(
            "evaluation_id",
            "level",
            "metric",
            "reference",
            name="uq_skiptune_scores_evaluation_id_level_metric_reference",
        ),
    )


def downgrade() -> None:
    """Drop our tables; indices go with them, Optuna's tables stay."""
    op.drop_table("skiptune_scores")
    op.drop_table("skiptune_rungs")
    op.drop_table("skiptune_turns")
    op.drop_table("skiptune_spent_seeds")
    op.drop_table("skiptune_evaluations")
    op.drop_table("skiptune_chunks")
    op.drop_table("skiptune_studies")
    op.drop_table("skiptune_series")
    op.drop_table("skiptune_schedules")
    op.drop_table("skiptune_measures")
    op.drop_table("skiptune_artifacts")
