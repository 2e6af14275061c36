from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from skiptune.canonical import file_digest
from skiptune.errors import NetworkError, OutputError
from skiptune.sampling import tensor_files
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.official import LICENCE_NOTE
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.skips import decoder_blocks
from skiptune.sampling.tensor_files import save_tensors
from skiptune.search import baking
from skiptune.search.baking import MARKER, bake, measured_fold
from skiptune.search.evidence import Verdict
from tests.pipelines import random_unet, write_pipeline
from tests.sampling.families import FAMILIES, network_of
from tests.tuned_documents import SETTING, tuned_for


@pytest.fixture
def checkpoint(tmp_path: Path) -> Any:
    """A checkpoint file of ADM's structure: two of its four blocks are mixed."""
    (tmp_path / "source").mkdir()
    family = FAMILIES["adm-edm"]
    return load_checkpoint(family.write(network_of(family), tmp_path / "source", {}))


@pytest.fixture
def schedule(checkpoint: Any) -> Schedule:
    return Schedule.uniform({s.address: (0.6, 1.3, 0.8, 1.15)[s.index] for s in checkpoint.skips})


def test_the_folder_says_what_was_done_and_samples_as_the_hooks_do(
    checkpoint: Any, schedule: Schedule, tmp_path: Path
) -> None:
    document = tuned_for(checkpoint, schedule)
    made = bake(document, checkpoint, tmp_path / "baked")
    names = sorted(os.listdir(tmp_path / "baked"))
    assert names == ["BAKED.md", MARKER, "network.safetensors"]
    assert made.weights == (tmp_path / "baked" / "network.safetensors",)
    plain = json.loads((tmp_path / "baked" / MARKER).read_text())
    assert plain["format"] == "skiptune.baked"
    assert plain["network"]["sha256"] == checkpoint.sha256
    assert plain["schedule_sha256"] == schedule.digest
    assert plain["verdict"] == "win"
    assert plain["weights"] == {"network.safetensors": file_digest(made.weights[0])}
    mixed = [s.address for s in checkpoint.skips if s.mixed]
    assert [b["address"] for b in plain["blocks"] if not b["exact"]] == mixed
    assert all(b["deviation"]["effect"] > 0 for b in plain["blocks"] if not b["exact"])
    with safe_open(made.weights[0], framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["skiptune.baked"])["schedule_sha256"] == schedule.digest
    assert metadata["skiptune.licence"] == made.licence
    card = (tmp_path / "baked" / "BAKED.md").read_text()
    assert all(f"| {address} | " in card for address in schedule.addresses)
    assert card.count("nearly: a mixed group") == len(mixed)
    assert schedule.digest in card and checkpoint.sha256 in card
    baked = load_checkpoint(made.weights[0])
    found = sample_float(baked.network, SETTING, range(4))
    with scaled(checkpoint.network, schedule), torch.no_grad():
        expected = sample_float(checkpoint.network, SETTING, range(4))
    off = 127.5 * (found.clip(-1, 1) - expected.clip(-1, 1)).pow(2).mean().sqrt()
    assert float(off) == pytest.approx(made.deviations.levels, rel=1e-3)
    assert made.deviations.levels < made.deviations.moved / 20
    assert made.to_json()["deviation"]["effect"] == made.deviations.whole.effect


def test_scales_are_not_applied_to_weights_that_hold_them(
    checkpoint: Any, schedule: Schedule, tmp_path: Path
) -> None:
    document = tuned_for(checkpoint, schedule)
    baked = load_checkpoint(bake(document, checkpoint, tmp_path / "baked", images=1).weights[0])
    with pytest.raises(NetworkError, match=r"hold these scales already .*of study tiny"):
        document.apply(baked)
    # A study of the baked network itself has scales that belong on it, and may be baked in turn.
    more = Schedule.uniform({schedule.addresses[1]: 0.9})
    upon = tuned_for(baked, more, study="upon")
    upon.apply(baked).remove()
    with pytest.raises(NetworkError, match="hold scales already"):
        tuned_for(checkpoint, more).apply(baked)
    with pytest.raises(OutputError, match="without the network that is read"):
        bake(upon, baked, tmp_path / "baked", images=1, force=True)
    assert baked.path.is_file()
    twice = bake(upon, baked, tmp_path / "twice", images=1)
    told = json.loads((tmp_path / "twice" / MARKER).read_text())["network"]
    assert told["sha256"] == baked.sha256
    origin = told["baked"]
    assert (origin["study"], origin["schedule_sha256"]) == ("tiny", schedule.digest)
    assert origin["network"]["sha256"] == checkpoint.sha256
    card = (tmp_path / "twice" / "BAKED.md").read_text()
    assert f"holds scales already: study tiny, schedule `{schedule.digest}`" in card
    assert load_checkpoint(twice.weights[0]).sha256 != baked.sha256


@pytest.mark.parametrize("part", ["both", "residual"])
def test_a_network_that_diverges_is_refused(checkpoint: Any, tmp_path: Path, part: str) -> None:
    huge = Schedule.uniform({s.address: 1e38 for s in checkpoint.skips}, part=part)
    with pytest.raises(NetworkError) as caught:
        bake(tuned_for(checkpoint, huge), checkpoint, tmp_path / "baked", images=1)
    (problem,) = caught.value.problems
    assert problem.found == "NaN or infinity: with these scales the network diverges"
    assert not (tmp_path / "baked").exists()


def test_mixed_blocks_may_be_left_or_refused(
    checkpoint: Any, schedule: Schedule, tmp_path: Path
) -> None:
    document = tuned_for(checkpoint, schedule)
    made = bake(document, checkpoint, tmp_path / "left", mixed="leave", images=2)
    assert made.deviations.images == 2
    card = (tmp_path / "left" / "BAKED.md").read_text()
    assert card.count("left at 1") == sum(s.mixed for s in checkpoint.skips)
    before, after = load_file(checkpoint.path), load_file(made.weights[0])
    for block in made.fold.blocks:
        same = torch.equal(*(t[f"model.dec.{block.address}.skip.weight"] for t in (before, after)))
        assert same == block.left
    with pytest.raises(NetworkError, match="--mixed fold"):
        bake(document, checkpoint, tmp_path / "refused", mixed="refuse")
    assert not (tmp_path / "refused").exists()


def test_folds_are_the_same_every_time_and_fitted_on_other_seeds_than_compared(
    checkpoint: Any, schedule: Schedule
) -> None:
    document = tuned_for(checkpoint, schedule)
    one, two = (measured_fold(document, checkpoint) for _ in range(2))
    assert one[1] == two[1]
    state = load_file(checkpoint.path)
    first, second = (fold.apply(state) for fold, _ in (one, two))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_cannot_be_weights_is_refused_before_anything_is_written(
    checkpoint: Any, schedule: Schedule, tmp_path: Path
) -> None:
    one = schedule.addresses[0]
    cases: list[tuple[Schedule, str]] = [
        (Schedule.baseline(), "an untouched network"),
        (Schedule([Term(one, 0.8, low=1.0)]), "a window"),
    ]
    for wrong, reason in cases:
        with pytest.raises(NetworkError, match=reason):
            bake(tuned_for(checkpoint, wrong), checkpoint, tmp_path / "baked")
    family = FAMILIES["edm2"]
    (tmp_path / "edm2").mkdir()
    other = load_checkpoint(family.write(network_of(family), tmp_path / "edm2", {}))
    scales = Schedule.uniform({skip.address: 0.8 for skip in other.skips})
    with pytest.raises(NetworkError, match="EDM2"):
        bake(tuned_for(other, scales), other, tmp_path / "baked")
    with pytest.raises(NetworkError, match="sha256"):
        bake(tuned_for(checkpoint, schedule), other, tmp_path / "baked")
    assert sorted(os.listdir(tmp_path)) == ["edm2", "source"]


def test_a_target_that_exists_needs_force_and_a_full_disk_leaves_it(
    checkpoint: Any, schedule: Schedule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tuned_for(checkpoint, schedule)
    path = tmp_path / "baked"
    bake(document, checkpoint, path, mixed="leave", images=1)
    before = (path / MARKER).read_bytes()
    with pytest.raises(OutputError, match="--force"):
        bake(document, checkpoint, path)

    def full(*values: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tensor_files, "save_file", full)
        with pytest.raises(OutputError, match="No space left on device"):
            bake(document, checkpoint, path, images=1, force=True)
    assert (path / MARKER).read_bytes() == before
    bake(document, checkpoint, path, images=1, force=True)
    assert (path / MARKER).read_bytes() != before
    assert sorted(os.listdir(tmp_path)) == ["baked", "source"]


def test_a_disk_that_is_full_indeed(
    checkpoint: Any, schedule: Schedule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uvit = FAMILIES["uvit"]
    (tmp_path / "uvit").mkdir()
    other = load_checkpoint(uvit.write(network_of(uvit), tmp_path / "uvit", {}))
    scales = Schedule.uniform({skip.address: 0.8 for skip in other.skips})
    size = other.path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The second lets the first of the two files of a U-ViT pass.
    for document, loaded, most in (
        (tuned_for(checkpoint, schedule), checkpoint, 50_000),
        (tuned_for(other, scales), other, size + 2_500),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            with pytest.raises(OutputError, match="room for the files"):
                bake(document, loaded, tmp_path / "baked", images=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sorted(os.listdir(tmp_path)) == ["source", "uvit"]


def in_half(checkpoint: Any, dtype: torch.dtype) -> Any:
    """The same checkpoint, in a file of half precision."""
    with safe_open(checkpoint.path, framework="pt") as file:
        metadata = file.metadata()
    halves = {key: tensor.to(dtype) for key, tensor in load_file(checkpoint.path).items()}
    path = checkpoint.path.with_name(f"{str(dtype)[6:]}.safetensors")
    save_tensors(path, halves, metadata)
    return load_checkpoint(path)


def test_rounding_is_told_and_not_taken_for_another_use_of_the_skip(checkpoint: Any) -> None:
    half = in_half(checkpoint, torch.bfloat16)
    one = Schedule.uniform({s.address: 0.99 for s in half.skips if not s.mixed})
    _, found = measured_fold(tuned_for(half, one), half, images=1)
    # A scale of 0.99 is two steps of bfloat16 away from 1.
    assert found.exact.effect > 0.1 and found.exact.output > 1e-3
    assert found.rounded == ("bfloat16",)


def test_weights_that_the_file_s_type_cannot_hold_are_refused(
    checkpoint: Any, tmp_path: Path
) -> None:
    half = in_half(checkpoint, torch.float16)
    skip = next(s for s in half.skips if not s.mixed)
    large = Schedule.uniform({skip.address: 1e6})
    with pytest.raises(NetworkError) as caught:
        bake(tuned_for(half, large), half, tmp_path / "baked", images=1)
    (problem,) = caught.value.problems
    assert "the file's float16 can hold" in problem.expected
    name = f"model.dec.{skip.address}.skip.weight"
    most = load_file(half.path)[name][:, skip.main_channels :].abs().max().double() * 1e6
    assert problem.found == f"{float(most):.2g} in {name}"
    assert "float32" in caught.value.hint
    assert not (tmp_path / "baked").exists()
    _, found = measured_fold(tuned_for(checkpoint, large), checkpoint, images=1)
    assert found.exact.output < 1e-5


def test_scales_so_near_0_that_eps_counts_are_named_as_a_reason(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = Schedule.uniform({s.address: 3e-3 for s in checkpoint.skips if not s.mixed})
    document = tuned_for(checkpoint, near)
    _, found = measured_fold(document, checkpoint, images=1)
    assert found.exact.effect > 0.01  # where 0.5 leaves 4e-5
    monkeypatch.setattr(baking, "_MOST_LOST", 0.01)
    with pytest.raises(NetworkError, match=r"eps is small.*or scales too near 0: folded, \d+%"):
        bake(document, checkpoint, tmp_path / "baked", images=1)
    assert os.listdir(tmp_path) == ["source"]


def test_a_block_that_makes_something_else_of_its_skip_is_refused(
    checkpoint: Any, schedule: Schedule, tmp_path: Path
) -> None:
    skip = next(s for s in checkpoint.skips if not s.mixed)
    block: Any = decoder_blocks(checkpoint.network)[skip.address]
    own = block.forward

    def forward(x: Any, emb: Any) -> Any:
        rest = x[:, skip.main_channels :].mean(1, keepdim=True)
        return own(x, emb) + 3 * rest

    vars(block)["forward"] = forward
    one = Schedule.uniform({skip.address: 0.6})
    with pytest.raises(NetworkError, match="make something else of them"):
        bake(tuned_for(checkpoint, one), checkpoint, tmp_path / "baked", images=1)
    assert not (tmp_path / "baked").exists()


def test_licences_travel(checkpoint: Any, schedule: Schedule, tmp_path: Path) -> None:
    folder, document = checkpoint.path.parent, tuned_for(checkpoint, schedule)
    number = iter(range(9))

    def baked() -> Any:
        target = tmp_path / f"baked{next(number)}"
        return bake(document, checkpoint, target, mixed="leave", images=1)

    made = baked()
    assert made.licence.startswith("not said by the file it was made from; CC BY-NC-SA 4.0 if")
    (folder / "README.md").write_text("# something else\n\n| licence | none |\n")
    (folder / "LICENSE.md").write_text("terms")
    made = baked()
    assert made.licence.startswith("not said")
    assert (made.folder / "LICENSE.md").read_text() == "terms"
    assert not (made.folder / "README.md").exists()
    text = "# network.safetensors\n\n| a | b |\n|---|---|\n| licence | CC BY-NC-SA 4.0 |\n"
    (folder / "README.md").write_text(text)
    made = baked()
    assert made.licence == "CC BY-NC-SA 4.0"
    assert (made.folder / "README.md").read_text() == text
    assert "| licence | CC BY-NC-SA 4.0 |" in (made.folder / "BAKED.md").read_text()
    # The metadata of a card alone, however it is quoted, and not what its text says.
    own = checkpoint.path.with_suffix(".md")
    for quote in ("", "'", '"'):
        own.write_text(f"---\ntags:\n- x\nlicense: {quote}mit{quote}\n---\nlicense: none\n")
        assert baked().licence == "mit"
    own.write_text("---\ntags: [x]\n---\n\nlicense: see above\n")
    assert baked().licence.startswith("not said")
    own.unlink()
    # A baked file on its own says it again.
    alone = tmp_path / "alone.safetensors"
    shutil.copy(made.weights[0], alone)
    again = load_checkpoint(alone)
    twice = bake(tuned_for(again, schedule), again, tmp_path / "twice", images=1)
    assert twice.licence == "CC BY-NC-SA 4.0"


def test_licences_travel_whatever_they_and_the_network_are_called(
    checkpoint: Any, schedule: Schedule, tmp_path: Path
) -> None:
    folder = checkpoint.path.parent
    mine = load_checkpoint(checkpoint.path.rename(folder / "fashion.safetensors"))
    names = ["COPYING", "LICENSE", "USE_POLICY.md", "notice.txt"]
    for name in names:
        (folder / name).write_text(name)
    document = tuned_for(mine, schedule)
    made = bake(document, mine, tmp_path / "baked", mixed="leave", images=1)
    for name in names:
        assert (made.folder / name).read_text() == name


def test_a_network_called_like_a_licence_is_baked_and_not_taken_for_one(
    checkpoint: Any, schedule: Schedule, tmp_path: Path
) -> None:
    folder = checkpoint.path.parent
    plates = load_checkpoint(checkpoint.path.rename(folder / "license-plates.safetensors"))
    shutil.copy(plates.path, folder / "license-plates-ema.safetensors")
    document = tuned_for(plates, schedule)
    made = bake(document, plates, tmp_path / "baked", mixed="leave", images=1)
    assert sorted(os.listdir(made.folder)) == ["BAKED.md", MARKER, plates.path.name]
    before, after = load_file(plates.path), load_file(made.weights[0])
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == set(made.fold.keys)


def test_what_was_nvidia_s_pickle_stays_under_its_licence(
    checkpoint: Any, schedule: Schedule, tmp_path: Path
) -> None:
    with safe_open(checkpoint.path, framework="pt") as file:
        metadata = file.metadata() | {"skiptune.source": json.dumps({"file": "edm.pkl"})}
    save_tensors(tmp_path / "edm.safetensors", load_file(checkpoint.path), metadata)
    converted = load_checkpoint(tmp_path / "edm.safetensors")
    document = tuned_for(converted, schedule)
    made = bake(document, converted, tmp_path / "baked", mixed="leave", images=1)
    assert made.licence == LICENCE_NOTE
    assert "CC BY-NC-SA 4.0" in (tmp_path / "baked" / "BAKED.md").read_text()


def test_a_pipeline_is_baked_as_a_pipeline(tmp_path: Path) -> None:
    source = write_pipeline(tmp_path / "pipe", unet=random_unet(norm_num_groups=4))
    (source / "README.md").write_text("---\ntags: [x]\nlicense: creativeml-openrail-m\n---\n")
    loaded = load_checkpoint(source)
    scales = Schedule.uniform({s.address: 0.8 + 0.1 * s.index for s in loaded.skips})
    unconfirmed = Verdict(verdict="not confirmed")
    document = tuned_for(loaded, scales, verdict=unconfirmed)
    made = bake(document, loaded, tmp_path / "baked", images=2)
    assert made.licence == "creativeml-openrail-m"
    assert made.weights == (tmp_path / "baked" / "unet" / "diffusion_pytorch_model.safetensors",)
    assert "| verdict | not confirmed |" in (tmp_path / "baked" / "BAKED.md").read_text()
    assert json.loads((tmp_path / "baked" / MARKER).read_text())["verdict"] == "not confirmed"
    assert (tmp_path / "baked" / "README.md").read_text() == (source / "README.md").read_text()
    baked = load_checkpoint(tmp_path / "baked")
    assert baked.config == loaded.config
    assert baked.sha256 != loaded.sha256
