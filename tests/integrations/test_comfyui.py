"""ComfyUI's images by the node pack against those of our own hooks; the order of the blocks."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from integrations.comfyui.nodes import ModelError, apply, load, report
from integrations.comfyui.patch import SkipPatch
from integrations.comfyui.tuned_file import read
from skiptune.sampling.hooks import scaled
from skiptune.sampling.networks.openai import OpenAIUNet
from skiptune.sampling.pipelines import build_unet
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_skips
from tests.integrations import comfyui_like as like
from tests.integrations.both_ways import (
    KINDS,
    NAMES,
    SIGMAS,
    close,
    labels,
    noise,
    ours,
    patched,
    theirs,
)
from tests.integrations.handed_over import schedules, write_tuned
from tests.sampling.test_pipeline_skips import SD15, SDXL

# Against our own hooks.


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_images_are_those_of_our_hooks(
    denoiser: Any, tmp_path: Path, kind: str, together: bool
) -> None:
    schedule = schedules(NAMES)[kind]
    setting = Setting(solver="euler", steps=4, guidance=3.0)
    model = patched(denoiser, tmp_path / "t.json", schedule, setting=setting)
    made = theirs(model, noise(), cfg=3.0, together=together)
    assert close(made, ours(denoiser, schedule, noise(), cfg=3.0))
    untouched = like.Patcher(like.Model(denoiser))
    before = theirs(untouched, noise(), cfg=3.0, together=together)
    assert not close(made, before)
    assert close(before, ours(denoiser, Schedule(), noise(), cfg=3.0))


@pytest.mark.parametrize("kind", ["static", "windowed"])
def test_without_guidance(denoiser: Any, tmp_path: Path, kind: str) -> None:
    schedule = schedules(NAMES)[kind]
    made = theirs(patched(denoiser, tmp_path / "t.json", schedule), noise())
    assert close(made, ours(denoiser, schedule, noise()))


def test_one_noise_level_per_image(denoiser: Any, tmp_path: Path) -> None:
    schedule = schedules(NAMES)["windowed"]
    model = patched(denoiser, tmp_path / "t.json", schedule)
    sigma = torch.tensor([0.5, 5.0, 30.0])
    guider = like.Guider(model, labels(), cfg=3.0)
    made = guider(noise() * sigma.reshape(-1, 1, 1, 1), sigma)
    alone = [
        like.Guider(model, labels()[place : place + 1], cfg=3.0)(
            noise()[place : place + 1] * sigma[place], sigma[place : place + 1]
        )
        for place in range(3)
    ]
    assert close(made, torch.cat(alone))


def test_a_bound_is_rounded_as_the_level_was(denoiser: Any, tmp_path: Path) -> None:
    # 0.7 as float32 lies below 0.7 as float64, 0.1 above.
    schedule = Schedule([Term(NAMES[0], 0.5, 0.7), Term(NAMES[1], 0.5, 0.0, 0.1)])
    model = patched(denoiser, tmp_path / "t.json", schedule)
    (patch,) = model.model_options["transformer_options"]["patches"]["output_block_patch"]
    for sigma in (0.7, 0.1, 0.05):
        like.Guider(model, labels())(noise(), torch.full((3,), sigma))
    assert patch.run.scaled == {0: 1, 1: 1}


def test_a_level_is_read_anew_in_every_evaluation(denoiser: Any, tmp_path: Path) -> None:
    # The deepest skip has no window, and the sampler writes its levels into one tensor.
    model = patched(denoiser, tmp_path / "t.json", Schedule([Term(NAMES[1], 0.5, 1.0)]))
    (patch,) = model.model_options["transformer_options"]["patches"]["output_block_patch"]
    guider, sigma = like.Guider(model, labels()), torch.empty(3)
    for level, scaled_so_far in ((5.0, 1), (0.5, 1), (2.0, 2)):
        guider(noise(), sigma.fill_(level))
        assert patch.run.scaled == {1: scaled_so_far}


def test_another_thread_s_evaluation_may_begin_in_between(denoiser: Any, tmp_path: Path) -> None:
    # ComfyUI evaluates the prompts of one step on several accelerators at once.
    write_tuned(tmp_path / "t.json", denoiser, Schedule([Term(NAMES[1], 0.5, 1.0)]))
    patch = SkipPatch(read(tmp_path / "t.json"))

    def call(place: int, sigmas: Any) -> float:
        row = find_skips(denoiser)[place]
        h, hsp = torch.ones(2, row.main_channels, 1, 1), torch.ones(2, row.skip_channels, 1, 1)
        options = {"block": ("output", place), "sigmas": sigmas, "cond_or_uncond": [0]}
        return float(patch(h, hsp, options)[1].unique())

    class Interrupted:
        """Levels between whose reading and use another evaluation begins."""

        @property
        def dtype(self) -> torch.dtype:
            call(0, torch.tensor([5.0, 5.0]))
            return torch.float32

        def __getattr__(self, name: str) -> Any:
            return getattr(torch.tensor([5.0, 5.0]), name)

    assert call(1, Interrupted()) == 0.5


def test_half_precision_stays_half(denoiser: Any, tmp_path: Path) -> None:
    schedule = schedules(NAMES)["cond"]
    setting = Setting(guidance=3.0)
    write_tuned(tmp_path / "t.json", denoiser, schedule, setting=setting)
    patch = SkipPatch(read(tmp_path / "t.json"))
    row = find_skips(denoiser)[0]
    h = torch.ones(4, row.main_channels, 2, 2, dtype=torch.float16)
    hsp = torch.ones(4, row.skip_channels, 2, 2, dtype=torch.float16)
    options = {"block": ("output", 0), "sigmas": torch.tensor([5.0] * 2)}
    main, skip = patch(h, hsp, {**options, "cond_or_uncond": [1, 0]})
    assert main is h and skip.dtype == torch.float16
    assert skip[:, 0, 0, 0].tolist() == [1, 1, torch.tensor(0.6).half(), torch.tensor(0.6).half()]
    assert hsp.min() == 1, "the tensor itself is also the middle block's input"


@pytest.mark.parametrize("before", [True, False])
def test_stacked_with_another_patch(denoiser: Any, tmp_path: Path, before: bool) -> None:
    schedule = schedules(NAMES)["static"]
    write_tuned(tmp_path / "t.json", denoiser, schedule)
    model = like.Patcher(like.Model(denoiser))
    if before:
        model.set_model_output_block_patch(like.freeu_like(1.2, 0.9))
    model, _ = apply(model, read(tmp_path / "t.json"))
    if not before:
        model = model.clone()
        model.set_model_output_block_patch(like.freeu_like(1.2, 0.9))
    alone = like.Patcher(like.Model(denoiser))
    alone.set_model_output_block_patch(like.freeu_like(1.2, 0.9))
    made = theirs(model, noise())
    with scaled(denoiser, schedule):
        # The other patch changes the main path and multiplies the skip once more.
        assert close(made, theirs(alone, noise()))
    assert not close(made, theirs(alone, noise()))


def test_two_files_at_once_multiply(denoiser: Any, tmp_path: Path) -> None:
    once = patched(denoiser, tmp_path / "a.json", Schedule.uniform({NAMES[1]: 0.5}))
    write_tuned(tmp_path / "b.json", denoiser, Schedule.uniform({NAMES[1]: 0.6}))
    twice, _ = apply(once, read(tmp_path / "b.json"))
    both = ours(denoiser, Schedule.uniform({NAMES[1]: 0.3}), noise())
    assert close(theirs(twice, noise()), both)
    assert report(twice).count("1 of 1 skips were scaled") == 2


def test_strength_is_between_none_and_all(denoiser: Any, tmp_path: Path) -> None:
    schedule = schedules(NAMES)["windowed"]
    half = patched(denoiser, tmp_path / "t.json", schedule, strength=0.5)
    weaker = Schedule(
        Term(term.address, (1 + term.scale) / 2, term.low, term.high) for term in schedule.terms
    )
    assert close(theirs(half, noise()), ours(denoiser, weaker, noise()))
    none = patched(denoiser, tmp_path / "t.json", schedule, strength=0.0)
    before = theirs(like.Patcher(like.Model(denoiser)), noise())
    assert torch.equal(theirs(none, noise()), before)
    with pytest.raises(ValueError, match=r"strength: expected 0 to 1, found 1\.5"):
        patched(denoiser, tmp_path / "t.json", schedule, strength=1.5)


def test_start_and_end(denoiser: Any, tmp_path: Path) -> None:
    levels = like.Model(denoiser).model_sampling
    ends = {"start_percent": 0.3, "end_percent": 0.8}
    high, low = (levels.percent_to_sigma(part) for part in ends.values())
    assert SIGMAS[0] > high > SIGMAS[1] > SIGMAS[2] > low > SIGMAS[3]
    model = patched(denoiser, tmp_path / "t.json", schedules(NAMES)["static"], **ends)
    terms = [Term(t.address, t.scale, low, high) for t in schedules(NAMES)["static"].terms]
    assert close(theirs(model, noise()), ours(denoiser, Schedule(terms), noise()))


def test_both_ends_of_a_range_belong_to_it(denoiser: Any, tmp_path: Path) -> None:
    write_tuned(tmp_path / "t.json", denoiser, schedules(NAMES)["static"])
    patch = SkipPatch(read(tmp_path / "t.json"), sigma_high=5.0, sigma_low=1.0)
    row = find_skips(denoiser)[0]
    h, hsp = torch.ones(1, row.main_channels, 1, 1), torch.ones(1, row.skip_channels, 1, 1)
    made = [
        float(patch(h, hsp, {"block": ("output", 0), "sigmas": torch.tensor([level])})[1].unique())
        for level in (5.5, 5.0, 1.0, 0.5)
    ]
    assert made == pytest.approx([1.0, 0.6, 0.6, 1.0])
    assert (patch.run.evaluations, patch.run.scaled) == (4, {0: 2})


def test_the_model_stays_as_it_was(denoiser: Any, tmp_path: Path) -> None:
    write_tuned(tmp_path / "t.json", denoiser, schedules(NAMES)["static"])
    model = like.Patcher(like.Model(denoiser))
    before = theirs(model, noise())
    apply(model, read(tmp_path / "t.json"))
    assert model.model_options == {"transformer_options": {}} and model.wrappers == {}
    assert torch.equal(theirs(model, noise()), before)


# The order of the skips.


def published(kind: str) -> tuple[Any, Any]:
    """diffusers' network of a published configuration, and the OpenAI-style one; both empty."""
    config, depth = {"sd15": (SD15, [1, 2, 4, 4]), "sdxl": (SDXL, [1, 2, 4])}[kind]
    unet = build_unet("UNet2DConditionModel", config, where="test")
    with torch.device("meta"):
        other = OpenAIUNet(
            config["sample_size"],
            in_channels=4,
            out_channels=4,
            model_channels=320,
            channel_mult=depth,
            num_head_channels=64,
        )
    return unet, other


@pytest.mark.parametrize(("kind", "blocks"), [("sd15", 12), ("sdxl", 9)])
def test_blocks_of_stable_diffusion(kind: str, blocks: int, tmp_path: Path, folder: Path) -> None:
    unet, other = published(kind)
    skips, theirs_too = find_skips(unet), find_skips(other)
    assert len(other.output_blocks) == len(skips) == blocks
    # The block that a skip's place names has the skip's channels, in both ways of counting.
    assert [(s.main_channels, s.skip_channels, s.resolution) for s in skips] == [
        (s.main_channels, s.skip_channels, s.resolution) for s in theirs_too
    ]
    scales = {skip.address: 0.5 + 0.01 * skip.index for skip in skips}
    write_tuned(folder / "t.json", unet, Schedule.uniform(scales))
    model = like.Patcher(SimpleNamespace(diffusion_model=other))
    clone, summary = apply(model, load("t.json"))
    assert f"scales {blocks} of {blocks} skips" in summary
    (patch,) = clone.model_options["transformer_options"]["patches"]["output_block_patch"]
    for place, skip in enumerate(theirs_too):
        assert skip.address == f"output_blocks.{place}"
        h = torch.ones(1, skip.main_channels, 1, 1)
        hsp = torch.ones(1, skip.skip_channels, 1, 1)
        _, made = patch(h, hsp, {"block": ("output", place)})
        assert made.unique().tolist() == pytest.approx([0.5 + 0.01 * place])


def test_the_other_stable_diffusion_is_refused(tmp_path: Path) -> None:
    (sd15, _), (_, sdxl) = published("sd15"), published("sdxl")
    write_tuned(tmp_path / "t.json", sd15, Schedule.uniform({"up_blocks.0.resnets.0": 0.5}))
    with pytest.raises(ModelError, match="expected 12 skips as in tiny, found 9 output blocks"):
        apply(like.Patcher(SimpleNamespace(diffusion_model=sdxl)), read(tmp_path / "t.json"))


def test_a_file_of_diffusers_means_the_same_blocks(tmp_path: Path) -> None:
    """diffusers' own conversion of a checkpoint says which block is which."""
    files: Any = importlib.import_module("diffusers.loaders.single_file_utils")
    torch.manual_seed(3)
    unet = OpenAIUNet(
        8,
        in_channels=1,
        out_channels=1,
        label_dim=3,
        model_channels=32,
        channel_mult=[1, 2],
        num_res_blocks=1,
        attention_resolutions=[1, 2],
        num_head_channels=16,
        use_spatial_transformer=True,
        context_dim=8,
    ).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    config = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2,
        "cross_attention_dim": 8,
        # diffusers calls the number of heads so.
        "attention_head_dim": [2, 4],
    }
    tensors = {f"model.diffusion_model.{k}": v.clone() for k, v in unet.state_dict().items()}
    converted = files.convert_ldm_unet_checkpoint(tensors, config)
    twin: Any = importlib.import_module("diffusers").UNet2DConditionModel(**config).eval()
    twin.load_state_dict(converted)
    names = [skip.address for skip in find_skips(twin)]
    assert names == [f"up_blocks.{b}.resnets.{r}" for b in (0, 1) for r in (0, 1)]
    schedule = schedules(names)["static"]
    write_tuned(tmp_path / "t.json", twin, schedule)
    denoiser = SimpleNamespace(model=unet)
    model, _ = apply(like.Patcher(like.Model(denoiser)), read(tmp_path / "t.json"))
    x, times, rows = noise(), torch.tensor([3.0, 400.0, 900.0]), labels()
    told = (rows @ unet.class_embedding.weight)[:, None]
    with scaled(twin, schedule):
        expected = twin(x, times, told).sample
    options = model.model_options["transformer_options"]
    made = model.model._network(x, times, rows, options)
    assert close(made, expected)
    untouched = twin(x, times, told).sample
    assert not close(made, untouched)
