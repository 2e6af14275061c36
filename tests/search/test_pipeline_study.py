"""Studies of diffusers' pipelines: checked, tuned, sampled, and found by their content."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from skiptune.errors import NetworkError, SpecError, StudyChangedError
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.decoder import load_decoder
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample
from skiptune.sampling.numeric_mode import in_mode
from skiptune.sampling.pipeline_files import content_digest
from skiptune.sampling.setting import Setting
from skiptune.search.files import sources_of
from skiptune.search.spec import StudySpec, load_spec
from skiptune.search.study import check_study, open_stored, open_study
from skiptune.search.tuned import load
from tests.command_line import Outcome
from tests.pipeline_studies import PROMPTS, SETTING, prepare, write_spec
from tests.pipelines import random_unet, write_pipeline
from tests.text_encoders import install, states_of, write_encoders
from tests.vaes import random_vae

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pipeline of pixels, one of latents and classes, and a reference."""
    folder = tmp_path_factory.mktemp("pipelines")
    prepare(folder)
    unet = random_unet(in_channels=4, out_channels=4, num_class_embeds=3)
    write_pipeline(folder / "latents", unet=unet, vae=random_vae())
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    for name in ("SKIPTUNE_PATH", "SKIPTUNE_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    return Path(shutil.copytree(prepared, tmp_path / "study"))


def spec_of(folder: Path, checkpoint: str, **network: Any) -> StudySpec:
    return load_spec(write_spec(folder, checkpoint, **network))


def colours(path: Path) -> set[tuple[int, ...]]:
    shown = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    return {tuple(colour) for colour in shown.tolist()}


def test_a_study_of_an_unconditional_pipeline_is_tuned_end_to_end(
    command: Command, folder: Path
) -> None:
    pipeline = folder / "pixels-v1.5"
    listed = command("skips", pipeline, "--json")
    assert listed.code == 0, listed.err
    plain = json.loads(listed.out)
    assert plain["network"] == "pixels-v1.5"
    assert plain["sha256"] == content_digest(pipeline)[0]
    addresses = [f"up_blocks.{b}.resnets.{r}" for b in (0, 1) for r in (0, 1)]
    assert [row["address"] for row in plain["skips"]] == addresses
    assert command("skips", pipeline).code == 0

    spec = write_spec(folder, "./pixels-v1.5")
    checked = command("check", spec)
    assert checked.code == 0, checked.err
    assert "network pixels-v1.5" in checked.out
    outcome = command("tune", spec, "-q", "--no-progress", "-o", folder)
    assert outcome.code == 0, outcome.err
    document = load(folder / "tuned.json")
    assert document.network.name == "pixels-v1.5"
    assert document.network.sha256 == plain["sha256"]
    assert document.network.decoder is None
    assert [skip.address for skip in document.skips] == addresses
    # The scales belong to diffusers' own pipeline too.
    picture = folder / "grid.png"
    sampled = command("sample", folder / "tuned.json", "--seeds", "0-3", "-o", picture)
    assert sampled.code == 0, sampled.err


def test_a_study_in_half_precision_says_so_to_whoever_uses_its_scales(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    spec = write_spec(folder, "./pixels-v1.5", dtype="bfloat16")
    checked = command("check", spec)
    assert checked.code == 0, checked.err
    assert "network pixels-v1.5 in bfloat16 (sha256" in checked.out
    assert "dtype" not in spec_of(folder, "./pixels-v1.5").to_json()["network"]
    write_spec(folder, "./pixels-v1.5", dtype="bfloat16")
    outcome = command("tune", spec, "-q", "--no-progress", "-o", folder)
    assert outcome.code == 0, outcome.err
    plain = json.loads((folder / "tuned.json").read_text())
    assert plain["network"]["dtype"] == "bfloat16"
    picture = folder / "grid.png"
    sampled = command("sample", folder / "tuned.json", "--seeds", "0-3", "-o", picture)
    assert sampled.code == 0, sampled.err
    # The picture shows the grey of a sampler of its own in the same mode, not of float32.
    shown = []
    for mode in ("bfloat16", "float32"):
        network = in_mode(load_checkpoint(folder / "pixels-v1.5"), mode).network
        document = load(folder / "tuned.json")
        with scaled(network, document.schedule):
            setting = document.setting.to_setting()
            [batch] = sample(network, setting, range(4), microbatch=4)
        made = batch.images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).reshape(-1, 3).tolist()
        shown.append([tuple(colour) for colour in made])
    assert shown[0] != shown[1]
    assert set(shown[0]) <= colours(picture)

    url = f"sqlite:///{tmp_path / 'one.db'}"
    with open_study(load_spec(spec), storage=url).database:
        pass
    study = open_stored("pipeline", storage=url)
    with study.database:
        assert (study.series["mode"], study.checkpoint.dtype) == ("bfloat16", "bfloat16")
    with pytest.raises(StudyChangedError, match=r"network\.dtype"):
        open_study(spec_of(folder, "./pixels-v1.5"), storage=url)
    with pytest.raises(SpecError, match=r"network\.dtype: expected one of float32, float16"):
        spec_of(folder, "./pixels-v1.5", dtype="float8")


def test_a_study_of_latents_and_classes_takes_the_vae_of_its_pipeline(
    command: Command, folder: Path
) -> None:
    spec = write_spec(folder, "./latents")
    checked = command("check", spec)
    assert checked.code == 0, checked.err
    sha256 = load_decoder(folder / "latents" / "vae").sha256
    words = f"decoder vae (sha256 {sha256[:12]}) in float32, latents as vae, images of 16x16"
    assert words in checked.out
    assert "network latents without its safety_checker (sha256" in checked.out
    outcome = command("tune", spec, "-q", "--no-progress", "-o", folder)
    assert outcome.code == 0, outcome.err
    document = load(folder / "tuned.json")
    assert document.network.decoder is not None
    assert document.network.decoder.sha256 == sha256
    picture = folder / "grid.png"
    sampled = command("sample", folder / "tuned.json", "--seeds", "0-3", "-o", picture)
    assert sampled.code == 0, sampled.err
    # The picture shows the colours that a sampler of its own makes of the same seeds.
    network = load_checkpoint(folder / "latents").network
    decoder = load_decoder(folder / "latents" / "vae")
    with scaled(network, document.schedule):
        [batch] = sample(
            network, document.setting.to_setting(), range(4), microbatch=4, decoder=decoder
        )
    assert batch.labels is not None
    assert set(batch.labels.tolist()) <= {0, 1, 2}
    made = batch.images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    assert {tuple(colour) for colour in made} <= colours(picture)


def test_workers_find_the_pipeline_by_its_content(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, url = spec_of(folder, "./pixels-v1.5"), f"sqlite:///{tmp_path / 'one.db'}"
    pipeline = folder / "pixels-v1.5"
    sha256, size = content_digest(pipeline)
    [source, _] = sources_of(spec)
    assert (source.key, source.name) == ("network.checkpoint", "pixels-v1.5")
    assert (source.sha256, source.bytes, source.url) == (sha256, size, None)
    with open_study(spec, storage=url).database:
        pass
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(pipeline, elsewhere / "pixels-v1.5")
    with pytest.raises(NetworkError, match="SKIPTUNE_PATH"):
        open_stored("pipeline", storage=url)
    monkeypatch.setenv("SKIPTUNE_PATH", str(elsewhere))
    study = open_stored("pipeline", storage=url)
    with study.database:
        assert study.checkpoint.name == "pixels-v1.5"
        assert study.checkpoint.path == elsewhere / "pixels-v1.5"
    # One of the same name and other weights is not it.
    shutil.rmtree(elsewhere / "pixels-v1.5")
    write_pipeline(elsewhere / "pixels-v1.5", unet=random_unet(block_out_channels=[16, 24]))
    with pytest.raises(NetworkError, match="another pipeline"):
        open_stored("pipeline", storage=url)
    shutil.rmtree(elsewhere / "pixels-v1.5")
    (elsewhere / "pixels-v1.5").mkdir()
    with pytest.raises(NetworkError, match=r"a folder without it"):
        open_stored("pipeline", storage=url)


def test_another_scheduler_is_another_network(folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'one.db'}"
    spec = spec_of(folder, "./pixels-v1.5")
    with open_study(spec, storage=url).database:
        pass
    config = folder / "pixels-v1.5" / "scheduler" / "scheduler_config.json"
    plain = json.loads(config.read_text())
    config.write_text(json.dumps({**plain, "prediction_type": "v_prediction"}))
    with pytest.raises(StudyChangedError, match=r"network\.sha256"):
        open_study(spec, storage=url)


def test_the_pipelines_own_vae_is_written_out_and_gives_way(folder: Path) -> None:
    own = spec_of(folder, "./latents").network.decoder
    assert own is not None
    assert own.vae == str(folder / "latents" / "vae" / "diffusion_pytorch_model.safetensors")
    other = spec_of(folder, "./latents", decoder={"vae": "other", "dtype": "float16"})
    assert other.network.decoder is not None
    assert other.network.decoder.vae.startswith(str(folder / "other"))
    assert spec_of(folder, "./pixels-v1.5").network.decoder is None
    assert "decoder" not in spec_of(folder, "./pixels-v1.5").to_json()["network"]


def test_a_pipeline_of_the_hub_that_is_here_already_is_named_by_its_repository(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--pixels-v1.5"
    snapshot = repository / "snapshots" / ("0123456789" * 4)
    with pytest.raises(NetworkError) as caught:
        check_study(spec_of(folder, "owner/pixels-v1.5"))
    assert str(repository) in str(caught.value)
    shutil.copytree(folder / "pixels-v1.5", snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    spec = spec_of(folder, "owner/pixels-v1.5")
    assert spec.network.checkpoint == str(snapshot)
    assert sources_of(spec)[0].name == "pixels-v1.5"
    # A folder of this name beside the study file comes first.
    shutil.copytree(folder / "pixels-v1.5", folder / "owner" / "pixels-v1.5")
    again = spec_of(folder, "owner/pixels-v1.5")
    assert again.network.checkpoint == str(folder / "owner" / "pixels-v1.5")


def test_what_the_network_cannot_follow_is_refused_before_an_image_is_made(
    folder: Path,
) -> None:
    unet = random_unet("UNet2DConditionModel")
    write_pipeline(folder / "text", unet=unet, vae=random_vae())
    with pytest.raises(SpecError, match=r"network\.prompts: expected prompts") as caught:
        check_study(load_spec(write_spec(folder, "./text"), overrides=["setting.guidance=2"]))
    # With prompts it can be guided.
    assert [problem.where for problem in caught.value.problems] == ["spec: network.prompts"]
    spec = load_spec(
        write_spec(folder, "./latents"), overrides=["setting.guidance=2", "setting.labels=0"]
    )
    with pytest.raises(SpecError, match=r"setting\.guidance"):
        check_study(spec)


def test_a_study_of_text_gives_each_image_a_prompt_by_its_seed(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    unet = random_unet("UNet2DConditionModel")
    pipeline = write_pipeline(folder / "text", unet=unet, vae=random_vae())
    write_encoders(pipeline, widths=[12])
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    spec = write_spec(folder, "./text", prompts="./prompts.txt")
    outcome = command("check", spec)
    assert outcome.code == 0, outcome.err
    checkpoint, _, _ = check_study(load_spec(spec))
    assert checkpoint.config["label_dim"] == len(PROMPTS)
    network: Any = checkpoint.network
    expected = torch.stack([states_of(text, 12) for text in (*PROMPTS, "")])
    assert torch.equal(network.conditions.hidden, expected)
    # Guidance compares with the empty prompt, and images differ by their prompts alone.
    setting = Setting(**SETTING, guidance=2.0)
    [batch] = sample(network, setting, range(8), microbatch=8)
    assert batch.labels is not None
    shape = (network.img_channels, network.img_resolution, network.img_resolution)
    for seed, label in enumerate(batch.labels.tolist()):
        generator = torch.Generator().manual_seed(seed)
        torch.randn(shape, generator=generator)
        assert label == int(torch.randint(len(PROMPTS), (), generator=generator))
    assert batch.nfe == 4
    [alone] = sample(network, setting, range(5, 8), microbatch=8)
    assert alone.labels is not None
    assert torch.equal(alone.labels, batch.labels[5:])

    # All of it, to the file of scales and the pictures made with it.
    tuned = folder / "tuned.json"
    outcome = command("tune", spec, "-q", "--no-progress", "-o", folder)
    assert outcome.code == 0, outcome.err
    needed = load(tuned).network.prompts
    assert needed is not None
    assert (needed.name, needed.sha256) == (
        "prompts.txt",
        checkpoint.config["prompts"]["sha256"],
    )
    shown = ("sample", tuned, "--seeds", "0-3", "-o", folder / "grid.png")
    sampled = command(*shown)
    assert sampled.code == 0, sampled.err
    lines = (folder / "prompts.txt").read_text()
    (folder / "prompts.txt").write_text("a cat\n")
    refused = command(*shown, "--force")
    assert refused.code == 2 and "the lines and the text encoders" in refused.err
    (folder / "prompts.txt").unlink()
    refused = command(*shown, "--force")
    assert refused.code == 2 and "the prompts prompts.txt beside it" in refused.err
    (folder / "prompts.txt").write_text(lines)

    # Encoded once: from now on nobody needs the encoders.
    monkeypatch.setitem(sys.modules, "transformers", None)
    url = f"sqlite:///{tmp_path / 'one.db'}"
    study = open_study(load_spec(spec), storage=url)
    with study.database:
        prompts = study.series["prompts"]
        assert study.row.meaning["network.prompts.sha256"] == prompts["sha256"]
    (folder / "prompts.txt").unlink()
    with open_stored("pipeline", storage=url).database:
        pass  # from the study's own store
    (folder / "prompts.txt").write_text("\n".join((*PROMPTS[:-1], "blue")))
    with pytest.raises(NetworkError, match="package transformers"):
        check_study(load_spec(spec))
    install(monkeypatch)
    with pytest.raises(StudyChangedError, match=r"network\.prompts\.sha256"):
        open_study(load_spec(spec), storage=url)
    with pytest.raises(SpecError, match="reads no text"):
        check_study(spec_of(folder, "./pixels-v1.5", prompts="./prompts.txt"))
