"""Pipelines of diffusers: our images are their own, from the same noise."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.decoder import load_decoder
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float, start, to_uint8
from skiptune.sampling.networks.pipeline_unet import Conditions, PipelineDenoiser
from skiptune.sampling.noise import image_streams
from skiptune.sampling.pipeline_files import pipeline_files
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.schedulers import pipeline_levels
from skiptune.sampling.setting import Setting
from skiptune.sampling.text_encoders import encode
from tests.clip_models import TOKENS, text_parts
from tests.pipelines import ddim, random_unet, write_pipeline
from tests.vaes import random_vae

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SEEDS = (3, 11, 40)


def scheduler_config(folder: Path) -> dict[str, Any]:
    path = folder / "scheduler" / "scheduler_config.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def as_its_pipeline(folder: Path, steps: int, **more: Any) -> Setting:
    """The setting that steps along the levels of the pipeline in the folder."""
    *levels, last = pipeline_levels(scheduler_config(folder), steps, where="test")
    if last > 0:
        return Setting(**{"solver": "euler", "sigmas": (*levels, last), "final_zero": False,
                          "steps": len(levels), **more})  # fmt: skip
    return Setting(**{"solver": "euler", "sigmas": tuple(levels), "steps": len(levels), **more})


def noise_of(checkpoint: Checkpoint, setting: Setting) -> Tensor:
    return start(checkpoint.network, setting, image_streams("edm", SEEDS))[0]


# Our images are the pipeline's


@pytest.mark.parametrize(
    "values",
    [
        {},
        SD15,
        {"prediction_type": "v_prediction"},
        {"prediction_type": "sample"},
        {"set_alpha_to_one": False},
        {"set_alpha_to_one": False, "steps_offset": 1},
        {"timestep_spacing": "trailing"},
        {"clip_sample": True},
        {"clip_sample": True, "clip_sample_range": 0.5, "prediction_type": "v_prediction"},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
         "timestep_spacing": "trailing"},
        {"beta_schedule": "squaredcos_cap_v2"},
    ],
    ids=lambda values: "-".join(f"{k}={v}" for k, v in values.items()) or "defaults",
)  # fmt: skip
def test_images_are_those_of_the_ddim_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    from diffusers.pipelines.ddim import pipeline_ddim

    diffusers: Any = importlib.import_module("diffusers")
    folder = write_pipeline(tmp_path / "pipe", scheduler=ddim(**values))
    checkpoint = load_checkpoint(folder)
    setting = as_its_pipeline(folder, 5)
    noise = noise_of(checkpoint, setting)
    pipe = diffusers.DDIMPipeline(unet=random_unet(), scheduler=ddim(**values))
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr(pipeline_ddim, "randn_tensor", lambda *args, **kwargs: noise.clone())
    # The noise that a clipped image implies: DDIM's own rule of this option.
    clips = {"use_clipped_model_output": True} if values.get("clip_sample") else {}
    expected = pipe(3, num_inference_steps=5, output_type="np", **clips).images
    ours = sample_float(checkpoint.network, setting, SEEDS)
    found = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, torch.from_numpy(expected).double(), atol=1e-3, rtol=0)
    pictures = torch.from_numpy(expected * 255).round().permute(0, 3, 1, 2)
    assert float((to_uint8(ours).float() - pictures).abs().max()) <= 1


def stepped(scheduler: Any, unet: Any, noise: Tensor, steps: int, **given: Any) -> Tensor:
    """diffusers' own loop: what its pipelines do between the noise and the decoder."""
    scheduler.set_timesteps(steps)
    x: Tensor = noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, time)
        made = unet(seen, time, return_dict=False, **given)[0]
        x = scheduler.step(made, time, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize(
    ("kind", "values", "solver"),
    [
        ("EulerDiscreteScheduler", {}, "euler"),
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}, "euler"),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, "euler"),
        ("EulerDiscreteScheduler", {"prediction_type": "v_prediction"}, "euler"),
        ("EulerDiscreteScheduler", {**SD15, "rescale_betas_zero_snr": True,
                                    "prediction_type": "v_prediction"}, "euler"),
        ("HeunDiscreteScheduler", {}, "heun"),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "zero"}, "dpmpp_2m"),
        ("EDMEulerScheduler", {}, "euler"),
        ("EDMEulerScheduler", {"prediction_type": "v_prediction"}, "euler"),
        ("EDMDPMSolverMultistepScheduler", {}, "dpmpp_2m"),
    ],
)  # fmt: skip
def test_images_are_those_of_other_schedulers(
    tmp_path: Path, kind: str, values: dict[str, Any], solver: str
) -> None:
    import diffusers

    scheduler = getattr(diffusers, kind)(**values)
    folder = write_pipeline(tmp_path / "pipe", scheduler=scheduler)
    checkpoint = load_checkpoint(folder)
    setting = as_its_pipeline(folder, 6, solver=solver)
    expected = stepped(scheduler, random_unet(), noise_of(checkpoint, setting), 6)
    found = sample_float(checkpoint.network, setting, SEEDS)
    # Images of a random network reach far beyond -1..1.
    scale = max(1.0, float(expected.abs().max()))
    assert float((found - expected.double()).abs().max()) < 1e-3 * scale


def test_latents_of_a_conditional_network_become_the_images_of_its_vae(tmp_path: Path) -> None:
    from diffusers.image_processor import VaeImageProcessor

    unet, vae = random_unet("UNet2DConditionModel"), random_vae()
    scheduler = ddim(**SD15, set_alpha_to_one=False, steps_offset=1)
    folder = write_pipeline(tmp_path / "pipe", unet=unet, scheduler=scheduler, vae=vae)
    checkpoint = load_checkpoint(folder)
    states = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1))
    loaded: Any = checkpoint.network
    network = PipelineDenoiser(loaded.unet, loaded.scheduler, conditions=Conditions(states)).eval()
    setting = as_its_pipeline(folder, 4, guidance=3.0)
    noise, rows = start(network, setting, image_streams("edm", SEEDS))
    assert rows is not None
    chosen = states[rows.argmax(1)]
    # As StableDiffusionPipeline does it: both branches in one batch, the empty prompt first.
    x = noise * scheduler.init_noise_sigma
    scheduler.set_timesteps(4)
    for time in scheduler.timesteps:
        both = torch.cat([states[-1:].expand(3, -1, -1), chosen])
        none, text = unet(torch.cat([x, x]), time, encoder_hidden_states=both).sample.chunk(2)
        x = scheduler.step(none + 3.0 * (text - none), time, x).prev_sample
    decoded = vae.decode(x / vae.config.scaling_factor).sample
    expected = VaeImageProcessor().postprocess(decoded, output_type="np")
    decoder = load_decoder(folder / "vae")
    found = sample_float(network, setting, SEEDS, decoder=decoder)
    found = (found / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, torch.from_numpy(expected).double(), atol=1e-3, rtol=0)


TEXTS = ("a red cat", "longer than the encoder can take", "dog")


@pytest.mark.parametrize(
    ("kind", "widths", "zeros"),
    [
        ("StableDiffusionPipeline", (12,), ...),
        ("StableDiffusionXLPipeline", (12, 20), True),
        ("StableDiffusionXLPipeline", (12, 20), False),
        # As pipelines are that were written by hand: the default of diffusers.
        ("StableDiffusionXLPipeline", (12, 20), ...),
    ],
)
def test_images_of_prompts_are_those_of_the_pipeline_of_text(
    tmp_path: Path, kind: str, widths: tuple[int, ...], zeros: Any
) -> None:
    diffusers: Any = importlib.import_module("diffusers")
    changes: dict[str, Any] = {}
    more: dict[str, Any] = {"add_watermarker": False}
    if len(widths) == 1:
        more = dict.fromkeys(("safety_checker", "feature_extractor"))
        more["requires_safety_checker"] = False
    else:
        changes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
        changes["projection_class_embeddings_input_dim"] = 16 + 6 * 4
    unet = random_unet("UNet2DConditionModel", cross_attention_dim=sum(widths), **changes)
    vae = type(random_vae())(**random_vae().config).eval()
    scheduler = diffusers.EulerDiscreteScheduler(**SD15, steps_offset=1)
    made = getattr(diffusers, kind)(
        unet=unet, scheduler=scheduler, vae=vae, **text_parts(*widths), **more
    )
    folder = tmp_path / "pipe"
    made.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index.pop("force_zeros_for_empty_prompt", None)
    if zeros is not ...:
        index["force_zeros_for_empty_prompt"] = zeros
    (folder / "model_index.json").write_text(json.dumps(index))

    files, loaded = pipeline_files(folder), load_checkpoint(folder)
    ours: Any = loaded.network
    size = 2 * ours.img_resolution  # the VAE doubles it
    conditions = encode(files, TEXTS, size=size)
    # A token for each letter, one for the beginning and one for the end.
    long = [len(text.replace(" ", "")) + 2 > TOKENS for text in (*TEXTS, "")]
    assert conditions.cut is not None and conditions.cut.tolist() == long and any(long)
    network = PipelineDenoiser(ours.unet, ours.scheduler, conditions=conditions).eval()
    setting = as_its_pipeline(folder, 4, guidance=3.0)
    noise, rows = start(network, setting, image_streams("edm", SEEDS))
    assert rows is not None
    told = [TEXTS[place] for place in rows.argmax(1).tolist()]
    assert len(set(told)) > 1
    found = sample_float(network, setting, SEEDS, decoder=load_decoder(folder / "vae"))
    found = (found / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    pipe = getattr(diffusers, kind).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        told, num_inference_steps=4, guidance_scale=3.0, latents=noise.float(), output_type="np",
        height=size, width=size,
    ).images  # fmt: skip
    torch.testing.assert_close(found, torch.from_numpy(expected).double(), atol=1e-3, rtol=0)


def test_a_schedule_on_the_pipelines_own_unet_makes_our_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.pipelines.ddim import pipeline_ddim

    diffusers: Any = importlib.import_module("diffusers")
    folder = write_pipeline(tmp_path / "pipe")
    checkpoint = load_checkpoint(folder)
    setting = as_its_pipeline(folder, 3)
    noise = noise_of(checkpoint, setting)
    scales = (0.7, 1.3, 0.4, 1.1)
    schedule = Schedule.uniform(
        {skip.address: scale for skip, scale in zip(checkpoint.skips, scales, strict=True)}
    )
    pipe = diffusers.DDIMPipeline(unet=random_unet(), scheduler=ddim())
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr(pipeline_ddim, "randn_tensor", lambda *args, **kwargs: noise.clone())

    def theirs() -> Tensor:
        made = pipe(3, num_inference_steps=3, output_type="np").images
        return torch.from_numpy(made).double()

    before = theirs()
    with scaled(pipe.unet, schedule):
        expected = theirs()
    assert torch.equal(theirs(), before)
    with scaled(checkpoint.network, schedule):
        ours = sample_float(checkpoint.network, setting, SEEDS)
    found = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert float((expected - before).abs().max()) > 1e-2
