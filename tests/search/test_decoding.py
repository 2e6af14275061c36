"""Studies of latents: from the folder of a VAE to tuned.json, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from skiptune.canonical import digest, file_digest
from skiptune.errors import NetworkError, ObjectiveError, SpecError, StudyChangedError
from skiptune.objectives.extractors import Extractor, register_extractor
from skiptune.objectives.reference import reference_of, save_reference
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.decoder import load_decoder
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample
from skiptune.sampling.latents import WEIGHTS_FILE
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search import artifacts
from skiptune.search.spec import StudySpec, load_spec
from skiptune.search.study import check_study, open_stored, open_study
from skiptune.search.tuned import Tuned, load
from skiptune.storage import ledger
from skiptune.storage.database import open_database
from tests.command_line import Outcome
from tests.sampling.compvis_stage import latent_options, write_latent_diffusion
from tests.vaes import write_latent_network, write_vae

EXTRACTOR = "pooled-colours"
FEATURES = 12

Command = Callable[..., Outcome]


class PooledColours(nn.Module):
    """Means of the 4 patches of 4x4 pixels of an 8x8 image in each of 3 colours."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 127.5), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] != 3:
            raise ObjectiveError(
                f"images for {EXTRACTOR}",
                expected="3 channels",
                found=f"{images.shape[1]} channels",
                hint="score latents after decoding them",
            )
        return nn.functional.avg_pool2d(images.float() * self.scale, 4).flatten(1)


def _factory(*, weights: Path | None, sha256: str | None) -> Extractor:
    module = PooledColours().eval()
    return Extractor(EXTRACTOR, FEATURES, "1" * 64, "means of colours", module, floats=True)


register_extractor(EXTRACTOR, _factory)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of latents, its VAE and a reference, to be copied."""
    folder = tmp_path_factory.mktemp("latents")
    network = load_checkpoint(write_latent_network(folder / "latents.safetensors")).network
    decoder = load_decoder(write_vae(folder / "tiny-vae"), latents="edm2", microbatch=125)
    batches = sample(
        network, Setting(steps=4), range(5_000_000, 5_000_500), microbatch=125, decoder=decoder
    )
    extractor = _factory(weights=None, sha256=None)
    features = torch.cat([extractor(batch.images) for batch in batches]).numpy()
    reference = reference_of(features, extractor=extractor, name="own images")
    save_reference(folder / "reference.npz", reference)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a study of latents."""
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    for name in ("SKIPTUNE_PATH", "SKIPTUNE_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    return Path(shutil.copytree(prepared, tmp_path / "study"))


def write_spec(folder: Path, **network: Any) -> Path:
    """Write the study file; relative paths in it start at its folder."""
    path = folder / "study.yaml"
    decoder = {"vae": "tiny-vae", "microbatch": 125}
    plain = {
        "study": "latents",
        "network": {"checkpoint": "./latents.safetensors", "decoder": decoder, **network},
        "setting": {"solver": "euler", "steps": 2},
        "space": {"kind": "uniform", "low": 0.5, "high": 2.0},
        "objective": {"extractor": EXTRACTOR, "reference": "./reference.npz"},
        "search": {"sampler": "random", "evaluations": 1, "rungs": [500]},
        "confirm": {"candidates": 1, "images": 250, "controls": False},
        "microbatch": 125,
    }
    path.write_text(yaml.safe_dump(plain))
    return path


def spec_of(folder: Path, **network: Any) -> StudySpec:
    return load_spec(write_spec(folder, **network))


def test_a_study_of_latents_is_checked_tuned_sampled_and_scored(
    command: Command, folder: Path
) -> None:
    spec = write_spec(folder)
    checked = command("check", spec)
    assert checked.code == 0, checked.err
    sha256 = load_decoder(folder / "tiny-vae").sha256
    words = f"decoder tiny-vae (sha256 {sha256[:12]}) in float32, latents as edm2, images of 8x8"
    assert words in checked.out
    assert command("skips", spec).code == 0

    tuned = folder / "tuned.json"
    outcome = command("tune", spec, "-q", "--no-progress", "-o", folder)
    assert outcome.code == 0, outcome.err
    document = load(tuned)
    needed = document.network.decoder
    assert needed is not None
    assert (needed.name, needed.sha256, needed.dtype) == ("tiny-vae", sha256, "float32")
    assert (needed.latents, needed.microbatch) == ("edm2", 125)

    with open_database("sqlite:///skiptune.db") as database:
        [study] = ledger.list_studies(database)
        first = ledger.evaluations(database, study.id)[0]
        provenance = ledger.chunks_of(database, first.id)[0].provenance
    assert provenance is not None
    assert provenance["diffusers"] == version("diffusers")

    picture = folder / "grid.png"
    sampled = command("sample", tuned, "--seeds", "0-3", "-o", picture)
    assert sampled.code == 0, sampled.err
    # The picture shows the colours that a sampler of its own makes of the same seeds.
    network = load_checkpoint(folder / "latents.safetensors").network
    decoder = load_decoder(folder / "tiny-vae", latents="edm2", microbatch=125)
    with scaled(network, document.schedule):
        [batch] = sample(
            network, document.setting.to_setting(), range(4), microbatch=4, decoder=decoder
        )
    shown = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in shown.tolist()}
    assert {tuple(c) for c in batch.images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()} <= colours

    scored = command(
        "score", tuned, "--reference", folder / "reference.npz", "--num", "130", "--json"
    )
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["images"] == 130


def test_a_file_of_latent_diffusion_is_converted_checked_tuned_and_sampled(
    command: Command, tmp_path: Path
) -> None:
    """One file of CompVis's layout brings network, classes and decoder; see `compvis_stage`."""
    options = latent_options(resolution=8)
    options["model"]["params"]["unet_config"]["params"]["image_size"] = 4
    network, stage = write_latent_diffusion(tmp_path / "model.ckpt", options, averaged=True)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(options))
    done = command("convert", "model.ckpt", "ldm", "--json")
    assert (done.code, json.loads(done.out)["cautions"]) == (0, [])
    about = json.loads(done.out)
    assert about["from"] == "model_ema"  # the averaged weights, which the file has
    assert about["first_stage"]["sha256"] == file_digest("ldm/vqvae/" + WEIGHTS_FILE)
    assert all(Path(path).is_file() for path in about["written"]) and len(about["written"]) == 5
    assert "network.decoder.vae: ldm/vqvae" in done.err
    assert "VQModel" in Path("ldm/README.md").read_text()
    again = command("convert", "model.ckpt", "ldm")
    assert again.code == 2 and "--force" in again.err
    assert command("convert", "model.ckpt", "ldm", "--force").code == 0

    loaded = load_checkpoint("ldm/model.safetensors").network
    decoder = load_decoder("ldm/vqvae", channels=3, microbatch=25)
    z = torch.randn(25, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = stage.decode(z).double()
        labels, level = torch.eye(3)[:2], torch.tensor([0.5, 5.0])
        twin = network.to(memory_format=torch.channels_last)
        assert torch.equal(loaded(z[:2], level, labels), twin(z[:2], level, labels))
    torch.testing.assert_close(decoder.floats(z), expected, atol=1e-5, rtol=1e-4)
    setting = Setting(solver="euler", steps=2, sigma_min=0.04, labels="random", guidance=1.5)
    batches = sample(loaded, setting, range(250), microbatch=25, decoder=decoder)
    features = np.concatenate([PooledColours()(b.images).numpy() for b in batches])
    extractor = _factory(weights=None, sha256=None)
    save_reference(
        tmp_path / "reference.npz", reference_of(features, extractor=extractor, name="x")
    )

    vae = {"vae": "ldm/vqvae", "microbatch": 25}
    study = write_spec(tmp_path, checkpoint="ldm/model.safetensors", decoder=vae)
    plain = yaml.safe_load(study.read_text()) | {"microbatch": 25}
    plain["setting"] |= {"sigma_min": 0.04, "labels": "random", "guidance": 1.5}
    plain["search"]["rungs"] = [250]
    study.write_text(yaml.safe_dump(plain))
    bare = command("check", study, "-s", "network.decoder=null")
    assert bare.code == 2 and "network.decoder expected: what makes" in " ".join(bare.err.split())
    checked = command("check", study)
    assert checked.code == 0, checked.err
    assert "decoder vqvae" in checked.out and "images of 8x8" in checked.out
    outcome = command("tune", study, "-q", "--no-progress", "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    tuned = tmp_path / "out" / "tuned.json"
    named = ("--checkpoint", "ldm/model.safetensors", "--decoder", "ldm/vqvae")
    sampled = command("sample", tuned, *named, "--seeds", "0-3", "-o", "grid.png")
    assert sampled.code == 0, sampled.err


def test_workers_find_the_decoder_by_its_content(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small files come from the store, larger ones (real weights) from `SKIPTUNE_PATH`."""
    url = f"sqlite:///{tmp_path / 'latents.db'}"
    weights = folder / "tiny-vae" / WEIGHTS_FILE
    monkeypatch.setattr(artifacts, "SHARED_BYTES", weights.stat().st_size - 1)
    first = open_study(spec_of(folder), storage=url)
    first.database.close()
    assert [file["key"] for file in first.row.files] == [
        "network.checkpoint",
        "network.decoder.vae",
        "network.decoder.config",
        "objective.reference",
    ]
    large = [file for file in first.row.files if file["bytes"] >= weights.stat().st_size]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("SKIPTUNE_PATH", str(elsewhere))
    for file in large:
        Path(file["path"]).rename(elsewhere / file["sha256"])
    shutil.rmtree(folder)

    second = open_stored("latents", storage=url)
    second.database.close()
    assert second.series == first.series
    assert second.series["decoder"]["sha256"] == file_digest(elsewhere / large[-1]["sha256"])
    decoder = second.checkpoint.decoder
    assert decoder is not None
    assert decoder.name == "tiny-vae"
    assert decoder.path.parent == elsewhere

    # Without it a worker refuses, and says what to look for.
    (elsewhere / large[-1]["sha256"]).unlink()
    with pytest.raises(NetworkError, match=rf"network\.decoder\.vae: {WEIGHTS_FILE}") as caught:
        open_stored("latents", storage=url)
    assert "`network.decoder.url`" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"dtype": "bfloat16"}, ["network.decoder.dtype"]),
        ({"microbatch": 5}, ["network.decoder.microbatch"]),
        (
            {"latents": "vae"},
            [f"network.decoder.{key}" for key in ("mean", "std", "pixels", "rounding")],
        ),
    ],
)
def test_images_are_not_shared_between_decoders(
    folder: Path, tmp_path: Path, changes: dict[str, Any], fields: list[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'latents.db'}"
    first = open_study(spec_of(folder), storage=url)
    first.database.close()
    other = {"vae": "tiny-vae", "microbatch": 125} | changes
    with pytest.raises(StudyChangedError) as caught:
        open_study(spec_of(folder, decoder=other), storage=url)
    assert {problem.where for problem in caught.value.problems} == {f"spec: {f}" for f in fields}


def test_a_spec_without_decoder_is_written_as_before(folder: Path) -> None:
    plain = spec_of(folder, decoder=None).to_json()
    assert set(plain["network"]) == {"checkpoint", "sha256", "url"}
    full = spec_of(folder)
    assert StudySpec.from_json(full.to_json()) == full
    decoder = full.to_json()["network"]["decoder"]
    assert decoder["vae"] == str(folder / "tiny-vae" / WEIGHTS_FILE)
    assert decoder["config"] == str(folder / "tiny-vae" / "config.json")


def test_paths_of_a_decoder_start_where_they_are_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load_spec(write_spec(folder), overrides=["network.decoder.vae=other/vae.safetensors"])
    decoder = spec.network.decoder
    assert decoder is not None
    assert decoder.vae == str(tmp_path / "other/vae.safetensors")
    assert decoder.config == str(tmp_path / "other/config.json")


def test_a_decoder_that_says_nothing_sound_is_refused_all_at_once(folder: Path) -> None:
    wrong = {"vae": "", "dtype": "float8", "latents": "sd", "microbatch": 0, "sha256": "abc"}
    with pytest.raises(SpecError) as caught:
        spec_of(folder, decoder=wrong | {"scale": 2})
    wheres = [problem.where.split(": ")[-1] for problem in caught.value.problems]
    keys = ("vae", "sha256", "dtype", "latents", "microbatch", "scale")
    assert wheres == [f"network.decoder.{key}" for key in keys]


def test_latents_without_a_decoder_are_refused_with_the_key(folder: Path) -> None:
    with pytest.raises(ObjectiveError) as caught:
        check_study(spec_of(folder, decoder=None))
    assert "3 channels, found 4 channels" in str(caught.value)
    assert "`-s network.decoder.vae=FOLDER`" in caught.value.hint


def test_a_network_of_pixels_with_a_decoder_is_refused(folder: Path) -> None:
    write_latent_network(folder / "pixels.safetensors", img_channels=3)
    with pytest.raises(NetworkError, match=r"4 channels, found one of 3.*leave the decoder out"):
        check_study(spec_of(folder, checkpoint="./pixels.safetensors"))


def test_missing_and_other_files_are_refused_all_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    (folder / "tiny-vae" / "config.json").unlink()
    decoder = {"vae": "tiny-vae", "sha256": "0" * 64}
    with pytest.raises(NetworkError) as caught:
        check_study(spec_of(folder, decoder=decoder))
    assert len(caught.value.problems) == 3
    assert "pip install 'skiptune[diffusers]'" in caught.value.hint


def test_losses_of_real_images_are_refused(folder: Path) -> None:
    spec = spec_of(folder).to_json()
    spec["objective"] |= {"metric": ["fd", "feature_loss"], "images": "fashion-test"}
    with pytest.raises(SpecError, match="feature_loss, for which real images would have to be"):
        check_study(StudySpec.from_json(spec))


def test_a_network_of_another_kind_has_the_scale_of_the_vae(folder: Path) -> None:
    """Only EDM2's networks have EDM2's latents by default."""
    write_latent_network(folder / "other.safetensors", precond="edm", channels_per_head=...)
    checkpoint, *_ = check_study(spec_of(folder, checkpoint="./other.safetensors"))
    assert checkpoint.decoder is not None
    assert checkpoint.decoder.latents.name == "vae"


@pytest.fixture
def tuned(folder: Path) -> Path:
    """A tuned.json beside its network and VAE, which no study has made."""
    checkpoint, *_ = check_study(spec_of(folder))
    decoder = checkpoint.decoder
    assert decoder is not None
    score = {
        "label": "x", "images": 250, "nfe": 2.0, "value": 5.0, "standard_error": 0.1,
        "interval": [4.8, 5.2],
    }  # fmt: skip
    document = Tuned.of(
        Schedule.uniform({checkpoint.skips[0].address: 0.6}),
        skips=checkpoint.skips,
        study="latents",
        network={
            "name": "latents.safetensors",
            "sha256": checkpoint.sha256,
            "decoder": {
                "name": "tiny-vae",
                "sha256": decoder.sha256,
                "dtype": "float32",
                "latents": "edm2",
                "microbatch": 125,
                "identity": digest(decoder.describe()),
            },
        },
        setting=Setting(solver="euler", steps=2).to_json(),
        verdict={"verdict": "not confirmed"},
        measure={"metric": "FD", "extractor": EXTRACTOR, "extractor_sha256": "1" * 64},
        baseline=score,
        tuned=score,
        seeds={"search": {"first": 1_000_000, "images": 250}},
        provenance={"skiptune": "0.1", "created": "2026-11-23T00:00:00+00:00"},
    )
    document.write(folder / "tuned.json")
    return folder / "tuned.json"


def test_sample_takes_a_decoder_that_lies_elsewhere_and_no_other(
    command: Command, tuned: Path, tmp_path: Path
) -> None:
    beside = tuned.parent / "tiny-vae"
    first = command("sample", tuned, "--seeds", "0-1", "-o", tmp_path / "a.png")
    assert first.code == 0, first.err
    moved = beside.rename(tmp_path / "moved")
    missing = command("sample", tuned, "--seeds", "0-1")
    assert missing.code == 2
    assert "the VAE tiny-vae beside it" in missing.err
    words = ("sample", tuned, "--seeds", "0-1", "--decoder", moved)
    second = command(*words, "-o", tmp_path / "b.png")
    assert second.code == 0, second.err
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"norm_num_groups": 1}))
    other = command(*words)
    assert other.code == 2
    assert "the same weights with another configuration" in other.err


def test_a_decoder_is_refused_where_there_is_nothing_to_decode(
    command: Command, tuned: Path
) -> None:
    plain = json.loads(tuned.read_text())
    del plain["network"]["decoder"]
    tuned.write_text(json.dumps(plain))
    outcome = command("sample", tuned, "--decoder", "vae")
    assert outcome.code == 2
    assert "leave --decoder out" in outcome.err
    outcome = command("score", "fashion-test", "--decoder", "vae")
    assert outcome.code == 2
    assert "leave --decoder out to score images" in outcome.err
    assert load(tuned).network.decoder is None
    assert load(tuned).to_json()["network"] == plain["network"]
