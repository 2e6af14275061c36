"""A command in a hint can be pasted, whatever letters the user's paths have."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skiptune.commands.tuning import _next
from skiptune.errors import SkiptuneError
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.schedule import Schedule
from skiptune.search.fetching import refuse_missing
from skiptune.search.spec import load_spec
from skiptune.storage.buckets import BucketShelf
from skiptune.storage.secret_files import read_secret
from skiptune.views.dashboard.access import make_token
from tests.command_line import Outcome
from tests.tuned_documents import tuned_for

Command = Callable[..., Outcome]

FOLDER = "it's my $(study) & `more`"


def words_behind(text: str, begin: str) -> list[str]:
    """Return the words of the command in the last line of a text that begins so."""
    line = text.rstrip().splitlines()[-1]
    return shlex.split(line[line.index(begin) :])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with letters that a shell reads in another way."""
    path = tmp_path / FOLDER
    path.mkdir()
    return path


@pytest.fixture
def tuned(folder: Path) -> Path:
    path = folder / "tuned.json"
    document = tuned_for(load_checkpoint("fashion"), Schedule.uniform({"8x8_block1": 1.2}))
    document.write(path)
    return path


def test_the_next_step_after_a_study_file(command: Command, folder: Path) -> None:
    file = folder / "a.yaml"
    done = command("init", file)
    assert words_behind(done.err, "skiptune") == ["skiptune", "check", str(file)]
    done = command("fetch", file)
    assert words_behind(done.err, "skiptune") == ["skiptune", "check", str(file)]
    scales = folder / "mine.yaml"
    scales.write_text("8x8_block1: 0.9\n")
    done = command("import", scales, "--into", file)
    assert words_behind(done.err, "skiptune") == ["skiptune", "check", str(file)]


def test_an_import_for_nothing(command: Command, folder: Path) -> None:
    file = folder / "mine.yaml"
    done = command("import", file)
    assert words_behind(done.err, "skiptune import")[:3] == ["skiptune", "import", str(file)]


def test_what_is_wrong_with_a_study(command: Command, folder: Path) -> None:
    file = folder / "a.yaml"
    command("init", file)
    done = command("check", file, "-s", "search.rungs=[250]")
    assert done.code == 2 and "search.rungs" in done.err, done.err
    assert words_behind(done.err.rstrip().removesuffix("`"), "skiptune check")[-1] == str(file)


def test_a_missing_file_of_a_study(folder: Path) -> None:
    file = folder / "a.yaml"
    spec = load_spec("fashion", overrides=["network.checkpoint=none.safetensors",
                                           "network.url=https://example.org/x"])  # fmt: skip
    with pytest.raises(SkiptuneError) as caught:
        refuse_missing(spec, source=str(file))
    hint = caught.value.hint.removesuffix("`")
    assert words_behind(hint, "skiptune") == ["skiptune", "fetch", str(file)]


def test_several_files_without_compare(command: Command, tuned: Path) -> None:
    done = command("sample", tuned, "baseline")
    begin = "skiptune sample --compare"
    assert words_behind(done.err, begin) == [*begin.split(), str(tuned), "baseline"]


def test_a_file_that_was_exported(command: Command, tuned: Path) -> None:
    copy = tuned.with_name("copy.json")
    done = command("export", tuned, "-o", copy)
    assert done.code == 0, done.err
    assert str(copy) in words_behind(done.err, "skiptune sample")


def test_a_file_that_was_tuned(folder: Path) -> None:
    assert str(folder / "tuned.json") in words_behind(
        _next("fashion", [folder / "tuned.json"]), "skiptune sample"
    )


def test_a_folder_in_place_of_a_file(command: Command, folder: Path, tuned: Path) -> None:
    done = command("export", tuned, "-o", folder)
    assert words_behind(done.err, "-o ") == ["-o", str(folder / "NAME")]


def test_a_name_that_is_watched_by_nobody(command: Command) -> None:
    done = command("status", FOLDER, "--watch", "--json")
    assert words_behind(done.err, "skiptune")[2] == FOLDER
    done = command("status", FOLDER, "--watch", "--disk")
    assert words_behind(done.err, "skiptune")[2] == FOLDER


def test_prompts_of_another_encoding(folder: Path) -> None:
    from skiptune.sampling.prompts import read_prompts

    file = folder / "prompts.txt"
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(SkiptuneError) as caught:
        read_prompts(file)
    assert words_behind(caught.value.hint.removesuffix("`"), "iconv")[-1] == str(file)


def test_a_part_of_statistics(command: Command, folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(folder / "images.npz", rng.integers(0, 256, (20, 32, 32), dtype=np.uint8))
    part = folder / "stats.npz.part"
    part.write_bytes(b"nothing")
    done = command("ref", folder / "images.npz", "-o", folder / "stats.npz",
                   "--extractor", "fashion-cnn")  # fmt: skip
    assert words_behind(done.err, "rm ") == ["rm", str(part)], done.err
    part.unlink()
    done = command("ref", folder / "images.npz", "-o", folder / "stats.npz",
                   "--extractor", "fashion-cnn")  # fmt: skip
    assert words_behind(done.err, "skiptune score")[-1] == str(folder / "stats.npz"), done.err


def test_a_secret_that_others_can_read(folder: Path) -> None:
    file = folder / "token"
    file.write_text("a secret")
    file.chmod(0o644)
    with pytest.raises(SkiptuneError) as caught:
        read_secret(file, where="here", what="the token of the page", example="")
    assert shlex.split(caught.value.hint) == ["chmod", "600", str(file)]
    *_, last = shlex.split(make_token(str(file)).removesuffix(")"))
    assert last == str(file)


def test_a_bucket() -> None:
    shelf = BucketShelf("s3://images/my studies")
    hint = shelf._forbidden("AccessDenied").hint.removesuffix("`")
    assert words_behind(hint, "aws s3 ls") == ["aws", "s3", "ls", "s3://images/my studies/"]
