"""Who works on a study now: its lease, how fast it has been, and on what it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from skiptune.storage.database import Database
from skiptune.storage.rows import parse
from skiptune.storage.tables import ChunkRow, clock

__all__ = ["Member", "crew"]


@dataclass(frozen=True)
class Member:
    """A worker that holds a chunk.

    Arguments:
        name: The worker's name.
        lease: Seconds until its lease ends, unless it renews it.
        seen_ago: Seconds since it took or renewed it: its last sign of life; None of a lease that
            was taken under schema 0004.
        images: Images that it has stored for this study.
        seconds: What sampling them took.
        stored_ago: Seconds since it stored the last of them; None before the first.
        device: The torch device of its last chunk, e.g. ``cuda:0``; empty where not known.
        gpu: The name of that GPU; empty where there is none.
    """

    name: str
    lease: float
    seen_ago: float | None = None
    images: int = 0
    seconds: float = 0.0
    stored_ago: float | None = None
    device: str = ""
    gpu: str = ""

    @property
    def rate(self) -> float | None:
        """Images per second of sampling; None before the first chunk."""
        return self.images / self.seconds if self.seconds > 0 else None


def crew(database: Database, study_id: str) -> tuple[Member, ...]:
    """Return the workers that hold an unexpired lease on a chunk of a study, by name."""
    holding = (
        select(
            ChunkRow.worker,
            func.max(ChunkRow.lease_until) - clock(),
            clock() - func.max(ChunkRow.renewed),
        )
        .where(
            ChunkRow.study_id == study_id,
            ChunkRow.state == "leased",
            ChunkRow.worker.is_not(None),
            ChunkRow.lease_until > clock(),
        )
        .group_by(ChunkRow.worker)
        .order_by(ChunkRow.worker)
    )
    mine = (
        ChunkRow.study_id == study_id,
        ChunkRow.state.in_(("done", "dropped")),
        ChunkRow.committed.is_not(None),
    )
    work = (
        select(
            ChunkRow.worker,
            func.sum(ChunkRow.images).label("images"),
            func.sum(ChunkRow.seconds).label("seconds"),
            func.max(ChunkRow.committed).label("last"),
        )
        .where(*mine)
        .group_by(ChunkRow.worker)
        .subquery()
    )
    last = select(
        work.c.worker,
        work.c.images,
        work.c.seconds,
        clock() - work.c.last,
        # Of two chunks stored in one instant any will do.
        select(func.max(ChunkRow.provenance))
        .where(*mine, ChunkRow.worker == work.c.worker, ChunkRow.committed == work.c.last)
        .scalar_subquery(),
    ).where(work.c.worker.is_not(None))
    with database.read() as session:
        leases = [
            (str(name), float(lease or 0.0), None if seen is None else max(float(seen), 0.0))
            for name, lease, seen in session.execute(holding)
        ]
        known = {row[0]: row[1:] for row in session.execute(last)} if leases else {}
    members = []
    for name, lease, seen in leases:
        if name not in known:
            members.append(Member(name, lease, seen))
            continue
        images, seconds, ago, text = known[name]
        facts: dict[str, Any] = {} if text is None else parse(str(text))
        members.append(
            Member(
                name,
                lease,
                seen,
                int(images),
                float(seconds or 0.0),
                max(float(ago), 0.0),
                str(facts.get("device", "")),
                str(facts.get("gpu", "")),
            )
        )
    return tuple(members)
