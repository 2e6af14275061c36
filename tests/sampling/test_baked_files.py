"""Files of baked networks: upstream is given its own names, shapes and types."""

from __future__ import annotations

import copy
import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from skiptune.canonical import file_digest
from skiptune.errors import NetworkError
from skiptune.sampling import baked_files
from skiptune.sampling.baked_files import check_original, stored_tensors, write_baked
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.fold import Fold, fold
from skiptune.sampling.hooks import scaled
from skiptune.sampling.networks import build_denoiser
from skiptune.sampling.networks.lucidrains import PACKAGE
from skiptune.sampling.options import config_of
from skiptune.sampling.published import read_published
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.skips import find_skips
from skiptune.sampling.tensor_files import save_tensors
from tests.pipelines import random_unet, write_pipeline
from tests.sampling.families import FAMILIES, network_of, random_network
from tests.sampling.lucidrains_like import package
from tests.sampling.published_options import TINY
from tests.sampling.test_published import _latent_options

UVIT: dict[str, Any] = {
    "family": "u-vit",
    "process": "vpsde",
    "img_size": 8,
    "in_chans": 1,
    "patch_size": 2,
    "embed_dim": 16,
    "depth": 4,
    "num_heads": 2,
}
LUCIDRAINS: dict[str, Any] = {
    "family": "lucidrains",
    "image_size": 8,
    "channels": 1,
    "dim": 4,
    "dim_mults": [1, 2],
}


def converted(path: Path, options: dict[str, Any], folder: Path) -> Checkpoint:
    """Write a checkpoint of an upstream file, as `skiptune convert` does, and load it."""
    official = read_published(path, options, where="options")
    source = {"file": path.name, "bytes": path.stat().st_size, "sha256": official.sha256}
    metadata = {"skiptune.network": json.dumps(official.config)}
    metadata["skiptune.source"] = json.dumps(source)
    save_tensors(folder / "net.safetensors", official.tensors, metadata)
    return load_checkpoint(folder / "net.safetensors")


def exactly_folded(checkpoint: Checkpoint) -> tuple[Schedule, Fold]:
    skips = [s for s in checkpoint.skips if not s.mixed or s.groups == 0]
    schedule = Schedule.uniform({s.address: 0.8 + 0.03 * s.index for s in skips})
    return schedule, fold(checkpoint.network, schedule, mixed="refuse")


def written(checkpoint: Checkpoint, folded: Fold, folder: Path, **values: Any) -> list[Path]:
    folder.mkdir()
    return list(write_baked(checkpoint, folded, folder, metadata={"note": "x"}, **values))


def shaped(state: Mapping[str, Tensor]) -> dict[str, tuple[list[int], torch.dtype]]:
    return {name: (list(t.shape), t.dtype) for name, t in state.items()}


def relative(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


@pytest.mark.parametrize("name", ["ddpmpp-edm", "ncsnpp-ve", "adm-iddpm"])
def test_an_edm_checkpoint_has_the_same_names_shapes_types_and_metadata(
    name: str, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    network = network_of(family)
    checkpoint = load_checkpoint(family.write(network, tmp_path, {}))
    schedule, folded = exactly_folded(checkpoint)
    (path,) = written(checkpoint, folded, tmp_path / "out")
    assert path.name == "network.safetensors"
    before, after = load_file(checkpoint.path), load_file(path)
    assert shaped(before) == shaped(after) == shaped(network.state_dict())
    assert {k for k in before if not torch.equal(before[k], after[k])} == set(folded.keys)
    with (
        safe_open(path, framework="pt") as file,
        safe_open(checkpoint.path, framework="pt") as own,
    ):
        assert file.metadata() == {**own.metadata(), "note": "x"}
    baked = load_checkpoint(path).network
    x, sigma, labels = torch.randn(2, 1, 8, 8), torch.tensor(1.5), torch.eye(3)[:2]
    with torch.no_grad():
        found = baked(x, sigma, labels)
        with scaled(network, schedule):
            assert relative(found, network(x, sigma, labels)) < 1e-5
    assert baked.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize(("options", "suffix"), [(TINY, ".pt"), (UVIT, ".pth")])
@pytest.mark.parametrize("key", [None, "ema"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_upstream_s_own_class_loads_the_file_strictly(
    options: dict[str, Any], suffix: str, key: str | None, dtype: torch.dtype, tmp_path: Path
) -> None:
    upstream: Any = random_network(config_of(options, where="options").config).model
    state = {k: v.to(dtype) for k, v in upstream.state_dict().items()}
    original = tmp_path / f"net{suffix}"
    torch.save(state if key is None else {"step": 7, key: state}, original)
    checkpoint = converted(original, options, tmp_path)
    schedule, folded = exactly_folded(checkpoint)
    _, path = written(checkpoint, folded, tmp_path / "plain")
    assert path.suffix == suffix
    plain = torch.load(path, weights_only=True)
    assert shaped(plain) == shaped(state)
    check_original(checkpoint, original)
    _, path = written(checkpoint, folded, tmp_path / "whole", original=original)
    assert path.name == original.name
    whole = torch.load(path, weights_only=True)
    assert key is None or whole.pop("step") == 7
    held = whole if key is None else whole[key]
    assert list(held) == list(state)
    assert all(torch.equal(held[name], plain[name]) for name in state)
    twin = copy.deepcopy(upstream)
    twin.load_state_dict(plain, strict=True)
    network = checkpoint.network
    vars(network)["_modules"]["model"] = twin.eval().requires_grad_(False)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(1.5)
    found = network(x, sigma, None)
    hooked = load_checkpoint(checkpoint.path).network
    with scaled(hooked, schedule):
        off = relative(found, hooked(x, sigma, None))
    assert off < (1e-5 if dtype == torch.float32 else 1e-3)


def test_a_file_of_latent_diffusion_keeps_all_and_folds_both_copies(tmp_path: Path) -> None:
    options = _latent_options()
    network: Any = random_network(config_of(options, where="options").config)
    state = {k: v for k, v in network.state_dict().items() if "class_embedding" not in k}
    content: dict[str, Any] = {
        "first_stage_model.decoder.conv_in.weight": torch.ones(2),
        "cond_stage_model.embedding.weight": network.state_dict()["model.class_embedding.weight"],
    }
    for name, tensor in state.items():
        inner = name.removeprefix("model.")
        content[f"model.diffusion_model.{inner}"] = 2 * tensor
        content[f"model_ema.diffusion_model{inner.replace('.', '')}"] = tensor
    original = tmp_path / "model.ckpt"
    torch.save({"state_dict": content, "global_step": 3}, original)
    checkpoint = converted(original, options, tmp_path)
    _, folded = exactly_folded(checkpoint)
    ours, path = written(checkpoint, folded, tmp_path / "out", original=original)
    whole = torch.load(path, weights_only=True)
    assert whole["global_step"] == 3
    found = whole["state_dict"]
    assert list(found) == list(content)
    baked = load_file(ours)
    changed = set()
    for name in state:
        inner = name.removeprefix("model.")
        averaged = found[f"model_ema.diffusion_model{inner.replace('.', '')}"]
        assert torch.equal(averaged, baked[name])
        torch.testing.assert_close(found[f"model.diffusion_model.{inner}"], 2 * averaged)
        if not torch.equal(averaged, state[name]):
            changed.add(name)
    assert changed == set(folded.keys)
    # The U-Net alone, as `UNetModel.load_state_dict` takes it.
    _, path = written(checkpoint, folded, tmp_path / "alone")
    alone = torch.load(path, weights_only=True)
    assert shaped(alone) == shaped({k.removeprefix("model."): v for k, v in state.items()})


def test_a_copy_that_a_file_names_twice_is_folded_once_and_deep_ones_too(tmp_path: Path) -> None:
    state = random_network(config_of(UVIT, where="options").config).model.state_dict()
    tripled = {name: 3 * tensor for name, tensor in state.items()}
    content = {"model": state, "ema": state, "averages": [{"decay": 0.99, "state": tripled}]}
    torch.save(content, tmp_path / "net.pth")
    checkpoint = converted(tmp_path / "net.pth", UVIT, tmp_path)
    _, folded = exactly_folded(checkpoint)
    ours, path = written(checkpoint, folded, tmp_path / "out", original=tmp_path / "net.pth")
    whole, baked = torch.load(path, weights_only=True), load_file(ours)
    for name in state:
        expected = baked[f"model.{name}"]
        assert torch.equal(whole["model"][name], expected)
        assert torch.equal(whole["ema"][name], expected)
        torch.testing.assert_close(whole["averages"][0]["state"][name], 3 * expected)


def test_lucidrains_trainer_files_fold_every_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, package())
    torch.manual_seed(0)
    network: Any = build_denoiser(config_of(LUCIDRAINS, where="options").config)
    state = network.model.state_dict()
    ema = {f"{kind}_model.model.{k}": v for kind in ("online", "ema") for k, v in state.items()}
    content = {
        "step": 5,
        "model": {"betas": torch.ones(3), **{f"model.{k}": 3 * v for k, v in state.items()}},
        "ema": {"initted": torch.tensor(True), **ema},
    }
    original = tmp_path / "model-1.pt"
    torch.save(content, original)
    checkpoint = converted(original, LUCIDRAINS, tmp_path)
    _, folded = exactly_folded(checkpoint)
    assert len(folded.blocks) == 5
    ours, path = written(checkpoint, folded, tmp_path / "out", original=original)
    whole, baked = torch.load(path, weights_only=True), load_file(ours)
    for name in state:
        expected = baked[f"model.{name}"]
        assert torch.equal(whole["ema"][f"ema_model.model.{name}"], expected)
        assert torch.equal(whole["ema"][f"online_model.model.{name}"], expected)
        torch.testing.assert_close(whole["model"][f"model.{name}"], 3 * expected)
    assert torch.equal(whole["model"]["betas"], torch.ones(3))


def test_another_original_is_refused(tmp_path: Path) -> None:
    network: Any = random_network(config_of(TINY, where="options").config)
    original = tmp_path / "net.pt"
    torch.save(network.model.state_dict(), original)
    checkpoint = converted(original, TINY, tmp_path)
    torch.save({k: v + 1 for k, v in network.model.state_dict().items()}, original)
    for path, found in ((original, file_digest(original)), (tmp_path / "no.pt", "no such file")):
        with pytest.raises(NetworkError) as caught:
            check_original(checkpoint, path)
        assert caught.value.problems[0].found == found
        assert "net.pt (sha256" in caught.value.problems[0].expected
    for other in ("fashion", write_pipeline(tmp_path / "pipe")):
        with pytest.raises(NetworkError, match="leave --original out"):
            check_original(load_checkpoint(other), original)


@pytest.mark.parametrize("kind", ["UNet2DModel", "UNet2DConditionModel"])
@pytest.mark.parametrize("shards", ["one", "several"])
def test_a_pipeline_is_the_same_but_for_the_weights_of_its_unet(
    kind: str, shards: str, tmp_path: Path
) -> None:
    unet = random_unet(kind, norm_num_groups=4)
    source = write_pipeline(tmp_path / "pipe", unet=unet)
    if shards == "several":
        for path in (source / "unet").glob("*.safetensors"):
            path.unlink()
        unet.save_pretrained(source / "unet", max_shard_size="60KB")
        assert len(list((source / "unet").glob("*.safetensors"))) > 2
    checkpoint = load_checkpoint(source)
    (source / "README.md").write_text("---\nlicense: openrail\n---\nA card\n")
    (source / "LICENSE.txt").write_text("terms")
    (source / "unet" / "extra.json").write_text("{}")
    # What would still hold the network as it was.
    stale = (
        "v1-5.ckpt",
        "unet/diffusion_pytorch_model.bin",
        "unet/model.onnx",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "license-plates.ckpt",
    )
    for name in stale:
        (source / name).write_bytes(b"old")
    schedule, folded = exactly_folded(checkpoint)
    assert folded.blocks
    weights = written(checkpoint, folded, tmp_path / "out")
    names = {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()}
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")}
    assert {name for name in found if (tmp_path / "out" / name).is_file()} == names - set(stale)
    changed = {str(path.relative_to(tmp_path / "out")) for path in weights}
    for name in names - set(stale):
        same = (source / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
        assert same == (name not in changed)
    # diffusers itself, which knows nothing of skiptune.
    kind_of: Any = type(unet)
    read = kind_of.from_pretrained(tmp_path / "out" / "unet", local_files_only=True)
    assert shaped(read.state_dict()) == shaped(unet.state_dict())
    assert all(
        torch.equal(read.state_dict()[k[5:]], v)
        for k, v in folded.apply({f"unet.{k}": v for k, v in unet.state_dict().items()}).items()
    )
    if kind == "UNet2DModel":
        pipelines: Any = DDIMPipeline
        pipe = pipelines.from_pretrained(tmp_path / "out", local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        plain = pipelines.from_pretrained(source, local_files_only=True)
        plain.set_progress_bar_config(disable=True)
        first, second = torch.randn(1, 1, 8, 8), torch.tensor([300])
        with torch.no_grad():
            expected = plain.unet(first, second).sample
            with scaled(plain.unet, schedule):
                hooked = plain.unet(first, second).sample
            assert relative(pipe.unet(first, second).sample, hooked) < 1e-5
        assert relative(hooked, expected) > 1e-4
        made = pipe(num_inference_steps=2, output_type="np", generator=torch.manual_seed(1))
        assert made.images.shape == (1, 8, 8, 1)


def test_old_names_of_attention_and_half_precision_stay_as_the_file_has_them(
    tmp_path: Path,
) -> None:
    source = write_pipeline(tmp_path / "pipe", unet=random_unet(norm_num_groups=4))
    path = source / "unet" / "diffusion_pytorch_model.safetensors"
    old = {
        name.replace(".to_q.", ".query.").replace(".to_out.0.", ".proj_attn."): t.half()
        for name, t in load_file(path).items()
    }
    assert any(".query." in name for name in old)
    save_file(old, path, metadata={"format": "pt"})
    checkpoint = load_checkpoint(source)
    _, folded = exactly_folded(checkpoint)
    assert {t.dtype for t in stored_tensors(checkpoint, folded.keys).values()} == {torch.float16}
    (written_to,) = written(checkpoint, folded, tmp_path / "out")
    assert shaped(load_file(written_to)) == shaped(old)
    with safe_open(written_to, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_large_files_are_linked_and_small_ones_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skiptune.sampling.baked_files._LINKED_FROM", 300)
    source = write_pipeline(tmp_path / "pipe", unet=random_unet(norm_num_groups=4))
    index = json.loads((source / "model_index.json").read_text())
    (source / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", "X"]}))
    (source / "vae").mkdir()
    blob = tmp_path / "blob"
    blob.write_bytes(b"v" * 1000)
    (source / "vae" / "weights.bin").symlink_to(blob)  # as in the hub's cache
    (source / "vae" / "config.json").write_text("{}")
    checkpoint = load_checkpoint(source)
    _, folded = exactly_folded(checkpoint)
    written(checkpoint, folded, tmp_path / "out")
    carried = tmp_path / "out" / "vae" / "weights.bin"
    assert not carried.is_symlink()
    assert carried.stat().st_ino == blob.stat().st_ino
    small = tmp_path / "out" / "vae" / "config.json"
    assert small.stat().st_ino != (source / "vae" / "config.json").stat().st_ino

    def no_links(*paths: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    written(checkpoint, folded, tmp_path / "copy")
    assert (tmp_path / "copy" / "vae" / "weights.bin").read_bytes() == blob.read_bytes()


def test_a_full_disk_under_torch_save_is_an_os_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network: Any = random_network(config_of(UVIT, where="options").config)
    torch.save(network.model.state_dict(), tmp_path / "net.pth")
    checkpoint = converted(tmp_path / "net.pth", UVIT, tmp_path)
    _, folded = exactly_folded(checkpoint)

    def full(*values: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="failed writing"):
            written(checkpoint, folded, tmp_path / "out")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(baked_files, "save_tensors", lambda path, *rest: None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            written(checkpoint, folded, tmp_path / "again")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert find_skips(checkpoint.network) == checkpoint.skips
