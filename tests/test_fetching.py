"""`skiptune fetch` and `skiptune check` on a study whose files are elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from skiptune.canonical import file_digest
from skiptune.objectives.reference import reference_of, save_reference
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.decoder import load_decoder
from skiptune.sampling.latents import WEIGHTS_FILE
from skiptune.sampling.networks import EDMPrecond
from skiptune.sampling.options import config_of
from tests.command_line import Outcome, write_spec
from tests.sampling.compvis_stage import latent_options, write_latent_diffusion
from tests.sampling.families import random_network
from tests.sampling.official_files import official, training_dict, write_official
from tests.sampling.published_options import TINY

Command = Callable[..., Outcome]

CLOSED = "http://127.0.0.1:9"  # the port of `discard`, where nothing listens


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        path = server.folder / self.path.lstrip("/").partition("?")[0]
        asked = self.headers.get("Range")
        server.asked.append((path.name, asked))
        data = path.read_bytes() if path.is_file() else None
        if data is None:
            self.send_error(404)
            return
        start = int(re.findall(r"\d+", asked)[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{len(data)}"')
        self.end_headers()
        self.wfile.write(data[start:][: server.most])

    def log_message(self, format: str, *args: Any) -> None: ...


class Server(ThreadingHTTPServer):
    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.folder = folder
        self.most: int | None = None
        self.asked: list[tuple[str, str | None]] = []

    def handle_error(self, request: Any, client_address: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "web").mkdir()
    with Server(tmp_path / "web") as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.shutdown()


@pytest.fixture
def study(
    server: Server,
    tmp_path: Path,
    tiny_study: ModuleType,
    tiny_network: EDMPrecond,
    tiny_config: dict[str, Any],
    command: Command,
) -> Path:
    """A study file of which network and reference lie on the server."""
    arguments = {key: value for key, value in tiny_config.items() if key != "precond"}
    content = training_dict(official(tiny_network, {**arguments, "model_type": "SongUNet"}))
    write_official(server.folder / "edm-tiny.pkl", content)
    extractor = tiny_study._factory(weights=None, sha256=None)
    features = np.random.default_rng(0).normal(size=(200, extractor.dim))
    reference = reference_of(features, extractor=extractor, name="made up")
    save_reference(server.folder / "reference.npz", reference)
    folder = tmp_path / "study"
    folder.mkdir()
    fast = {"search__evaluations": 3, "search__rungs": [250], "confirm__candidates": 1}
    path = write_spec(tiny_study, folder, setting__steps=2, **fast)
    spec = yaml.safe_load(path.read_text())
    spec["objective"]["reference"] = "reference.npz"
    spec["objective"]["reference_url"] = f"{server.url}/reference.npz"
    spec["network"] = {
        "checkpoint": "net/edm-tiny.safetensors",
        "pickle_url": f"{server.url}/edm-tiny.pkl?key=s3cret",
    }
    path.write_text(yaml.safe_dump(spec))
    return path


def test_a_study_is_checked_fetched_and_ready(
    command: Command, study: Path, server: Server
) -> None:
    before = command("check", study)
    assert before.code == 2 and server.asked == []
    lines = [line.split()[1] for line in before.out.splitlines()]
    assert lines == ["spec", "device", "storage", "cost"]
    assert "device hours unknown until the network is here" in before.out
    # All that is missing, and one command for all of it.
    assert re.findall(r"^error: .*: (\S+)$", before.err, re.MULTILINE) == [
        "network.checkpoint",
        "objective.reference",
    ]
    assert "s3cret" not in before.err
    assert before.err.endswith(f"hint: fetch what is missing: `skiptune fetch {study}`\n")
    tried = command("tune", study, "-q")
    assert tried.code == 2 and f"`skiptune fetch {study}`" in tried.err
    assert server.asked == []

    done = command("fetch", study)
    assert (done.code, done.out) == (0, "")
    assert [name for name, _ in server.asked] == ["edm-tiny.pkl", "reference.npz"]
    checkpoint = study.parent / "net" / "edm-tiny.safetensors"
    assert f"Wrote {checkpoint}: sha256 {file_digest(checkpoint)} (recorded" in done.err
    assert "s3cret" not in done.err
    assert "CC BY-NC-SA" in (study.parent / "net" / "README.md").read_text()
    assert done.err.endswith(f"Next: skiptune check {study}\n")
    again = command("fetch", study)
    assert again.code == 0 and "Nothing is missing" in again.err and len(server.asked) == 2
    after = command("check", study)
    assert after.code == 0, after.err
    assert "device hours on one cpu" in after.out


def test_the_cost_is_told_before_and_measured_after(command: Command, study: Path) -> None:
    before = json.loads(command("check", study, "--json").out)
    assert [row["key"] for row in before["missing"]] == [
        "network.checkpoint",
        "objective.reference",
    ]
    assert before["command"] == f"skiptune fetch {study}"
    assert before["device_hours"] is None and before["search"]["seconds"] is None
    assert command("fetch", study, "-q").code == 0
    after = json.loads(command("check", study, "--json").out)
    for key in ("images", "evaluations", "device"):
        assert after[key] == before[key]
    assert before["search"]["images"] == after["search"]["images"] == 250 + 3 * 250
    # dpmpp_2m in 2 steps.
    assert before["search"]["evaluations"] == 2 * 1000
    parts = after["search"]["seconds"] + after["confirm"]["seconds"]
    assert after["device_hours"] == pytest.approx(after["seconds"] / 3600, abs=1 / 3600)
    assert abs(parts - after["seconds"]) <= 1
    assert after["device"].startswith("cpu (")


def test_a_file_of_tensors_is_fetched_with_the_options_in_the_study(
    command: Command, study: Path, server: Server
) -> None:
    network: Any = random_network(config_of(TINY, where="options").config)
    torch.save(network.model.state_dict(), server.folder / "adm-tiny.pt")
    spec = yaml.safe_load(study.read_text())
    spec["network"] = {
        "checkpoint": "net/adm-tiny.safetensors",
        "pickle_url": f"{server.url}/adm-tiny.pt",
    }
    spec["setting"] = {"solver": "euler", "steps": 1, "sigma_min": 0.05}
    study.write_text(yaml.safe_dump(spec))
    refused = command("fetch", study)
    assert refused.code == 2
    assert "network.options" in refused.err
    assert not (study.parent / "net" / "adm-tiny.safetensors").exists()

    spec["network"]["options"] = {**TINY, "num_channels": 64}
    study.write_text(yaml.safe_dump(spec))
    other = command("fetch", study)
    assert other.code == 2
    assert "guided-diffusion(OpenAIUNet)" in other.err

    spec["network"]["options"] = TINY
    study.write_text(yaml.safe_dump(spec))
    done = command("fetch", study)
    assert done.code == 0, done.err
    loaded = load_checkpoint(study.parent / "net" / "adm-tiny.safetensors")
    assert loaded.config == config_of(TINY, where="options").config
    assert loaded.skips[-1].address == "output_blocks.3"
    checked = command("check", study)
    assert checked.code == 0, checked.err


def test_what_makes_images_of_latents_comes_with_the_network(
    command: Command, study: Path, server: Server
) -> None:
    options = latent_options()
    write_latent_diffusion(server.folder / "model.ckpt", options)
    spec = yaml.safe_load(study.read_text())
    spec["network"] = {
        "checkpoint": "net/ldm.safetensors",
        "pickle_url": f"{server.url}/model.ckpt",
        "options": options,
        "decoder": {"vae": "net/vqvae"},
    }
    spec["setting"] = {"solver": "euler", "steps": 1, "sigma_min": 0.04}
    study.write_text(yaml.safe_dump(spec))
    done = command("fetch", study, "--json")
    assert done.code == 0, done.err
    folder = study.parent / "net"
    weights, config = folder / "vqvae" / WEIGHTS_FILE, folder / "vqvae" / "config.json"
    found = {one["key"]: one for one in json.loads(done.out)["fetched"]}
    assert [one for one in found if one.startswith("network")] == [
        "network.checkpoint",
        "network.decoder.vae",
        "network.decoder.config",
    ]
    digest = file_digest(weights)
    assert found["network.decoder.vae"]["sha256"] == digest
    assert [name for name, _ in server.asked].count("model.ckpt") == 1
    load_decoder(folder / "vqvae", channels=3)
    assert "Nothing is missing" in command("fetch", study).err

    # One of them alone is made anew, the same; a hash that is named must be met.
    weights.unlink()
    (folder / "ldm.safetensors").touch()
    spec["network"]["decoder"]["sha256"] = "ab" * 32
    study.write_text(yaml.safe_dump(spec))
    other = command("fetch", study)
    assert other.code == 2 and "network.decoder.sha256" in other.err
    config.unlink()
    weights.unlink()
    spec["network"]["decoder"]["sha256"] = digest
    study.write_text(yaml.safe_dump(spec))
    assert command("fetch", study).code == 0
    assert file_digest(weights) == digest and config.is_file()
    (folder / "ldm.safetensors").unlink()
    for path in folder.glob("*.*"):
        path.unlink()
    assert command("fetch", study).code == 0
    assert file_digest(weights) == digest
    load_checkpoint(folder / "ldm.safetensors")

    # Without the options nothing says that it would come.
    del spec["network"]["options"]
    config.unlink()
    study.write_text(yaml.safe_dump(spec))
    refused = command("fetch", study)
    assert refused.code == 2 and "network.decoder.config_url" in refused.err


def test_the_network_alone_is_measured_too(command: Command, study: Path) -> None:
    assert command("fetch", study, "-q").code == 0
    (study.parent / "reference.npz").unlink()
    outcome = command("check", study)
    assert outcome.code == 2 and "network.checkpoint" not in outcome.err
    names = [line.split()[1] for line in outcome.out.splitlines()]
    assert names == ["spec", "device", "storage", "network", "sampling", "cost"]
    assert "device hours without the features on one cpu" in outcome.out


def test_a_host_that_has_fetched_finds_files_by_their_content(
    command: Command, study: Path, tmp_path: Path
) -> None:
    assert command("fetch", study, "-q").code == 0
    cached = {path.stem for path in (tmp_path / "cache" / "files").rglob("*") if path.is_file()}
    for path in (study.parent / "net" / "edm-tiny.safetensors", study.parent / "reference.npz"):
        assert file_digest(path) in cached


def test_an_interrupted_fetch_goes_on(command: Command, study: Path, server: Server) -> None:
    size = (server.folder / "edm-tiny.pkl").stat().st_size
    server.most = size - 1000
    broken = command("fetch", study)
    assert broken.code == 2
    assert f"found: cut off after {size - 1000} of {size} bytes" in broken.err
    assert "hint: run the same command again: it goes on where it stopped" in broken.err
    server.most = None
    assert command("fetch", study).code == 0
    assert server.asked[:2] == [
        ("edm-tiny.pkl", None),
        ("edm-tiny.pkl", f"bytes={size - 1000}-"),
    ]


def test_wrong_hashes_are_refused(command: Command, study: Path, server: Server) -> None:
    plain = f"network.url={server.url}/edm-tiny.pkl"
    known = ("-s", plain, "-s", f"network.sha256={'0' * 64}")
    outcome = command("fetch", study, *known)
    assert outcome.code == 2 and "another file, of" in outcome.err
    assert not (study.parent / "net").exists()
    made = command("fetch", study, "-s", f"network.sha256={'0' * 64}")
    assert made.code == 2
    assert f"expected: {'0' * 64}" in made.err and "of what was made from" in made.err
    digest = hashlib.sha256((server.folder / "edm-tiny.pkl").read_bytes()).hexdigest()
    (study.parent / "net" / "edm-tiny.safetensors").unlink()
    right = command("fetch", study, "-s", plain, "-s", f"network.sha256={digest}", "--json")
    assert json.loads(right.out)["fetched"][0]["checked"] is True


def test_what_is_no_network_is_not_kept(command: Command, study: Path, server: Server) -> None:
    network = server.folder / "edm-tiny.pkl"
    good = network.read_bytes()
    network.write_bytes(b"not yet")
    assert command("fetch", study).code == 2
    assert command("convert", f"{server.url}/edm-tiny.pkl", "out").code == 2
    network.write_bytes(good)
    assert command("fetch", study).code == 0
    assert command("convert", f"{server.url}/edm-tiny.pkl", "out").code == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["network.pickle_url={closed}/x.pkl"], "Connection refused"),
        (["network.pickle_url={server}/none.pkl"], "HTTP status 404"),
        (["network.pickle_url={server}/reference.npz"], "reference.npz"),
        (["network.pickle_url=ftp://a.org/x.pkl"], "-s network.pickle_url"),
        (["network.checkpoint=net.pt"], "a path that ends in .safetensors"),
        (["objective.reference_url=null"], "no address (`objective.reference_url`)"),
    ],
)
def test_what_cannot_be_fetched(
    command: Command, study: Path, server: Server, overrides: list[str], said: str
) -> None:
    words = [text.format(closed=CLOSED, server=server.url) for text in overrides]
    outcome = command("fetch", study, *(word for text in words for word in ("-s", text)))
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith(("error: ", "Fetching ")) and "\nhint: " in outcome.err
    assert said in outcome.err and "Traceback" not in outcome.err
    assert not (study.parent / "net").exists()


def test_files_beside_the_checkpoint_are_not_replaced(
    command: Command, study: Path, server: Server
) -> None:
    (study.parent / "net").mkdir()
    (study.parent / "net" / "README.md").write_text("mine")
    outcome = command("fetch", study)
    assert outcome.code == 2 and "README.md" in outcome.err
    assert server.asked == []
    assert (study.parent / "net" / "README.md").read_text() == "mine"


def test_convert_takes_an_address(command: Command, study: Path, server: Server) -> None:
    done = command("convert", f"{server.url}/edm-tiny.pkl", "out")
    assert done.code == 0 and "Next: skiptune skips out/edm-tiny.safetensors" in done.err
    assert command("skips", "out/edm-tiny.safetensors").code == 0
    # What would be refused afterwards is refused before the download, and what is there is used.
    assert command("convert", f"{server.url}/edm-tiny.pkl", "out").code == 2
    assert command("convert", f"{server.url}/edm-tiny.pkl", "out", "--force").code == 0
    assert server.asked == [("edm-tiny.pkl", None)]
    bad = command("convert", f"{server.url}/none.pkl", "new")
    assert bad.code == 2 and "HTTP status 404" in bad.err and not Path("new").exists()
    assert "hint: check the address" in bad.err


def test_the_list_of_presets_names_published_numbers(command: Command) -> None:
    outcome = command("init", "--list")
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line.startswith("edm")}
    assert rows["edm-imagenet64-19nfe"].split()[3:] == ["19", *"1.36 at 511 1.75 at 19".split()]
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "not run here" in outcome.err
    plain = json.loads(command("init", "--list", "--json").out)
    assert plain["published"]["edm2-img64-s"]["baseline"]["fid"] == 1.58
    assert plain["run_here"] is False


def test_init_of_a_published_network_leads_to_fetch(command: Command) -> None:
    outcome = command("init", "a.yaml", "--preset", "edm-ffhq64")
    assert outcome.code == 0 and outcome.err.endswith("Next: skiptune fetch a.yaml\n")
    checked = command("check", "a.yaml")
    assert checked.code == 2 and "hint: fetch what is missing: `skiptune fetch a.yaml`" in (
        checked.err
    )
    assert "did you mean `edm-ffhq64`?" in command("init", "b.yaml", "--preset", "edm-ffhq").err
