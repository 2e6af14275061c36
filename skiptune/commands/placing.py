"""What `skiptune launch` does with an executor: start, watch, look after, end."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

from skiptune.commands.interruption import INTERRUPTED, TERMINATED, Stopped
from skiptune.errors import LaunchError, StorageError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from skiptune.commands.options import Options
    from skiptune.launch.crew import Crew
    from skiptune.launch.executor import Counts, Executor, Job, Plan
    from skiptune.search.launch_section import LaunchSpec
    from skiptune.storage.records import Launch, Study, StudyState

__all__ = [
    "counted",
    "look_after",
    "note",
    "print_job",
    "require_reach",
    "show",
    "stop",
    "tell_of_others",
    "unfinished",
    "watch",
]

LOOK_SECONDS: Final = 10.0  # between looks at the study, and at what a scheduler says
TICK_SECONDS: Final = 0.25  # between looks at the processes of this machine


def counted(workers: int) -> str:
    """Return ``1 worker``, ``2 workers``."""
    return f"{workers} worker{'' if workers == 1 else 's'}"


def show(options: Options, executor: Executor, plan: Plan) -> None:
    """Print what would be run."""
    from skiptune.commands.output import print_json

    text = executor.text(plan)
    if options.json:
        print_json({"study": plan.study, "executor": executor.name, "text": text})
    else:
        print(text, end="")


def require_reach(options: Options, executor: str, section: LaunchSpec) -> None:
    """Refuse a database that the workers of an executor do not reach.

    Raises:
        LaunchError: A SQLite file, and workers on other hosts.
    """
    from skiptune.storage.location import masked_url, sqlite_path

    if executor == "local" or sqlite_path(options.url) is None:
        return
    server = "--storage postgresql://USER@HOST/DATABASE"
    if executor == "k8s":
        hint = f"{server}; docker/k8s has one"
    elif section.one_host:
        return
    else:
        hint = f"{server}; or, where all of it is this one host: -s launch.one_host=true"
    raise LaunchError(
        f"--executor {executor}",
        expected="PostgreSQL, which several hosts reach: a SQLite file serves the processes of"
        " one",
        found=masked_url(options.url),
        hint=hint,
    )


def unfinished(options: Options, name: str) -> Study | None:
    """Return the study; None, having said so, where there is nothing to do on it."""
    from skiptune.commands.output import print_json, say
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    with open_database(options.url) as database:
        row = ledger.require_study(database, name)
        confirming = row.state == "complete" and ledger.open_rungs(database, row.id)
    if row.state not in ("complete", "stopped") or confirming:
        if row.state == "paused":
            resume = f"skiptune resume {name}{options.there}"
            say(options, f"Study {name} is paused: workers wait for: {resume}")
        return row
    if options.json:
        print_json({"study": name, "state": row.state, "workers": 0})
    after = " after raising its budget" if row.state == "complete" else ""
    say(
        options,
        f"Study {name} is {row.state}: nothing to launch; go on{after} with: skiptune resume"
        f" {name}",
    )
    return None


def tell_of_others(options: Options, study: Study) -> None:
    """Say which earlier launches of a study are at work, and forget those that are over."""
    from skiptune.commands.output import say
    from skiptune.launch.executor import counts_of
    from skiptune.search.liveness import worker_name
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    with open_database(options.url) as database:
        for launch in ledger.launches(database, study.id):
            if launch.job == worker_name():
                continue  # whoever has started this process in the background has noted it
            counts = counts_of(launch)
            if counts is not None and counts.over:
                ledger.forget_launch(database, launch)
                continue
            state = (
                "which cannot be asked from here"
                if counts is None
                else f"{counts.running} running, {counts.waiting} waiting"
            )
            say(
                options,
                f"Another launch of {study.name} is at work, and both go on: {launch.executor}"
                f" {launch.job} on {launch.place} ({state})",
            )


def note(options: Options, study: Study, executor: str, job: Job) -> Launch:
    """Note in the database what was started, so that it can be ended from elsewhere."""
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    with open_database(options.url) as database:
        return ledger.add_launch(
            database,
            study.id,
            executor=executor,
            place=job.place,
            job=job.name,
            workers=job.workers,
        )


def print_job(options: Options, study: Study, executor: str, job: Job) -> None:
    """Print what was started as data, for scripts: the job's name alone without --json."""
    from skiptune.commands.output import print_json

    if options.json:
        print_json(
            {
                "study": study.name,
                "executor": executor,
                "place": job.place,
                "job": job.name,
                "workers": job.workers,
            }
        )
    else:
        print(job.name)


def look_after(options: Options, study: Study, plan: Plan) -> None:
    """Run the workers of this machine until the study is done.

    Raises:
        WorkerError: All that were left kept crashing.
        LaunchError: All that were left were refused.
        Stopped: Somebody asked this process, or all of its workers, to stop.
    """
    import socket
    from dataclasses import replace

    from skiptune.commands.output import say
    from skiptune.launch.crew import Crew, signals_kept
    from skiptune.launch.executor import Job
    from skiptune.launch.local import members_of
    from skiptune.launch.tether import tethered
    from skiptune.search.liveness import worker_name

    members = members_of(plan)
    job = Job(socket.gethostname(), worker_name(), len(members))
    launch = note(options, study, "local", job)
    devices = sorted({words[words.index("--device") + 1] for words in (m.words for m in members)})
    say(
        options,
        f"Started {counted(len(members))} of {study.name} on {', '.join(devices)}: output in"
        f" {plan.logs}/{os.getpid()}-*.log",
    )
    look = _Look(options, study)
    # Whatever ends this process ends them too: a note of a launch that is over is true then.
    tied = [replace(member, words=tethered(member.words)) for member in members]
    crew = Crew(tied, say=lambda text: say(options, text))
    asked: list[int] = []
    try:
        with signals_kept() as signals:
            while crew.tend():
                for number in signals.numbers[len(asked) :]:
                    if not asked:
                        say(options, "Stopping the workers (once more stops them at once)")
                    asked.append(number)
                    crew.pass_on(number)
                look.at(lambda: f"workers: {crew.running} running")
                time.sleep(TICK_SECONDS)
    except BaseException:
        # A bug of ours leaves no workers behind.
        crew.pass_on(signal.SIGTERM)
        while crew.tend():
            time.sleep(TICK_SECONDS)
        raise
    finally:
        _forget(options, launch)
    if asked:
        code = INTERRUPTED if asked[0] == signal.SIGINT else TERMINATED
        again = f"skiptune launch {study.name}{options.there}"
        raise Stopped(f"Stopped. Go on with: {again}", exit_code=code)
    if not _ended(options, study, job):
        _say_why(options, study, crew)


def watch(options: Options, study: Study, executor: Executor, job: Job) -> None:
    """Show how a study goes on until it is done, or no worker of the launch is left.

    Raises:
        LaunchError: No worker is left and the study is not done.
        Stopped: Somebody asked this process to stop; the workers go on.
    """
    from skiptune.launch.crew import signals_kept

    launch = note(options, study, executor.name, job)
    look = _Look(options, study)
    counts: Counts | None = None

    def placed() -> str:
        nonlocal counts
        try:
            counts = executor.list(launch)
        except LaunchError as error:
            return f"{executor.name} does not answer: {error.problems[0].found}"
        if counts is None:
            return "workers: not to be asked from here"
        return f"workers: {counts.running} running, {counts.waiting} waiting"

    with signals_kept() as signals:
        while not signals.numbers:
            look.at(placed)
            if look.done or (counts is not None and counts.over):
                break
            time.sleep(TICK_SECONDS)
    if signals.numbers:
        code = INTERRUPTED if signals.numbers[0] == signal.SIGINT else TERMINATED
        raise Stopped(
            f"The workers go on. End them with: skiptune launch {study.name} --stop",
            exit_code=code,
        )
    if counts is not None and counts.over:
        _forget(options, launch)
    if not _ended(options, study, job):
        raise LaunchError(
            f"launch {job.name} of study {study.name}",
            expected="workers that stay until the study is done",
            found="all of them have left",
            hint="their output says why; then start others with"
            f" `skiptune launch {study.name} --executor {executor.name}`",
        )


def stop(options: Options, name: str, only: str | None, *, forget: bool) -> None:
    """End the workers of every noted launch of a study, or of those of one executor.

    Arguments:
        options: Those of every command.
        name: The study's.
        only: Name of an executor, or None for all.
        forget: Forget launches that cannot be ended from here, too.

    Raises:
        LaunchError: Some cannot be ended from here, and are not to be forgotten.
    """
    from skiptune.commands.output import print_json, say
    from skiptune.launch.executor import executor_of
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    problems: list[LaunchError] = []
    ended, forgotten = [], []
    with open_database(options.url) as database:
        row = ledger.require_study(database, name)
        for launch in ledger.launches(database, row.id):
            if only not in (None, launch.executor):
                continue
            try:
                executor_of(launch.executor).stop(launch)
            except LaunchError as error:
                if not forget:
                    problems.append(error)
                    continue
                ledger.forget_launch(database, launch)
                forgotten.append(launch)
                found = error.problems[0].found
                say(options, f"Forgot {_words_of(launch)}, which cannot be ended: {found}")
                continue
            ledger.forget_launch(database, launch)
            ended.append(launch)
            say(options, f"Ended {_words_of(launch)}")
    if options.json:
        print_json(
            {
                "study": name,
                "ended": [launch.job for launch in ended],
                "forgotten": [launch.job for launch in forgotten],
            }
        )
    if problems:
        every = [problem for error in problems for problem in error.problems]
        raise LaunchError.of(every, hint=problems[0].hint)
    if ended or forgotten:
        say(options, _standing(options, name, row.state))
    else:
        say(options, f"No launch of {name} is noted: nothing to end")


def _words_of(launch: Launch) -> str:
    return f"{launch.executor} {launch.job} on {launch.place}"


class _Look:
    """Looks at a study now and then, and tells what has changed."""

    def __init__(self, options: Options, study: Study) -> None:
        self._options = options
        self._name = study.name
        self._next = 0.0
        self._told = ""
        self.done = False

    def at(self, workers: Callable[[], str]) -> None:
        """Look, if it is time, and print one line if something has changed."""
        from skiptune.commands.output import say
        from skiptune.search.overview import overview
        from skiptune.storage.database import open_database
        from skiptune.views.study import standing_line

        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_SECONDS
        try:
            with open_database(self._options.url) as database:
                found = overview(database, self._name)
            line = f"{standing_line(found)}; {workers()}"
            self.done = found.is_over
        except StorageError as error:
            # Looking is not worth more than the workers, which say themselves what they cannot do.
            line = f"The database cannot be read: {error.problems[0].found}"
        if line != self._told:
            self._told = line
            say(self._options, line)


def _forget(options: Options, launch: Launch) -> None:
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    try:
        with open_database(options.url) as database:
            ledger.forget_launch(database, launch)
    except StorageError:
        pass  # the next launch finds that it is over


def _ended(options: Options, study: Study, job: Job) -> bool:
    """Tell how a study has ended; False where it has not."""
    from skiptune.commands.output import print_json, say
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    name = study.name
    with open_database(options.url) as database:
        state = ledger.require_study(database, name).state
    if state not in ("complete", "stopped"):
        return False
    if options.json:
        print_json({"study": name, "state": state, "workers": job.workers})
    say(options, _standing(options, name, state))
    return True


def _standing(options: Options, name: str, state: StudyState) -> str:
    """Return the state of a study that no worker of ours is left on, and what comes next."""
    following = {"complete": "See it: skiptune best", "stopped": "Go on with: skiptune resume"}
    command = following.get(state, "Go on with: skiptune launch")
    return f"Study {name} is {state}. {command} {name}{options.there}"


def _say_why(options: Options, study: Study, crew: Crew) -> None:
    """Say why no worker is left although the study goes on.

    Raises:
        LaunchError: They were refused: something is to be mended.
        WorkerError: They kept crashing.
        Stopped: Somebody asked each of them to leave.
    """
    if not crew.lost:
        raise Stopped(
            "All workers were asked to leave. Go on with: skiptune launch"
            f" {study.name}{options.there}",
            exit_code=TERMINATED,
        )
    first = crew.lost[0]
    refused = all(lost.refused for lost in crew.lost)
    kind = LaunchError if refused else WorkerError
    raise kind(
        f"worker {first.member.number} of {study.name}",
        expected="a worker that stays until the study is done",
        found=f"{first.reason}; its log ends with{first.log_end}",
        hint=f"all of it is in {first.member.log}; then `skiptune launch {study.name}`",
    )
