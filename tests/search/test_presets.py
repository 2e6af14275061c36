"""The presets of published networks: each is a whole study, and each number has its source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from skiptune.errors import NetworkError
from skiptune.objectives.names import INCEPTION_SHA256
from skiptune.sampling.networks import build_denoiser
from skiptune.sampling.options import config_of
from skiptune.sampling.setting import evaluations
from skiptune.sampling.skips import find_skips
from skiptune.search.document import parse_yaml
from skiptune.search.fetching import missing_files, refuse_missing
from skiptune.search.published import PUBLISHED, Figure
from skiptune.search.spec import StudySpec, load_spec, preset_text, presets
from skiptune.search.study import check_study
from tests.sampling.published_options import CIN_256, CM_64

NVIDIA = "https://nvlabs-fi-cdn.nvidia.com"

# NFE and steps as published: EDM's README (CIFAR-10 18 steps, FFHQ and AFHQv2 40 steps), EDM2's
# generate_images.py (32 steps), and 19 and 39 NFE of arXiv 2402.15170 by Heun's 2 steps - 1.
SETTINGS = {
    "edm-cifar10-cond": (18, 35, "random"),
    "edm-cifar10-uncond": (18, 35, None),
    "edm-ffhq64": (40, 79, None),
    "edm-afhqv2-64": (40, 79, None),
    "edm-imagenet64-19nfe": (10, 19, "random"),
    "edm-imagenet64-39nfe": (20, 39, "random"),
    "edm2-img64-s": (32, 63, "random"),
}


# Pipelines of diffusers: what is fetched by `skiptune fetch`, NFE, guidance, features' metric.
PIPELINES = {
    "ddpm-cifar10-32": ("google/ddpm-cifar10-32", 20, 1.0, "fd"),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", 40, 5.0, "kid"),
    "stable-diffusion-1.5": ("stable-diffusion-v1-5/stable-diffusion-v1-5", 40, 7.5, "kid"),
}
# A file of tensors with its options in the study; OpenAI publishes no number at few steps.
CONSISTENCY = "consistency-edm-imagenet64"
# One of latent diffusion, which holds what makes images of its latents too.
LATENT = "ldm-cin256"
# What diffusers computes from the published schedulers' configurations, rounded to the inside.
LEVELS = {"ddpm-cifar10-32": (0.0100013, 157.407), "sdxl": (0.0291672, 14.6146)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets look for their files in the working directory."""
    monkeypatch.chdir(tmp_path)


def test_every_preset_but_the_bundled_one_has_its_published_numbers() -> None:
    without = {"fashion", "sdxl", "stable-diffusion-1.5", CONSISTENCY, LATENT}
    assert set(presets()) - without == set(PUBLISHED)
    assert set(presets()) - {"fashion", CONSISTENCY, LATENT} == {*SETTINGS, *PIPELINES}


def test_the_preset_of_a_file_of_tensors_brings_its_options() -> None:
    spec, text = load_spec(CONSISTENCY), preset_text(CONSISTENCY)
    setting = spec.setting.to_setting()
    assert (spec.study, setting.solver, evaluations(setting)) == (CONSISTENCY, "heun", 19)
    assert (setting.sigma_min, setting.sigma_max, setting.exponent) == (0.002, 80, 7)
    assert (setting.labels, setting.guidance, setting.churn.amount) == ("random", 1, 0)
    assert StudySpec.from_json(spec.to_json()) == spec
    # The network of the authors' flags, with 16 skips (`tests.sampling.test_published`).
    own = spec.network.options
    assert own is not None
    described = config_of(own, where="options")
    assert described == config_of(CM_64, where="options") and described.cautions == ()
    with torch.device("meta"):
        network = build_denoiser(described.config)
    skips = find_skips(network)
    assert (len(skips), network.label_dim) == (16, 1000)
    assert [skip.resolution for skip in skips] == [r for r in (8, 16, 32, 64) for _ in range(4)]
    # As upstream's own `cm.unet.UNetModel` of these flags has (commit e32b69e).
    assert sum(parameter.numel() for parameter in network.parameters()) == 295_899_267
    # All that is missing has an address, and the weights' is OpenAI's.
    missing = missing_files(spec)
    keys = ["network.checkpoint", "objective.weights", "objective.reference"]
    assert [one.key for one in missing] == keys
    assert missing[0].is_pickle and missing[1].sha256 == INCEPTION_SHA256
    assert str(missing[0].url).startswith("https://openaipublic.blob.core.windows.net/consistency")
    assert str(missing[0].url).endswith(f"/{missing[0].path.stem}.pt")
    with pytest.raises(NetworkError) as caught:
        check_study(spec, source=CONSISTENCY)
    assert [p.where for p in caught.value.problems] == [f"{CONSISTENCY}: {key}" for key in keys]
    assert f"`skiptune fetch {CONSISTENCY}`" in caught.value.hint
    assert len(text.splitlines()) <= 45
    assert all(len(line) <= 99 or "://" in line for line in text.splitlines())
    assert "MIT" in text and "Not run here" in text and spec.network.sha256 is None
    assert not re.search(r"FID [\d.]+", text)


def test_the_preset_of_latent_diffusion_brings_network_and_decoder(tmp_path: Path) -> None:
    spec, text = load_spec(LATENT), preset_text(LATENT)
    setting = spec.setting.to_setting()
    assert (spec.study, setting.solver, evaluations(setting)) == (LATENT, "euler", 40)
    assert (setting.guidance, setting.labels) == (1.5, "random")
    assert StudySpec.from_json(spec.to_json()) == spec
    own = spec.network.options
    assert own is not None
    described = config_of(own, where="options")
    # The same as upstream's whole file (`tests.sampling.test_first_stage` has its numbers).
    assert described == config_of(CIN_256, where="options") and described.cautions == ()
    assert (described.config["betas"], described.config["beta_start"]) == ("scaled_linear", 0.0015)
    assert described.config["beta_end"] == 0.0195
    with torch.device("meta"):
        network = build_denoiser(described.config)
    assert (len(find_skips(network)), network.label_dim) == (12, 1000)
    assert network.sigma_min < setting.sigma_min < 1.05 * network.sigma_min
    assert network.sigma_max > setting.sigma_max > 0.95 * network.sigma_max
    missing = {one.key: one for one in missing_files(spec)}
    decoder = ["network.decoder.vae", "network.decoder.config"]
    keys = ["network.checkpoint", *decoder, "objective.weights", "objective.reference"]
    assert list(missing) == keys
    made = [missing[key] for key in keys[:3]]
    assert {one.url for one in made} == {spec.network.pickle_url}
    assert all(one.is_pickle for one in made)
    assert {one.path.relative_to(tmp_path).parts[:2] for one in made[1:]} == {(LATENT, "vqvae")}
    assert missing["objective.weights"].sha256 == INCEPTION_SHA256
    assert str(missing["objective.reference"].url).endswith(
        missing["objective.reference"].path.name
    )
    with pytest.raises(NetworkError) as caught:
        check_study(spec, source=LATENT)
    assert [p.where for p in caught.value.problems] == [f"{LATENT}: {key}" for key in keys]
    assert f"`skiptune fetch {LATENT}`" in caught.value.hint
    assert len(text.splitlines()) <= 40
    assert all(len(line) <= 99 or "://" in line for line in text.splitlines())
    assert "MIT" in text and "Not run here" in text and spec.network.sha256 is None
    assert not re.search(r"FID [\d.]+", text)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_preset_of_a_pipeline_is_a_whole_study(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository, nfe, guidance, metric = PIPELINES[name]
    spec, text = load_spec(name), preset_text(name)
    setting = spec.setting.to_setting()
    assert spec.study == name
    assert spec.network.checkpoint == str(tmp_path / repository)
    assert (evaluations(setting), setting.guidance) == (nfe, guidance)
    assert spec.objective.keys == (metric,)
    assert StudySpec.from_json(spec.to_json()) == spec
    # The noise levels are those that the network was trained on.
    low, high = LEVELS.get(name, LEVELS["sdxl"])
    assert low < setting.sigma_min < 1.05 * low
    assert high > setting.sigma_max > 0.95 * high
    assert len(text.splitlines()) <= 45
    assert all(len(line) <= 99 or "://" in line for line in text.splitlines())
    assert "Not run here" in text and spec.network.sha256 is None
    said = re.findall(r"FID ([\d.]+) at (\d+) NFE", text)
    found = PUBLISHED.get(name)
    figures = [] if found is None else [(str(found.baseline.fid), str(found.baseline.nfe))]
    assert said == figures
    # What is missing is told at once, and where the hub's client would have put the network.
    with pytest.raises(NetworkError) as caught:
        check_study(spec, source=name)
    keys = [problem.where.removeprefix(f"{name}: ") for problem in caught.value.problems]
    text_files = [] if name == "ddpm-cifar10-32" else ["network.prompts"]
    assert keys == ["network.checkpoint", *text_files, "objective.weights", "objective.reference"]
    place = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    assert f"no {repository} of the hub in {place}" in caught.value.problems[0].found
    assert f"`skiptune fetch {name}`" in caught.value.hint


@pytest.mark.parametrize("name", SETTINGS)
def test_a_preset_is_a_whole_study_sampled_as_published(name: str) -> None:
    spec = load_spec(name)
    setting = spec.setting.to_setting()
    steps, nfe, labels = SETTINGS[name]
    assert (spec.study, setting.solver, setting.steps, setting.labels) == (
        *(name, "heun"),
        *(steps, labels),
    )
    assert evaluations(setting) == nfe
    assert (setting.sigma_min, setting.sigma_max, setting.exponent) == (0.002, 80, 7)
    assert (setting.guidance, setting.churn.amount) == (1, 0)
    # Enough images for 2048 features, and for the 256 dimensions of the first rung.
    assert spec.objective.keys == ("fd",) and spec.objective.extractor == "inception"
    assert spec.search.rungs[0] >= 8 * 250 and spec.search.rungs[-1] >= 8 * 2048
    assert spec.confirm.images >= 8 * 2048
    assert StudySpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", SETTINGS)
def test_every_check_that_needs_no_download_passes(name: str) -> None:
    spec = load_spec(name)
    missing = missing_files(spec)
    keys = ["network.checkpoint", "objective.weights", "objective.reference"]
    assert [one.key for one in missing] == keys
    assert missing[0].is_pickle and missing[1].sha256 == INCEPTION_SHA256
    stem = missing[0].path.stem
    assert str(missing[0].url).endswith(f"/{stem}.pkl")
    assert str(missing[2].url).endswith(f"/{missing[2].path.name}")
    assert all(str(one.url).startswith(f"{NVIDIA}/edm") for one in (missing[0], missing[2]))
    # What is missing is all that is wrong, and it is told at once.
    with pytest.raises(NetworkError) as caught:
        check_study(spec, source=name)
    assert [problem.where for problem in caught.value.problems] == [f"{name}: {k}" for k in keys]
    assert f"`skiptune fetch {name}`" in caught.value.hint
    for one in missing:
        one.path.parent.mkdir(exist_ok=True)
        one.path.touch()
    refuse_missing(spec, source=name)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_preset_is_one_commented_screen(name: str) -> None:
    text = preset_text(name)
    assert len(text.splitlines()) <= 45
    for line in text.splitlines():
        assert len(line) <= 99 or "://" in line
    assert "CC BY-NC-SA 4.0" in text and "Not run here" in text
    # Only what is known: no scale stands anywhere, and no unknown hash.
    assert yaml.safe_load(text)["network"]["sha256"] is None
    assert parse_yaml(text, name=name).problems == ()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_comments_and_the_table_say_the_same(name: str) -> None:
    text, found = preset_text(name), PUBLISHED[name]
    figures = [found.baseline, *([found.expected] if found.expected else [])]
    said = re.findall(r"FID ([\d.]+) (?:tuned )?at (\d+) NFE", text)
    assert {(float(fid), int(nfe)) for fid, nfe in said} == {(f.fid, f.nfe) for f in figures}
    for figure in figures:
        assert re.match(r"https://(arxiv\.org|github\.com/NVlabs)/", figure.source)
    if found.expected is not None:
        assert found.expected.nfe == SETTINGS[name][1]
        assert re.search(r"^# Expected: .*Not run here\.$", text, re.MULTILINE)


def test_the_papers_own_results_are_those_of_its_abstract() -> None:
    expected = {name: found.expected for name, found in PUBLISHED.items() if found.expected}
    numbers = {name: (f.fid, f.nfe) for name, f in expected.items() if isinstance(f, Figure)}
    assert numbers == {"edm-imagenet64-19nfe": (1.75, 19), "edm-imagenet64-39nfe": (1.57, 39)}
