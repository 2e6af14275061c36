"""Which study a word on the command line means."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiptune.commands.options import Options
    from skiptune.search.spec import StudySpec
    from skiptune.search.study import OpenStudy
    from skiptune.storage.patience import Patience

__all__ = ["hush", "opened_study", "stored_spec", "stored_study"]


def stored_spec(options: Options, target: str, *, overrides: Sequence[str] = ()) -> StudySpec:
    """Return the spec of a study that is in the database.

    Arguments:
        options: Where the database is.
        target: The study's name, or a study file: then the file is what counts, and its study
            must exist.
        overrides: `KEY=VALUE` texts.

    Raises:
        StorageError: There is no such study in the database.
        SpecError: The study file or an override is wrong.
    """
    from skiptune.search.document import Document
    from skiptune.search.spec import StudySpec, load_spec
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database

    from_file = Path(target).suffix in (".yaml", ".yml") or "/" in target
    spec = load_spec(target, overrides=overrides) if from_file else None
    with open_database(options.url) as database:
        row = ledger.require_study(database, target if spec is None else spec.study)
    if spec is not None:
        return spec
    document = Document(f"study {target}", dict(row.spec)).overridden(overrides)
    return StudySpec.from_json(document.values, source=f"study {target}")


@contextmanager
def opened_study(
    options: Options, spec: StudySpec, *, source: str, **place: Any
) -> Iterator[OpenStudy]:
    """Open a study for the time of the block.

    Arguments:
        options: Where the database is, and how much other libraries may say.
        spec: The study.
        source: What the spec came from, for messages.
        place: What else `open_study` takes: device, artifacts, group_writable.

    Raises:
        SkiptuneError: Whatever is wrong with the spec, its files or the database.
    """
    from skiptune.search.study import open_study

    hush(verbose=options.verbose)
    with _closing(open_study(spec, storage=options.url, source=source, **place)) as study:
        yield study


@contextmanager
def stored_study(
    options: Options, name: str, *, patience: Patience | None = None, **place: Any
) -> Iterator[OpenStudy]:
    """Open a study of the database for the time of the block, wherever its files are by now.

    Arguments:
        options: Where the database is, and how much other libraries may say.
        name: The study's name.
        patience: Waits for a database that is away; none by default.
        place: What else `open_stored` takes: device, artifacts, group_writable.

    Raises:
        SkiptuneError: The database, the study, its store or a file is missing or another one.
    """
    from skiptune.search.study import open_stored
    from skiptune.storage.patience import Patience

    hush(verbose=options.verbose)
    wait = patience or Patience(0.0)
    with _closing(wait(lambda: open_stored(name, storage=options.url, **place))) as study:
        yield study


@contextmanager
def _closing(study: OpenStudy) -> Iterator[OpenStudy]:
    try:
        yield study
    finally:
        study.database.close()


def hush(*, verbose: int) -> None:
    """Keep the words of other libraries out of ours, unless they are asked for."""
    import optuna

    optuna.logging.set_verbosity(logging.INFO if verbose > 1 else logging.WARNING)
    if not verbose:
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
