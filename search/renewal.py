"""A lease is renewed beside the sampling, so that no single step has to be shorter than it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from skiptune.errors import LeaseLostError, StorageError
from skiptune.storage import leases
from skiptune.storage.database import Database
from skiptune.storage.leases import Claim

__all__ = ["Renewal"]


class Renewal:
    """Renews a claim's lease in a thread for the length of a `with` block.

    A database that is away is asked again later: the commit decides whether the lease has held.

    Arguments:
        database: Where the claim was made; nothing else uses it inside the block.
        claim: Whose lease.
        seconds: Returns the length of the lease; asked at each renewal, a third of it apart.
    """

    def __init__(self, database: Database, claim: Claim, *, seconds: Callable[[], float]) -> None:
        self._database = database
        self._claim = claim
        self._seconds = seconds
        self._end = threading.Event()
        self._lost: LeaseLostError | None = None
        self._thread = threading.Thread(target=self._renew, name="renewal", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def check(self) -> None:
        """Give up early where the lease is known to be lost.

        Raises:
            LeaseLostError: Another worker has the chunk.
        """
        if self._lost is not None:
            raise self._lost

    def _renew(self) -> None:
        while not self._end.wait(self._seconds() / 3):
            try:
                leases.renew(self._database, self._claim, seconds=self._seconds())
            except LeaseLostError as lost:
                self._lost = lost
                return
            except StorageError:
                continue
            finally:
                self._database.rest()
