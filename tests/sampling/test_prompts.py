"""Prompts: files, what encoders make of them, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from skiptune.errors import NetworkError, render
from skiptune.sampling.images import sample, start
from skiptune.sampling.networks.pipeline_unet import Conditions, PipelineDenoiser
from skiptune.sampling.noise import image_streams
from skiptune.sampling.pipeline_files import pipeline_files
from skiptune.sampling.prompts import (
    MOST_PROMPTS,
    SEARCH_SHARE,
    Shares,
    confirm_share,
    read_prompts,
    share_of_line,
    share_of_seed,
)
from skiptune.sampling.schedulers import read_scheduler
from skiptune.sampling.setting import Setting
from skiptune.sampling.text_encoders import encode, encoders_digest
from tests.pipelines import random_unet, write_pipeline
from tests.text_encoders import install, states_of, write_encoders
from tests.vaes import random_vae


def test_a_file_is_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("a cat\r\n  a dög \nred\n".encode())
    found = read_prompts(path)
    assert found.texts == ("a cat", "a dög", "red")
    assert found.name == "prompts.txt"
    assert found.sha256 == hashlib.sha256("a cat\na dög\nred".encode()).hexdigest()
    path.write_bytes("\ufeffa cat\na dög\nred".encode())
    assert read_prompts(path) == found


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "none"),
        (b"\n \n", "none"),
        (b"a\n\nb\n", "line 2: expected a prompt, found an empty line"),
        (
            b"a\nb\na \n",
            "line 3: expected a prompt that is there once, found 'a', which is line 1",
        ),
        (b"caf\xe9\n", "iconv"),
        (b"\n".join(b"%d" % i for i in range(MOST_PROMPTS + 1)), f"{MOST_PROMPTS} prompts"),
    ],
)
def test_prompts_that_are_none_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(data)
    with pytest.raises(NetworkError, match=said):
        read_prompts(path)


def test_a_file_that_is_too_large_is_told_so_where_a_letter_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\u732b".encode() * (1 << 23))  # 24 MiB of three bytes each
    with pytest.raises(NetworkError, match="at most 16777216 bytes together, found more"):
        read_prompts(path)


def test_of_many_wrong_lines_the_first_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\n" * 9)
    with pytest.raises(NetworkError, match="delete the 8 lines") as caught:
        read_prompts(path)
    assert len(caught.value.problems) == 5
    with pytest.raises(NetworkError, match="No such file"):
        read_prompts(tmp_path / "absent.txt")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "pipe"
    unet = random_unet("UNet2DConditionModel", cross_attention_dim=12)
    return write_encoders(write_pipeline(folder, unet=unet, vae=random_vae()), widths=[12])


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "pipe"))


def test_stable_diffusion_is_told_the_last_states(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    texts = [f"text {i}" for i in range(60)]
    found = encode(pipeline_files(folder), texts, size=16)
    expected = torch.stack([states_of(text, 12) for text in (*texts, "")])
    assert torch.equal(found.hidden, expected)
    assert found.pooled is None
    assert found.count == 60


@pytest.mark.parametrize("zeros", [False, True])
def test_sdxl_is_told_both_and_the_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zeros: bool
) -> None:
    install(monkeypatch)
    unet = random_unet(
        "UNet2DConditionModel", cross_attention_dim=12, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=7 + 6 * 4,
    )  # fmt: skip
    folder = write_pipeline(tmp_path / "pipe", unet=unet, vae=random_vae())
    write_encoders(folder, widths=[5, 7], force_zeros_for_empty_prompt=zeros)
    found = encode(pipeline_files(folder), ["a cat", "red"], size=16)
    texts = ("a cat", "red", "")
    hidden = torch.stack(
        [2 * torch.cat([states_of(text, 5), states_of(text, 7)], dim=1) for text in texts]
    )
    pooled = torch.stack([states_of(text, 7).mean(0) for text in texts])
    if zeros:
        hidden[-1], pooled[-1] = 0, 0
    assert torch.equal(found.hidden, hidden)
    assert found.pooled is not None
    assert found.time_ids is not None
    torch.testing.assert_close(found.pooled, pooled)
    assert found.time_ids.tolist() == [16, 16, 0, 0, 16, 16]


def test_the_hash_is_of_all_that_decides_about_a_prompt(folder: Path) -> None:
    before = encoders_digest(pipeline_files(folder), size=16)
    assert encoders_digest(pipeline_files(folder), size=16) == before
    assert encoders_digest(pipeline_files(folder), size=32) != before
    (folder / "text_encoder" / "notes.md").write_text("words")
    assert encoders_digest(pipeline_files(folder), size=16) == before
    for name in ("text_encoder/model.safetensors", "tokenizer/tokenizer.json"):
        path = folder / name
        kept = path.read_bytes()
        path.write_bytes(kept + b" ")
        assert encoders_digest(pipeline_files(folder), size=16) != before
        path.write_bytes(kept)
    (folder / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(NetworkError, match=r"model\.safetensors"):
        encoders_digest(pipeline_files(folder), size=16)


def change(folder: Path, **index: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **index}))


def test_encoders_of_another_kind_and_damaged_ones_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    change(folder, text_encoder=["transformers", "T5EncoderModel"])
    with pytest.raises(NetworkError, match="T5EncoderModel"):
        encode(pipeline_files(folder), ["a"], size=16)
    change(folder, text_encoder=["transformers", "CLIPTextModel"], tokenizer=None)
    with pytest.raises(NetworkError, match="tokenizer"):
        encode(pipeline_files(folder), ["a"], size=16)
    change(folder, tokenizer=["transformers", "CLIPTokenizer"])
    (folder / "tokenizer").rename(folder / "elsewhere")
    with pytest.raises(NetworkError, match=r"tokenizer: .* found no such folder"):
        encoders_digest(pipeline_files(folder), size=16)
    (folder / "elsewhere").rename(folder / "tokenizer")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(NetworkError, match="save_pretrained") as caught:
        encode(pipeline_files(folder), ["a"], size=16)
    assert "more words" not in render(caught.value)


def test_a_missing_transformers_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(NetworkError, match=r"pip install 'skiptune\[text\]'"):
        encode(pipeline_files(folder), ["a"], size=16)


LINES = tuple(f"a picture of {number} things" for number in range(4096))


def u_of(line: str) -> Fraction:
    """A line's hash as a number from 0 to 1, in exact arithmetic."""
    return Fraction(int(hashlib.sha256(line.encode()).hexdigest(), 16), 2**256)


def test_the_share_of_a_line_is_where_its_hash_lies() -> None:
    half = Fraction(1, 2)
    for line in LINES:
        u = u_of(line)
        number = next(k for k in range(256) if 1 - half**k <= u < 1 - half ** (k + 1))
        middle = 1 - 3 * half ** (number + 2)
        expected = confirm_share(number, "A" if u < middle else "B") if number else SEARCH_SHARE
        assert share_of_line(line) == expected
    shares = Shares(LINES, "prompts.txt")
    # Binomial errors: 32 of 2048 lines, 21 of 512.
    assert abs(shares.count(SEARCH_SHARE) - 2048) < 4 * 32
    for share in ("confirm-1/A", "confirm-1/B"):
        assert abs(shares.count(share) - 512) < 4 * 21
    assert shares.count("confirm-99/A") == 0


def test_shares_are_disjoint_and_together_all_lines() -> None:
    shares = Shares(LINES, "prompts.txt")
    blocks = [1_000_000, *(2_000_000 + 100_000 * k + h for k in range(1, 8) for h in (0, 50_000))]
    found = [shares.lines(seed) for seed in blocks]
    together = [line for lines in found for line in lines]
    assert (
        len(together)
        == len(set(together))
        == sum(
            share_of_line(line).partition("/")[0]
            in {"search", *(f"confirm-{k}" for k in range(1, 8))}
            for line in LINES
        )
    )
    for seed, lines in zip(blocks, found, strict=True):
        assert all(share_of_line(LINES[line]) == share_of_seed(seed) for line in lines)
    assert shares.lines(0) == shares.lines(149_999) == tuple(range(len(LINES)))
    # A line stays in its share when others join the file in front of it.
    more = Shares(("one more", *LINES), "prompts.txt")
    assert {LINES[line] for line in found[0]} == {
        ("one more", *LINES)[line] for line in more.lines(1_000_000)
    } - {"one more"}


@pytest.mark.parametrize(
    ("seed", "share"),
    [
        (0, None),
        (999_999, None),
        (1_000_000, "search"),
        (1_999_999, "search"),
        (2_100_000, "confirm-1/A"),
        (2_149_999, "confirm-1/A"),
        (2_150_000, "confirm-1/B"),
        (2_199_999, "confirm-1/B"),
        (2_700_000, "confirm-7/A"),
    ],
)
def test_the_share_of_a_seed_is_that_of_its_block(seed: int, share: str | None) -> None:
    assert share_of_seed(seed) == share


def test_a_share_without_a_line_is_refused() -> None:
    [line] = [line for line in LINES[:8] if share_of_line(line) == SEARCH_SHARE][:1]
    shares = Shares([line], "prompts.txt")
    assert shares.lines(1_000_000) == shares.lines(5) == (0,)
    with pytest.raises(NetworkError, match=r"prompts\.txt: prompts of confirm-1/B: .* none of 1"):
        shares.lines(2_150_000)


@pytest.mark.parametrize("noise", ["edm", "counter"])
def test_an_image_is_told_a_line_of_its_seeds_share(noise: str) -> None:
    unet = random_unet("UNet2DConditionModel", cross_attention_dim=12)
    texts = LINES[:64]
    states = torch.stack([states_of(text, 12) for text in (*texts, "")])
    scheduler = read_scheduler({"_class_name": "DDIMScheduler"}, where="test")
    network = PipelineDenoiser(
        unet, scheduler, conditions=Conditions(states), shares=Shares(texts, "prompts.txt")
    ).eval()
    setting = Setting(solver="euler", steps=1, sigma_min=0.1, sigma_max=10.0, noise=noise)
    seeds = [7, 1_000_003, 2_100_011, 2_150_012, 1_000_004]
    [batch] = sample(network, setting, seeds, microbatch=5)
    assert batch.labels is not None
    for place, seed in enumerate(seeds):
        # The rule, with lists of its own: the noise is drawn first, then one whole number.
        own = [
            i for i, text in enumerate(texts) if share_of_seed(seed) in (None, share_of_line(text))
        ]
        streams = image_streams(noise, [seed])
        streams.randn((network.img_channels, network.img_resolution, network.img_resolution))
        assert int(batch.labels[place]) == own[int(streams.randint(len(own))[0])]
    # Whoever else is in the batch does not matter.
    [alone] = sample(network, setting, seeds[1:2], microbatch=5)
    assert torch.equal(alone.images[0], batch.images[1])
    # One prompt for all, or none: shares have no say.
    _, rows = start(network, Setting(labels=3), image_streams("edm", [2_100_000]))
    assert rows is not None
    assert int(rows.argmax()) == 3
    assert start(network, Setting(labels=None), image_streams("edm", [2_100_000]))[1] is None
