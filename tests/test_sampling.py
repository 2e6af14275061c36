"""`skiptune sample`: pictures, folders, classes, comparisons, and what is refused."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from skiptune.canonical import digest
from skiptune.commands.pictures import images_of
from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.image_files import open_images
from skiptune.objectives.reference import reference_of, save_reference
from skiptune.sampling import images
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.networks.pipeline_unet import Conditions, PipelineDenoiser
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search.prompting import with_prompts
from skiptune.search.tuned import Tuned
from skiptune.views.picture import Row, grid
from tests.command_line import Outcome
from tests.pipelines import random_unet, write_pipeline
from tests.text_encoders import install, states_of, write_encoders

Command = Callable[..., Outcome]

SETTING = Setting(steps=3)


@pytest.fixture
def network(study_folder: Path) -> Checkpoint:
    return load_checkpoint(study_folder / "tiny.safetensors")


def write(made: Checkpoint, path: Path, scale: float, **changes: Any) -> Path:
    """A tuned.json beside its network: one scale, at three steps."""
    score = {
        "label": "x", "images": 500, "nfe": 3.0, "value": 5.0, "standard_error": 0.1,
        "interval": [4.8, 5.2],
    }  # fmt: skip
    setting = changes.pop("setting", SETTING)
    sections = {
        "study": "tiny",
        "network": {"name": "tiny.safetensors", "sha256": made.sha256},
        "verdict": {"verdict": "not confirmed"},
        "measure": {
            "metric": "FD",
            "extractor": "pooled-pixels",
            "extractor_sha256": "0" * 64,
            "reference": "own images",
            "reference_sha256": "0" * 64,
        },
        "baseline": score,
        "tuned": score,
        "seeds": {"search": {"first": 1_000_000, "images": 500}},
        "provenance": {"skiptune": "0.1", "created": "2026-11-23T00:00:00+00:00"},
        "setting": setting.to_json(),
    }
    Tuned.of(schedule_of(made, scale), skips=made.skips, **(sections | changes)).write(path)
    return path


def schedule_of(network: Checkpoint, scale: float) -> Schedule:
    return Schedule.uniform({network.skips[0].address: scale})


@pytest.fixture
def tuned(network: Checkpoint, study_folder: Path) -> Path:
    return write(network, study_folder / "tuned.json", 0.4)


@pytest.fixture
def other(network: Checkpoint, study_folder: Path) -> Path:
    return write(network, study_folder / "other.json", 1.8)


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def shows(path: Path, rows: list[Row]) -> bool:
    """Whether a picture is these rows, captions and all."""
    return bool(np.array_equal(pixels(path), np.asarray(grid(rows))))


# Pictures


def test_one_schedule_makes_a_square(command: Command, tuned: Path, network: Checkpoint) -> None:
    done = command("sample", tuned, "--seeds", "0-3")
    assert done.code == 0, done.err
    made = images_of(network, SETTING, schedule_of(network, 0.4), range(4))
    assert shows(Path("grid.png"), [Row("", made[:2]), Row("", made[2:])])
    again = command("sample", tuned, "--seeds", "0-3")
    assert again.code == 2 and "--force" in again.err


def test_alone_under_compare_it_stands_below_the_baseline(
    command: Command, tuned: Path, network: Checkpoint
) -> None:
    done = command("sample", tuned, "--compare", "--seeds", "0-17", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["rows"] == ["baseline", "tuned"]
    base = images_of(network, SETTING, None, range(18))
    ours = images_of(network, SETTING, schedule_of(network, 0.4), range(18))
    rows = [
        Row("baseline", base[:16]), Row("tuned", ours[:16]), Row("", base[16:]), Row("", ours[16:])
    ]  # fmt: skip
    assert shows(Path("grid.png"), rows)
    assert "--num" in done.err


def test_several_schedules_stand_in_the_order_they_are_named(
    command: Command, tuned: Path, other: Path, network: Checkpoint
) -> None:
    done = command("sample", "--compare", other, "baseline", tuned, "--seeds", "3,5")
    assert done.code == 0, done.err
    wanted = [("other", 1.8), ("baseline", None), ("tuned", 0.4)]
    rows = [
        Row(
            label,
            images_of(
                network, SETTING, None if scale is None else schedule_of(network, scale), [3, 5]
            ),
        )
        for label, scale in wanted
    ]
    assert shows(Path("grid.png"), rows)


def test_each_schedule_keeps_its_own_setting(
    command: Command, tuned: Path, network: Checkpoint, study_folder: Path
) -> None:
    more = Setting(steps=5)
    longer = write(network, study_folder / "longer.json", 0.4, setting=more)
    assert command("sample", "--compare", tuned, longer, "--seeds", "0,1").code == 0
    schedule = schedule_of(network, 0.4)
    rows = [
        Row("tuned", images_of(network, SETTING, schedule, [0, 1])),
        Row("longer", images_of(network, more, schedule, [0, 1])),
    ]
    assert shows(Path("grid.png"), rows)


def test_files_of_one_name_are_told_apart(
    command: Command, tuned: Path, network: Checkpoint, study_folder: Path
) -> None:
    (study_folder / "b").mkdir()
    same = write(network, study_folder / "b" / "tuned.json", 0.8)
    words = ("--checkpoint", study_folder / "tiny.safetensors", "--seeds", "0", "--json")
    done = command("sample", "--compare", tuned, same, *words)
    assert json.loads(done.out)["rows"] == [str(tuned)[:-5], str(same)[:-5]]


# Classes and prompts


def test_classes_are_rows_of_the_same_seeds(
    command: Command, tuned: Path, network: Checkpoint
) -> None:
    done = command("sample", tuned, "--compare", "--classes", "2,0", "--seeds", "0-2", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["labels"] == ["class 2", "class 0"]
    schedule = schedule_of(network, 0.4)
    rows = [
        Row(
            f"{label}, class {number}",
            images_of(network, Setting(steps=3, labels=number), scales, range(3)),
        )
        for number in (2, 0)
        for label, scales in (("baseline", None), ("tuned", schedule))
    ]
    assert shows(Path("grid.png"), rows)
    assert not np.array_equal(rows[1].images, rows[3].images)


def test_one_class_of_one_schedule(command: Command, tuned: Path, network: Checkpoint) -> None:
    assert command("sample", tuned, "--class", "1", "--seeds", "0-3").code == 0
    setting = Setting(steps=3, labels=1)
    made = images_of(network, setting, schedule_of(network, 0.4), range(4))
    assert shows(Path("grid.png"), [Row("class 1", made[:2]), Row("", made[2:])])


# Folders


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*.png"))
    }


def test_a_folder_gets_one_png_per_seed(
    command: Command, tuned: Path, network: Checkpoint
) -> None:
    done = command("sample", tuned, "--seeds", "0-2,70", "-o", "images/", "--json")
    assert done.code == 0, done.err
    plain = json.loads(done.out)
    assert (plain["images"], plain["diverged"]) == (4, 0)
    assert list(files(Path("images"))) == [
        "000000.png", "000001.png", "000002.png", "000070.png"
    ]  # fmt: skip
    made = images_of(network, SETTING, schedule_of(network, 0.4), [0, 1, 2, 70])
    for seed, image in zip([0, 1, 2, 70], made, strict=True):
        assert np.array_equal(pixels(Path("images") / f"{seed:06d}.png"), image[0])
    record = json.loads(Path("images/.skiptune-images.json").read_text())
    assert record["schedule_sha256"] == schedule_of(network, 0.4).digest
    assert record["network"]["sha256"] == network.sha256
    # Whoever scores the folder sees images alone.
    source = open_images("images")
    assert (source.count, source.kind) == (4, "folder")


def test_a_stopped_folder_goes_on_where_it_stood(
    command: Command, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("sample", tuned, "--seeds", "0-119", "-q")
    assert command(*words, "-o", "whole/").code == 0
    real = images.sample

    def interrupted(*arguments: Any, **named: Any) -> Any:
        yield next(iter(real(*arguments, **named)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(images, "sample", interrupted)
        stopped = command(*words, "-o", "parts/")
    assert stopped.code == 130 and "Run it again" in stopped.err
    before = files(Path("parts"))
    assert len(before) == 50
    done = command(*words[:-1], "-o", "parts/")
    assert done.code == 0 and "50 images were there already" in done.err
    after = files(Path("parts"))
    assert {name: after[name] for name in before} == before
    whole = files(Path("whole"))
    assert {name: data for name, (data, _) in after.items()} == {
        name: data for name, (data, _) in whole.items()
    }
    assert command(*words, "-o", "parts/", "--force").code == 0
    assert files(Path("parts"))["000000.png"][1] > before["000000.png"][1]


def test_more_seeds_come_to_a_folder_later(command: Command, tuned: Path) -> None:
    assert command("sample", tuned, "--seeds", "0-4", "-o", "few/").code == 0
    assert command("sample", tuned, "--seeds", "0-9", "-o", "few/").code == 0
    assert len(files(Path("few"))) == 10
    # At as many images per evaluation as the folder was begun with.
    assert json.loads(Path("few/.skiptune-images.json").read_text())["microbatch"] == 5


@pytest.mark.parametrize("change", ["scales", "class", "foreign", "broken"])
def test_a_folder_holds_images_of_one_schedule(
    command: Command, tuned: Path, other: Path, change: str
) -> None:
    words: tuple[Any, ...] = ("sample", tuned, "--seeds", "0", "-o", "mine/")
    if change == "foreign":
        Path("mine").mkdir()
        Path("mine/000000.png").write_bytes(b"")
    else:
        assert command(*words).code == 0
    if change == "broken":
        Path("mine/.skiptune-images.json").write_text("{")
    before = files(Path("mine"))
    again = {
        "scales": ("sample", other, *words[2:], "--force"),
        "class": (*words, "--class", "1"),
    }.get(change, words)
    done = command(*again)
    assert done.code == 2
    assert "error: -o mine" in done.err and "another folder" in done.err
    told = {"scales": "schedule_sha256", "class": "setting"}.get(change, "other images")
    assert told in done.err
    assert files(Path("mine")) == before


def test_schedules_and_classes_have_folders_of_their_own(
    command: Command, tuned: Path, network: Checkpoint
) -> None:
    words = ("--compare", "--classes", "0,1", "--seeds", "7", "-o", "all")
    assert command("sample", tuned, *words).code == 0
    wanted = [
        f"{label}/class-{number}/000007.png"
        for label in ("baseline", "tuned")
        for number in (0, 1)
    ]
    assert list(files(Path("all"))) == wanted
    setting = Setting(steps=3, labels=1)
    [made] = images_of(network, setting, schedule_of(network, 0.4), [7])
    assert np.array_equal(pixels(Path("all") / wanted[3]), made[0])


# What is refused


REFUSED = (
    ("", "skiptune sample", "a TUNED.json"),
    ("baseline", "skiptune sample", "a TUNED.json"),
    ("T O", "skiptune sample", "--compare"),
    ("T T --compare", "skiptune sample", "every name once"),
    ("none.json O --compare", "none.json", "no such file"),
    ("T alien.json --compare", "alien.json: network.sha256", "as "),
    ("T --class 3", "--class 3", "a class from 0 to 2"),
    ("T --class x", "--class x", "numbers and ranges"),
    ("T --prompt boat", "--prompt", "reads text"),
    ("T --prompt=", "--prompt", "a text"),
    ("T --prompts none.txt", "none.txt", "No such file"),
    ("T --prompt a --class 1", "--class and --prompt", "one of"),
    ("T --num 500", "--num 500", "--compare"),
    ("T --compare --num 127 --reference R", "--num 127", "at least 128"),
    ("T --compare --num 500", "--reference", "reference statistics"),
    ("T --compare --reference R", "--reference ", "--num N"),
    ("T --compare --num 500 --reference R --class 1", "--num 500", "class 1"),
    ("T --compare --num 500 --reference R --metric fdd", "--metric fdd", "did you mean"),
    ("T --seeds 0-9999 --compare", "skiptune sample", "at most 10,000"),
    ("T --seeds 0-99999", "--seeds 0-99999", "at most 10,000"),
    ("T -o none/grid.png", "-o none/grid.png", "No such file"),
    ("T -o -", "-o -", "a picture or a folder"),
    ("T -o grid.jpg", "-o grid.jpg", "a picture NAME.png, or a folder"),
    ("T -o T/images/", "-o", "Not a directory"),
)


def test_what_makes_no_picture_is_told_before_an_image_is_made(
    command: Command,
    tuned: Path,
    other: Path,
    network: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alien = {"name": "tiny.safetensors", "sha256": "f" * 64}
    write(network, Path("alien.json"), 0.5, network=alien)
    reference = tuned.parent / "reference.npz"
    monkeypatch.setattr(images, "sample", None)
    for words, where, told in REFUSED:
        places = {"T": tuned, "O": other, "R": reference, "T/images/": f"{tuned}/images/"}
        done = command("sample", *(places.get(word, word) for word in shlex.split(words)))
        assert done.code == 2, words
        assert f"error: {where}" in done.err, (words, done.err)
        assert told in done.err and "hint: " in done.err, (words, done.err)
        assert done.out == "", words
        assert not list(Path().glob("*.png")), words


def test_prompts_of_the_command_line_take_the_place_of_those_that_were_tuned_with(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    unet = random_unet("UNet2DConditionModel", in_channels=1, out_channels=1)
    pipeline = write_pipeline(tmp_path / "text", unet=unet)
    install(monkeypatch)  # diffusers itself looks for the true one
    write_encoders(pipeline, widths=[12])
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    loaded = load_checkpoint(pipeline)
    prompts = with_prompts(loaded, str(tmp_path / "prompts.txt")).config["prompts"]
    setting = Setting(solver="euler", steps=2, sigma_min=0.02, sigma_max=100.0, guidance=3.0)
    told = {"name": "prompts.txt", "sha256": prompts["sha256"], "identity": digest(prompts)}
    network = {"name": "text", "sha256": loaded.sha256, "prompts": told}
    path = write(loaded, tmp_path / "tuned.json", 0.4, network=network, setting=setting)

    (tmp_path / "mine.txt").write_text("a boat\nthe sea\n")
    words = ("sample", path, "--seeds", "0-2")
    assert command(*words, "--prompt", "a boat", "--prompt", "the sea", "-o", "a.png").code == 0
    done = command(*words, "--prompts", "mine.txt", "-o", "b.png", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["labels"] == ["a boat", "the sea"]
    states = torch.stack([states_of(text, 12) for text in ("a boat", "the sea", "")])
    pipe: Any = loaded.network
    own = PipelineDenoiser(unet, pipe.scheduler, conditions=Conditions(states)).eval()
    rows = [
        Row(
            text,
            images_of(
                replace(loaded, network=own),
                replace(setting, labels=place),
                schedule_of(loaded, 0.4),
                range(3),
            ),
        )
        for place, text in enumerate(("a boat", "the sea"))
    ]
    assert shows(Path("a.png"), rows) and shows(Path("b.png"), rows)
    assert not np.array_equal(rows[0].images, rows[1].images)

    assert command(*words, "-o", "c.png").code == 0  # those of the file, by the seeds
    assert command(*words, "--prompts", "mine.txt", "-o", "folder/").code == 0
    assert {path.parent.name for path in Path("folder").rglob("*.png")} == {"a-boat", "the-sea"}
    # Prompts that begin alike do not meet in one folder.
    alike = [f"{'a boat on the sea, ' * 4}{end}" for end in ("by day", "by night")]
    alike_words = ("--prompt", alike[0], "--prompt", alike[1], "-o", "alike/")
    assert command(*words, *alike_words).code == 0
    folders = {path.parent.name for path in Path("alike").rglob("*.png")}
    assert len(folders) == 2 and all(len(name) == 69 for name in folders)
    refused = command(*words, "--class", "1", "-o", "d.png")
    assert refused.code == 2 and "name prompts with --prompt" in refused.err

    # One prompt for all images is no unit to count errors by.
    extractor = load_extractor("dct")
    pixels = torch.randint(0, 256, (500, 1, 8, 8), dtype=torch.uint8)
    reference = reference_of(extractor(pixels).numpy(), extractor=extractor, name="noise")
    save_reference(tmp_path / "noise.npz", reference)
    scored = ("--compare", "--seeds", "0", "--num", "512", "--json", "-o")
    for labels, unit in (("random", "prompt"), (1, None)):
        changed = replace(setting, labels=labels)
        measure = {
            "metric": "FD", "extractor": "dct", "extractor_sha256": extractor.sha256,
            "reference": "noise", "reference_sha256": reference.digest,
        }  # fmt: skip
        own_path = tmp_path / f"{labels}.json"
        write(loaded, own_path, 0.4, network=network, setting=changed, measure=measure)
        done = command("sample", own_path, *scored, f"{labels}.png")
        assert done.code == 0, done.err
        rows_of = json.loads(done.out)["scores"]
        assert {row.get("unit") for row in rows_of} == {unit}
        few = [row for row in rows_of if any("prompts" in text for text in row["cautions"])]
        assert bool(few) == (unit == "prompt")
        assert rows_of[1]["difference"]["standard_error"] is not None
