"""Folders of images: what is in a file, what is made again, and what is refused beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from skiptune.commands.image_folders import (
    RECORD,
    check_images,
    image_name,
    meaning_of,
    write_images,
)
from skiptune.errors import OutputError
from skiptune.sampling import images
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from tests.command_line import Outcome
from tests.test_sampling import SETTING, schedule_of, write

Command = Callable[..., Outcome]


@pytest.fixture
def network(
    tmp_path: Path, tiny_network: torch.nn.Module, write_checkpoint: Callable[..., Path]
) -> Checkpoint:
    return load_checkpoint(write_checkpoint(tiny_network, tmp_path / "tiny.safetensors"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], int]]:
    """The seeds and the microbatch of every call of the sampler from here on."""
    calls = []
    real = images.sample

    def counted(network: Any, setting: Setting, seeds: Sequence[int], **named: Any) -> Any:
        calls.append((list(seeds), named["microbatch"]))
        return real(network, setting, seeds, **named)

    monkeypatch.setattr(images, "sample", counted)
    return calls


def decoded(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            assert (picture.format, picture.mode) == ("PNG", "L")
            found[path.name] = np.asarray(picture)
    return found


def filled(
    folder: Path, network: Checkpoint, seeds: Sequence[int], **named: Any
) -> tuple[int, int]:
    schedule = schedule_of(network, 0.4)
    meaning = meaning_of(network, SETTING, schedule)
    return write_images(folder, network, SETTING, schedule, seeds, meaning=meaning, **named)


def test_files_hold_the_sampler_s_pixels_by_the_seeds_names(
    network: Checkpoint, tmp_path: Path
) -> None:
    seeds = [3, 0, 1_234_567]
    told: list[int] = []
    assert filled(tmp_path / "a" / "b", network, seeds, progress=told.append) == (3, 0)
    assert told == [3]
    with scaled(network.network, schedule_of(network, 0.4)), torch.no_grad():
        (batch,) = images.sample(network.network, SETTING, seeds, microbatch=3)
    found = decoded(tmp_path / "a" / "b")
    assert list(found) == ["000000.png", "000003.png", "1234567.png"]
    for seed, pixels in zip(seeds, batch.images.numpy(), strict=True):
        assert np.array_equal(found[image_name(seed)], pixels[0])
    assert found["000000.png"].std() > 1


def test_only_what_is_missing_is_sampled(
    network: Checkpoint, tmp_path: Path, asked: list[tuple[list[int], int]]
) -> None:
    filled(tmp_path, network, range(6))
    before = decoded(tmp_path)
    (tmp_path / "000004.png").unlink()
    (tmp_path / "000001.png").unlink()
    told: list[int] = []
    assert filled(tmp_path, network, range(8), progress=told.append) == (4, 0)
    assert filled(tmp_path, network, range(8)) == (0, 0)
    # Through the network as many at once as at first, so that no bit depends on the stop.
    assert asked == [(list(range(6)), 6), ([1, 4, 6, 7], 6), ([], 6)]
    assert told == [8]
    after = decoded(tmp_path)
    assert len(after) == 8
    for name, pixels in before.items():
        assert np.array_equal(after[name], pixels)
    filled(tmp_path, network, [2], force=True)
    assert asked[-1] == ([2], 6)


def test_what_diverges_is_black_and_counted(network: Checkpoint, tmp_path: Path) -> None:
    with torch.no_grad():
        next(network.network.parameters()).fill_(torch.nan)
    assert filled(tmp_path, network, range(3)) == (3, 3)
    assert not any(pixels.any() for pixels in decoded(tmp_path).values())


def test_the_record_tells_what_made_them(network: Checkpoint, tmp_path: Path) -> None:
    meaning = meaning_of(network, SETTING, None, label="class 1")
    assert check_images(tmp_path / "new", meaning) is None
    assert not (tmp_path / "new").exists(), "a look makes nothing"
    write_images(tmp_path / "new", network, SETTING, None, [5], meaning=meaning)
    record = json.loads((tmp_path / "new" / RECORD).read_text())
    assert record == {
        "format": "skiptune.images",
        "network": {"name": network.name, "sha256": network.sha256},
        "dtype": "float32",
        "schedule_sha256": Schedule.baseline().digest,
        "setting": SETTING.to_json(),
        "decoder": None,
        "prompts": None,
        "label": "class 1",
        "microbatch": 1,
    }
    assert check_images(tmp_path / "new", meaning) == 1
    for other, told in (
        (meaning_of(network, Setting(steps=4), None, label="class 1"), "another setting"),
        (meaning_of(network, SETTING, None), "another label"),
        ({**meaning, "dtype": "float16", "prompts": {}}, "another dtype, prompts"),
    ):
        with pytest.raises(OutputError) as caught:
            check_images(tmp_path / "new", other)
        assert caught.value.problems[0].found == f"images of {told}"


def test_a_broken_record_is_no_record_of_these_images(network: Checkpoint, tmp_path: Path) -> None:
    filled(tmp_path, network, [0])
    record = tmp_path / RECORD
    whole = json.loads(record.read_text())
    for text in ("{", "3", *(json.dumps({**whole, "microbatch": n}) for n in (0, "many", None))):
        record.write_text(text)
        with pytest.raises(OutputError, match="images of the same network"):
            filled(tmp_path, network, [0])
    record.write_bytes(b"\xff")
    with pytest.raises(OutputError, match="a folder that can be written"):
        filled(tmp_path, network, [0])


def test_folders_are_looked_at_before_anything_is_sampled(
    command: Command, study_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_checkpoint(study_folder / "tiny.safetensors")
    tuned = write(network, study_folder / "tuned.json", 0.4)
    other = write(network, study_folder / "other.json", 1.8)
    words = ("sample", "--compare", tuned, other, "--seeds", "0", "-o")
    assert command(*words, "all/").code == 0
    (Path("all") / "other" / RECORD).unlink()
    monkeypatch.setattr(images, "sample", None)
    scored = ("--num", "150", "--reference", study_folder / "reference.npz")
    for more in ((), scored):
        done = command(*words, "all/", *more, "--force")
        assert done.code == 2 and "error: -o all/other" in done.err, done.err
        assert done.out == ""
    # Where something else is refused, no folder is begun.
    few = command(*words, "new/", "--num", "100", "--reference", scored[-1])
    assert few.code == 2 and "at least 128" in few.err
    assert not Path("new").exists()
    nowhere = command(*words, "/proc/none/")
    assert nowhere.code == 2 and "error: -o /proc/none" in nowhere.err
