"""A tiny study whose images are made up, opened as often as a test wants, and workers on it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import pytest
from torch import nn

from skiptune.search.course import Course, whole_study
from skiptune.search.study import OpenStudy, open_study
from skiptune.search.worker import Limits, Worker
from skiptune.storage.database import init_database
from tests.search import made_up

T = TypeVar("T")


class Tiny:
    """The tiny study of one folder.

    Arguments:
        folder: With checkpoint and reference.
        url: Of its database, with all tables.
        module: `tiny_study`.
        closing: Closes what is opened here.
    """

    def __init__(self, folder: Path, url: str, module: ModuleType, closing: ExitStack) -> None:
        self.folder = folder
        self.url = url
        self._module = module
        self._closing = closing

    @property
    def artifacts(self) -> Path:
        """Where its arrays are."""
        return self.folder / "skiptune-artifacts"

    def spec(self, **changes: Any) -> Any:
        """The spec; by default proposals are random and all go on, as with any number of workers.

        `changes` are dotted keys with `__`.
        """
        usual = {"search__sampler": "random", "search__promote": 1.0}
        return self._module.spec(self.folder, **(usual | changes))

    @contextmanager
    def elsewhere(self, url: str = "") -> Iterator[Tiny]:
        """The same study in an empty folder and database; all is closed at the end.

        Arguments:
            url: Of the database; by default SQLite.
        """
        folder = self.folder.with_name("elsewhere" if url else "elsewhere-sqlite")
        folder.mkdir()
        for name in ("tiny.safetensors", "reference.npz"):
            shutil.copy(self.folder / name, folder / name)
        where = url or f"sqlite:///{folder / 'tiny.db'}"
        init_database(where).close()
        with ExitStack() as closing:
            yield Tiny(folder, where, self._module, closing)

    def open(self, **changes: Any) -> OpenStudy:
        """Create the study or resume it, on a connection of its own."""
        study = open_study(self.spec(**changes), storage=self.url, artifacts=self.artifacts)
        self._closing.callback(study.database.close)
        return study


def crew_member(
    study: OpenStudy, name: str, *, course: Course | None = None, **options: Any
) -> Worker:
    """A worker whose name is that of no other, as if it ran on a host of its own.

    Threads of one process have one name, and who comes back under its name gets its own chunk.
    """
    member = Worker(study, course or whole_study(study), **options)
    member.name = f"{name}:00000000:1:1"
    return member


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make all calls at the same time, and return what they return."""
    barrier = threading.Barrier(len(calls))

    def begin(call: Callable[[], T]) -> T:
        barrier.wait(timeout=60)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(begin, calls))


UNTIL_DONE = Limits(until_done=True)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and no rows, to be copied."""
    path = tmp_path_factory.mktemp("template") / "empty.db"
    init_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def tiny(
    tmp_path: Path,
    empty_database: Path,
    tiny_study: ModuleType,
    tiny_network: nn.Module,
    write_checkpoint: Callable[..., Path],
) -> Iterator[Tiny]:
    """The tiny study with a made-up reference, on SQLite."""
    folder = tmp_path / "study"
    folder.mkdir()
    write_checkpoint(tiny_network, folder / "tiny.safetensors")
    made_up.write_reference(folder, tiny_study)
    shutil.copy(empty_database, folder / "tiny.db")
    with ExitStack() as closing:
        yield Tiny(folder, f"sqlite:///{folder / 'tiny.db'}", tiny_study, closing)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up images, and workers that look again at once."""
    made_up.replace(monkeypatch.setattr)
    monkeypatch.setattr("skiptune.search.worker.POLL_SECONDS", (0.01, 0.05))


@pytest.fixture
def real_images(tmp_path: Path) -> Path:
    """Held-out images of the tiny network's shape, with labels."""
    rng = np.random.default_rng(3)
    path = tmp_path / "held-out.npz"
    images = rng.integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(300) % 3)
    return path


@pytest.fixture(params=["pixels", "latents"])
def pipe(request: pytest.FixtureRequest) -> Any:
    """A tiny pipeline of diffusers that makes pixels, and one that makes latents."""
    # diffusers is slow to load, and most tests here need none of it.
    from tests import scaled_pipelines

    return getattr(scaled_pipelines, request.param)()
