"""What must hold after a chaos run, judged from rows and logs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bench.chaos_databases import Change
from bench.chaos_evidence import Evidence, Scored, Trial
from bench.chaos_logs import CANARY
from skiptune.search.result import WIN
from skiptune.search.study import SEARCH

__all__ = ["Check", "Injected", "check_all"]


@dataclass(frozen=True)
class Check:
    """A named check.

    Arguments:
        name: What must hold.
        counted: The counts behind it, in words.
        failures: What does not hold.
    """

    name: str
    counted: str
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        return not self.failures

    def __str__(self) -> str:
        head = f"{'PASS' if self.passed else 'FAIL'}  {self.name}: {self.counted}"
        more = [f"      {text}" for text in self.failures[:10]]
        if len(self.failures) > 10:
            more.append(f"      and {len(self.failures) - 10} more")
        return "\n".join([head, *more])


@dataclass
class Injected:
    """What a driver has done to a run.

    Arguments:
        done: How often each act was done.
        expired: Claims, by chunk and fence, that were let run out under a living worker, whose
            commit was refused then.
        truncated: Chunks whose stored file was truncated.
    """

    done: Counter[str] = field(default_factory=Counter)
    expired: list[tuple[str, int]] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)


def check_all(found: Evidence, calm: Evidence, injected: Injected) -> tuple[Check, ...]:
    """Judge a run.

    Arguments:
        found: What it has left.
        calm: What an undisturbed run of the same study by one worker has left.
        injected: What was done to it.
    """
    return (
        _counted_once(found),
        _sampled_once(found, injected),
        _nothing_open(found),
        _told(found),
        _same(found, calm),
        _doubled(found, injected),
    )


def _check(name: str, counted: str, failures: Iterable[str | None]) -> Check:
    return Check(name, counted, tuple(text for text in failures if text))


def _counted_once(found: Evidence) -> Check:
    images = sum(chunk.images for chunk in found.chunks.values() if chunk.state == "done")
    failures = [
        f"{name}: {number:,}"
        for name, number in {
            "images stored": found.stored,
            "images paid for": found.spent,
            "images of chunks that are done": images,
        }.items()
        if number != found.wanted
    ]
    if found.entered != found.budget:
        failures.append(f"evaluations entered: {found.entered}")
    counted = f"{found.wanted:,} images that rungs ask for, {found.budget} evaluations"
    return _check("every budgeted image is counted once", counted, failures)


def _sampled_once(found: Evidence, injected: Injected) -> Check:
    """Follow each chunk through its history; each image through the log, claim by claim."""
    failures = list(_wrong_images(found))
    committed, reopened = Counter[str](), Counter[str]()
    finals: dict[str, list[int]] = defaultdict(list)
    for change in found.history:
        failures += _wrong_change(change)
        if change.after == "done" != change.before:
            committed[change.chunk] += 1
            finals[change.chunk].append(change.fence)
        if change.before == "done" != change.after:
            reopened[change.chunk] += 1
    for chunk in found.chunks:
        if committed[chunk] != 1 + reopened[chunk]:
            failures.append(f"chunk {chunk}: {committed[chunk]} times committed")
    for chunk in reopened.keys() - set(injected.truncated):
        failures.append(f"chunk {chunk}: sampled again, and its file was not damaged")
    # By claim: whole where it was committed; of all others, what died with its worker.
    sampled = Counter((i.chunk, i.fence) for i in found.images if i.chunk != CANARY)
    for chunk, fences in finals.items():
        for fence in fences:
            made, images = sampled[chunk, fence], found.chunks[chunk].images
            if made != images:
                failures.append(f"chunk {chunk}, fence {fence}: {made} of {images} images logged")
    failures += _after_commit(found, {chunk for chunk, _ in injected.expired} | reopened.keys())
    canary = sum(image.chunk == CANARY for image in found.images)
    total, kept = len(found.images) - canary, sum(c.images for c in found.chunks.values())
    again = sum(sampled[c, f] for c in reopened for f in finals[c][:-1])
    counted = (
        f"{total:,} images sampled: {kept:,} kept, {again:,} whose file was damaged afterwards,"
        f" {total - kept - again:,} under claims that did not last; and {canary} by canaries"
    )
    return _check("no committed chunk is sampled again", counted, failures)


def _wrong_images(found: Evidence) -> Iterator[str]:
    """Yield what no claim explains: an image sampled twice under one, or under none."""
    seen = Counter((i.chunk, i.fence, i.seed, i.pid) for i in found.images if i.chunk != CANARY)
    for (name, fence, seed, pid), times in seen.items():
        if times > 1:
            yield f"chunk {name}, fence {fence}: seed {seed} {times} times by process {pid}"
    claims = Counter(c.chunk for c in found.history if c.after == "leased")
    owners: dict[tuple[str, int], int] = {}
    for image in found.images:
        if image.chunk == CANARY:
            continue
        chunk = found.chunks.get(image.chunk)
        if chunk is None or image.schedule != chunk.schedule:
            yield f"an image of chunk {image.chunk}, which has no such schedule"
        elif not chunk.first_seed <= image.seed < chunk.first_seed + chunk.images:
            yield f"chunk {chunk.id}: seed {image.seed} is not of it"
        elif not 1 <= image.fence <= claims[chunk.id]:
            yield f"chunk {chunk.id}: fence {image.fence} after {claims[chunk.id]} claims"
        elif owners.setdefault((chunk.id, image.fence), image.pid) != image.pid:
            yield f"chunk {chunk.id}, fence {image.fence}: two processes"


def _wrong_change(change: Change) -> Iterator[str]:
    steps = {
        "open": {"open", "leased"},
        "leased": {"leased", "open", "done"},
        # A late commit of somebody else changes the count of doubled images only.
        "done": {"done", "open"},
    }
    if change.after not in steps.get(change.before, set()):
        yield f"chunk {change.chunk}: {change.before} became {change.after}"


def _after_commit(found: Evidence, allowed: set[str]) -> Iterator[str]:
    """Yield chunks of which somebody has sampled images after another one's commit."""
    commits: dict[str, int] = {}
    for event in found.events:
        if event.what == "committed":
            chunk = event.words[0]
            commits[chunk] = min(event.moment, commits.get(chunk, event.moment))
    late = {i.chunk for i in found.images if i.moment > commits.get(i.chunk, i.moment)}
    for chunk in sorted(late - allowed):
        yield f"chunk {chunk}: images sampled after its commit"


def _nothing_open(found: Evidence) -> Check:
    failures = list(found.open)
    if found.state != "complete":
        failures.append(f"the study: {found.state}")
    trials = [trial for study in (*found.rungs, found.confirmed or ()) for trial in study]
    states = Counter(trial.state for trial in trials)
    failures += [f"{states[state]} trials {state}" for state in ("RUNNING", "WAITING")
                 if states[state]]  # fmt: skip
    words = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return _check("nothing is left open", f"{len(found.chunks)} chunks; trials: {words}", failures)


def _told(found: Evidence) -> Check:
    """Compare what Optuna holds with the baseline's value at full size plus our differences."""
    search = [s for s in found.scores if s.block == SEARCH]
    base = next(s for s in search if s.kind == "baseline" and s.level == 0)
    failures: list[str] = []
    count = 0
    for level, trials in enumerate(found.rungs):
        expected = {
            s.schedule: _told_value(s, base)
            for s in search
            if s.level == level and s.kind == "proposal"
        }
        failures += _unlike(f"rung {level}", {base.schedule: base.value, **expected}, trials)
        count += len(trials)
    won = found.result["verdict"] == WIN
    if won != (found.confirmed is not None):
        failures.append(f"a verdict of {found.result['verdict']}, and Optuna says another")
    if found.confirmed is not None:
        final = [s for s in found.scores if s.block.endswith("/B")]
        base = next(s for s in final if s.kind == "baseline")
        expected = {s.schedule: _told_value(s, base) for s in final}
        failures += _unlike("confirmed", expected, found.confirmed)
        count += len(found.confirmed)
    return _check("Optuna holds our values", f"{count} trials of {len(found.rungs)} rungs"
                  f" and {'a' if won else 'no'} confirmed winner", failures)  # fmt: skip


def _told_value(score: Scored, base: Scored) -> float:
    return base.value + (score.difference or 0.0)


def _unlike(where: str, expected: dict[str, float], trials: tuple[Trial, ...]) -> Iterator[str]:
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    for schedule, times in Counter(trial.schedule for trial in complete).items():
        if times > 1:
            yield f"{where}: schedule {schedule[:12]} {times} times"
    told = {trial.schedule: trial.value for trial in complete}
    for schedule in sorted(expected.keys() | told.keys()):
        if expected.get(schedule) != told.get(schedule):
            yield (
                f"{where}: schedule {schedule[:12]} has {told.get(schedule)},"
                f" ours is {expected.get(schedule)}"
            )


def _same(found: Evidence, calm: Evidence) -> Check:
    here, there = set(found.scores), set(calm.scores)
    failures = [f"only here: {score}" for score in sorted(here - there, key=_order)]
    failures += [f"only undisturbed: {score}" for score in sorted(there - here, key=_order)]
    if len(found.scores) != len(calm.scores):
        failures.append(f"{len(found.scores)} scores, undisturbed {len(calm.scores)}")
    if found.result != calm.result:
        keys = {
            k for k in {*found.result, *calm.result} if found.result.get(k) != calm.result.get(k)
        }
        failures.append(f"another result: {', '.join(sorted(keys))}")
    counted = f"{len(found.scores)} scores bit for bit, verdict: {found.result['verdict']}"
    return _check("the scores are those of an undisturbed run", counted, failures)


def _order(score: Scored) -> tuple[int, int]:
    return score.number, score.level


def _doubled(found: Evidence, injected: Injected) -> Check:
    """Explain every image that is shown as doubled, and miss none that must be."""
    refused = {(e.words[0], int(e.words[1])) for e in found.events if e.what == "refused"}
    sampled = Counter((i.chunk, i.fence) for i in found.images)
    by_commit: list[tuple[str, int]] = []
    by_file: list[str] = []
    failures = []
    for change in found.history:
        if not change.doubled:
            continue
        if (change.before, change.after) == ("done", "open"):
            by_file.append(change.chunk)
            continue
        claim = (change.chunk, change.doubled_fence)
        by_commit.append(claim)
        if claim not in refused or sampled[claim] != change.doubled:
            failures.append(f"chunk {claim[0]}, fence {claim[1]}: counted, and nobody was refused")
    failures += [f"counted twice: {claim}" for claim, n in Counter(by_commit).items() if n > 1]
    failures += [f"not counted: {claim}" for claim in injected.expired if claim not in by_commit]
    missing = Counter(injected.truncated) - Counter(by_file)
    failures += [f"not counted: file of chunk {chunk}" for chunk in missing]
    total = sum(change.doubled for change in found.history)
    if total != found.doubled:
        failures.append(f"{total} images were counted, {found.doubled} are shown")
    late = len(by_commit) - len(injected.expired)
    counted = (
        f"{found.doubled} images of {len(by_commit) + len(by_file)} chunks:"
        f" {len(injected.expired)} leases that ran out, {len(by_file)} damaged files,"
        f" {late} delivered too late by dead workers' notes"
    )
    return _check("doubled images are those of the faults", counted, failures)
