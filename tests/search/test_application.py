"""Tuned scales on what a user holds: what is checked, warned of and refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from skiptune.errors import NetworkError, SkiptuneWarning
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.images import sample
from skiptune.sampling.levels import levels
from skiptune.sampling.pipeline_files import content_digest
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Churn, Setting
from skiptune.sampling.skips import find_skips
from tests.pipelines import ddim, random_unet, write_pipeline
from tests.sampling.families import FAMILIES, OfFamily, edited, hooks_of, network_of
from tests.scaled_pipelines import (
    SCALES,
    diffusers,
    latents,
    no_warning,
    pixels,
    run,
    tuned_for,
)
from tests.search.test_tuned import SHA, make_network, make_tuned

# Of diffusers with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


# Weights and settings that are not those that were tuned


def test_the_weights_of_a_pipeline_are_those_of_its_folder(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "pipe")
    sha256, _ = content_digest(folder)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    with no_warning():
        tuned_for(pipe.unet, sha256=sha256).apply(pipe).remove()
        tuned_for(pipe.unet).apply(pixels()).remove()  # of which nothing is known
        tuned_for(pipe.unet).apply(pipe, check_weights=False).remove()
    with pytest.warns(SkiptuneWarning, match=f"expected the weights of .*{SHA}.*found .*{sha256}"):
        handle = tuned_for(pipe.unet).apply(pipe)
    assert len(hooks_of(pipe.unet)) > 1
    handle.remove()
    with pytest.raises(NetworkError, match="found sha256 f"):
        tuned_for(pipe.unet).apply(pipe, sha256="f" * 64)
    assert hooks_of(pipe.unet) == []


def test_a_pipeline_that_holds_scales_gets_no_others(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "pipe")
    (folder / "baked.json").write_text('{"study": "first", "schedule_sha256": "0"}')
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    with pytest.raises(NetworkError, match=r"pipe, whose weights hold scales .*of study first"):
        tuned_for(pipe.unet).apply(pipe)
    assert hooks_of(pipe.unet) == []
    sha256, _ = content_digest(folder)
    with no_warning():
        tuned_for(pipe.unet, sha256=sha256).apply(pipe).remove()  # tuned on it
        tuned_for(pipe.unet).apply(pipe, check_weights=False).remove()


def test_a_checkpoint_knows_its_weights(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_pipeline(tmp_path / "pipe"))
    with no_warning():
        tuned_for(checkpoint.network, sha256=checkpoint.sha256).apply(checkpoint).remove()
    with pytest.warns(SkiptuneWarning, match="weights") as caught:
        tuned_for(checkpoint.network).apply(checkpoint).remove()
    assert caught[0].filename == __file__  # where a user's code stands


def test_a_warning_that_is_an_error_leaves_no_hooks() -> None:
    pipe = pixels()
    pipe.scheduler = diffusers.PNDMScheduler()
    with no_warning(), pytest.raises(SkiptuneWarning, match="PNDMScheduler"):
        tuned_for(pipe.unet).apply(pipe)
    assert hooks_of(pipe.unet) == []


def texts(caught: list[warnings.WarningMessage]) -> list[str]:
    return [
        str(one.message).split(" (hint")[0] for one in caught if one.category is SkiptuneWarning
    ]


def test_another_setting_of_a_pipeline_is_told_once() -> None:
    pipe = latents(diffusers.UniPCMultistepScheduler(steps_offset=1))
    solver = "pipeline.scheduler: expected euler, with which the scales were tuned, found "
    steps = (
        "pipeline.scheduler: expected 3 evaluations (euler, 3 steps), with which the scales were"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        handle = tuned_for(pipe.unet).apply(pipe)
        assert texts(caught) == [f"{solver}UniPCMultistepScheduler, which steps as unipc"]
        assert [one.filename for one in caught if one.category is SkiptuneWarning] == [__file__]
        run(pipe)
        run(pipe)
        assert len(texts(caught)) == 1
        run(pipe, steps=5)
        run(pipe, steps=5)
        assert texts(caught)[1:] == [f"{steps} tuned, found 5 evaluations"]
        pipe.scheduler = diffusers.PNDMScheduler.from_config(pipe.scheduler.config)
        run(pipe, steps=5)
        last = texts(caught)[2:]
        pipe.scheduler = ddim(steps_offset=1)
        run(pipe)
        assert texts(caught)[2:] == last
    assert last[0] == f"{solver}PNDMScheduler, which steps otherwise"
    handle.remove()


@pytest.mark.parametrize(
    "setting",
    [
        Setting(solver="heun", steps=4),
        Setting(solver="dpmpp_2m", steps=4),
        Setting(solver="euler", steps=4, churn=Churn(amount=2.0)),
    ],
)
def test_another_setting_of_a_denoiser_is_told_once(setting: Setting) -> None:
    network: Any = make_network()
    network.img_channels, network.img_resolution, network.label_dim = 1, 8, 0
    tuned = tuned_for(
        network, Schedule([Term(find_skips(network)[0].address, 0.5)]), setting=setting
    )
    with no_warning(), tuned.apply(network):
        list(sample(network, setting, [0, 1], microbatch=2))
    with no_warning(), tuned.apply(network):
        network(torch.zeros(2, 1, 8, 8), torch.tensor([0.5, 3.0]))  # no way of a solver's
        network(torch.zeros(2, 1, 8, 8), torch.tensor(0.7))
        network(torch.zeros(2, 1, 8, 8), torch.tensor(0.7))
    other = Setting(solver=setting.solver, steps=5, churn=setting.churn)
    with warnings.catch_warnings(record=True) as caught, tuned.apply(network):
        warnings.simplefilter("always")
        list(sample(network, other, [0, 1], microbatch=2))
        list(sample(network, other, [0, 1], microbatch=2))
    (text,) = texts(caught)
    assert f"the noise levels of {setting.solver} with 4 steps" in text


@pytest.mark.parametrize("used", ["heun", "euler", "dpmpp_2m", "unipc"])
@pytest.mark.parametrize("tuned", ["heun", "euler", "dpmpp_2m"])
def test_another_solver_s_number_of_calls_is_told(tuned: str, used: str) -> None:
    network: Any = make_network()
    network.img_channels, network.img_resolution, network.label_dim = 1, 8, 0
    schedule = Schedule([Term(find_skips(network)[0].address, 0.5)])
    document = tuned_for(network, schedule, setting=Setting(solver=tuned, steps=4))
    with warnings.catch_warnings(record=True) as caught, document.apply(network):
        warnings.simplefilter("always")
        for seed in (0, 1):
            list(sample(network, Setting(solver=used, steps=4), [seed], microbatch=1))
    if (tuned == "heun") == (used == "heun"):
        assert texts(caught) == []
        return
    (text,) = texts(caught)
    expected = "twice as many calls" if tuned == "heun" else "as many calls"
    assert f"expected {expected} at sigma" in text
    assert text.endswith("1 after 1" if tuned == "heun" else "2 after 1")
    assert f": {tuned} with 4 steps, at which" in text


PART_OF_THE_WAY = Setting(
    solver="euler", steps=4, guidance=2.0, labels="random", guidance_high=20.0
)


@pytest.mark.parametrize(
    ("setting", "calls", "told"),
    [
        # Guidance and parts of a batch are calls of their own, at every level alike.
        (Setting(solver="heun", steps=4), (2, 4, 4, 4), None),
        (Setting(solver="euler", steps=4), (3, 3, 3, 3), None),
        (Setting(solver="euler", steps=8), (3, 6, 6), "6 after 3"),
        (Setting(solver="heun", steps=8), (3, 3, 3), "3 after 3"),
        # A call before sampling, to warm up.
        (Setting(solver="euler", steps=4), (2, 1, 1, 1), None),
        (PART_OF_THE_WAY, (1, 2, 2, 1), None),
    ],
)
def test_calls_are_counted_whatever_shares_them(
    setting: Setting, calls: tuple[int, ...], told: str | None
) -> None:
    network: Any = make_network()
    network.img_channels, network.img_resolution, network.label_dim = 1, 8, 0
    schedule = Schedule([Term(find_skips(network)[0].address, 0.5)])
    grid = [level for level in levels(network, setting) if level > 0]
    with (
        warnings.catch_warnings(record=True) as caught,
        tuned_for(network, schedule, setting=setting).apply(network),
    ):
        warnings.simplefilter("always")
        for level, number in zip(grid, calls, strict=False):
            for _ in range(number):
                network(torch.zeros(1, 1, 8, 8), torch.tensor(level))
    found = texts(caught)
    assert len(found) == (told is not None)
    assert all(f"calls at sigma {grid[1]:.4g} as at" in text for text in found)
    assert all(text.endswith(f"found {told}") for text in found)


# Other architectures


def test_another_architecture_is_refused_with_its_skips(pipe: Any) -> None:
    kind = type(pipe.unet).__name__
    other = random_unet(kind, block_out_channels=[16, 64])
    with pytest.raises(NetworkError) as caught:
        tuned_for(other).apply(pipe)
    places = [problem.where for problem in caught.value.problems]
    assert places == [f"network: {skip.address}" for skip in find_skips(other)[:3]]
    assert hooks_of(pipe.unet) == []


def test_what_has_no_unet_is_refused() -> None:
    class Transformer:
        scheduler = transformer = None

    targets: tuple[Any, ...] = (Transformer(), None, "pipe", {})
    for target in targets:
        with pytest.raises(NetworkError, match="a pipeline of diffusers with a U-Net"):
            make_tuned().apply(target)
    with pytest.raises(NetworkError, match="a U-Net of diffusers, which is told a `timestep`"):
        make_tuned().apply(make_network(), scheduler=ddim())
    with pytest.raises(NetworkError, match="expected none: a pipeline's own is followed"):
        tuned_for(random_unet()).apply(pixels(), scheduler=ddim())


def test_a_flow_matching_scheduler_is_refused_where_windows_are_used() -> None:
    pipe = pixels()
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    names = [skip.address for skip in find_skips(pipe.unet)]
    with pytest.raises(NetworkError, match="found FlowMatchEulerDiscreteScheduler"):
        tuned_for(pipe.unet, Schedule([Term(names[0], 0.5, 1.0)])).apply(pipe)
    assert hooks_of(pipe.unet) == []
    with pytest.warns(SkiptuneWarning, match="steps otherwise"):
        tuned_for(pipe.unet).apply(pipe).remove()


# Networks that are no pipelines


@pytest.mark.parametrize("name", FAMILIES)
class TestFamilies(OfFamily):
    def test_a_denoiser_and_its_bare_unet(self, name: str) -> None:
        tuned = tuned_for(self.network)
        expected = self.run(edited(self.family, self.network, self.schedule_at))
        plain = self.run(self.network)
        bare = getattr(self.network, "model", None) or self.network.unet
        for target in (self.network, bare):
            with tuned.apply(target):
                found = self.run(self.network)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(self.run(self.network), plain)
        assert float((expected - plain).abs().max()) > 1e-3

    def schedule_at(self, address: str) -> float:
        return dict(zip(self.names, SCALES, strict=True))[address]


def test_skips_of_a_unet_that_does_not_say_its_size() -> None:
    network = network_of(FAMILIES["guided-diffusion"])
    tuned = tuned_for(network)
    unet = network.model
    for attribute in ("img_resolution", "image_size"):
        vars(unet).pop(attribute, None)
    assert {skip.resolution for skip in find_skips(unet)} == {0}
    with tuned.apply(unet):
        assert len(hooks_of(network)) > 1
    with pytest.raises(NetworkError) as caught:
        tuned_for(network_of(FAMILIES["guided-diffusion"], model_channels=64)).apply(unet)
    assert "at" not in str(caught.value.problems[0].found).split()
