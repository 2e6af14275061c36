"""Who watches a running study: bars on a terminal, lines in a log, or nobody."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skiptune.commands.options import Options
    from skiptune.search.events import Listener
    from skiptune.search.study import OpenStudy
    from skiptune.views.progress import Standing

__all__ = ["watching"]


@contextmanager
def watching(options: Options, study: OpenStudy) -> Iterator[Listener]:
    """Yield the listener that the options ask for; bars are drawn while the block runs."""
    from skiptune.commands.output import stderr_console
    from skiptune.search.events import silent
    from skiptune.views.progress import Lines, bars

    if options.quiet:
        yield silent
        return
    console = stderr_console()
    standing = _standing(study)
    if console.is_terminal and not options.no_progress:
        with bars(console, standing, verbose=options.verbose > 0) as listener:
            yield listener
    else:
        yield Lines(
            lambda text: print(text, file=sys.stderr, flush=True),
            standing,
            verbose=options.verbose > 0,
        )


def _standing(study: OpenStudy) -> Standing:
    """Return where the study stood before this run began."""
    from skiptune.search.events import Scored
    from skiptune.search.overview import leaders
    from skiptune.views.progress import Standing

    budget = study.spec.search.evaluations
    known = leaders(study.database, study.spec.study, budget)
    standing = Standing(budget, {leader.number for leader in known})
    if known:
        best = known[0]
        standing.baseline = best.baseline.value
        standing.best = Scored(
            number=best.number,
            kind="proposal",
            label=best.measured.label,
            images=best.measured.images,
            value=best.measured.value,
            standard_error=best.measured.standard_error,
            difference=best.measured.difference,
            difference_error=best.measured.difference_error,
            params=best.params,
        )
    return standing
