"""The nodes in both APIs, their report, and what the pack is made of."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from integrations.comfyui.nodes import report
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Setting
from tests.integrations import comfyui_like as like
from tests.integrations.both_ways import (
    NAMES,
    close,
    noise,
    ours,
    patched,
    theirs,
)
from tests.integrations.handed_over import damage, schedules, write_tuned
from tests.sources import imports

ROOT = Path(__file__).resolve().parents[2]


# The check that something happens.


def test_report_counts_the_last_run(
    denoiser: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = schedules(NAMES)["windowed"]
    setting = Setting(solver="dpmpp_2m", steps=6, guidance=3.0)
    model = patched(denoiser, tmp_path / "t.json", schedule, setting=setting)
    other = model.clone()  # as a node for LoRA does
    with caplog.at_level(logging.INFO, logger="skiptune.comfyui"):
        theirs(other, noise(), cfg=3.0)
        theirs(other, noise(), cfg=3.0, together=False)
    said = (
        # Levels 14, 5, 1.5, 0.4 twice: the first skip at three of them, the second at two.
        "Skip-Tuning (portraits): 3 of 3 skips were scaled, 18 times in 8 evaluations of the"
        " network; another setting than the tuned one, so its gain may differ: euler (tuned:"
        " dpmpp_2m), 4 steps (tuned: 6)"
    )
    assert report(model) == report(other) == said
    first = said.replace("18 times in 8", "9 times in 4")
    assert [(r.levelname, r.message) for r in caplog.records] == [("INFO", first), ("INFO", said)]


def test_report_warns_of_a_run_that_did_nothing(
    denoiser: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = Schedule([Term(NAMES[0], 0.5, 20.0, 40.0)])
    model = patched(denoiser, tmp_path / "t.json", schedule)
    theirs(model, noise())
    assert caplog.records[-1].levelname == "WARNING"
    assert "0 of 1 skips were scaled, 0 times in 4 evaluations" in report(model)
    assert "no evaluation lay at a scaled noise level" in report(model)
    # A compiled or converted model that never calls patches.
    model.model.apply_model = lambda x, sigma, rows, options: x
    theirs(model, noise())
    assert "never called this patch, so nothing was changed" in caplog.records[-1].message
    untouched = like.Patcher(like.Model(denoiser))
    assert report(untouched).startswith("Skip-Tuning: nothing is applied to this model")


# Both node APIs, loaded as ComfyUI loads them.


def test_the_first_api(denoiser: Any, tmp_path: Path) -> None:
    with like.comfyui(tmp_path, second_api=False):
        write_tuned(tmp_path / "skiptune/sub/t.json", denoiser, schedules(NAMES)["static"])
        (tmp_path / "skiptune/notes.txt").touch()
        module, nodes = like.load_pack()
        assert not hasattr(module, "comfy_entrypoint")
        assert set(nodes) == set(module.NODE_DISPLAY_NAME_MAPPINGS)
        node = nodes["SkipTuningApply"]
        inputs = node.INPUT_TYPES()
        assert inputs["required"]["file"][0] == ["sub/t.json"]
        assert node.VALIDATE_INPUTS(file="sub/t.json") is True
        assert "no such file in models/skiptune" in node.VALIDATE_INPUTS(file="../t.json")
        before = node.IS_CHANGED(file="sub/t.json", model=None, strength=1.0)
        values = {"model": like.Patcher(like.Model(denoiser)), "file": "sub/t.json"}
        defaults = {
            name: kind[1]["default"]
            for each in inputs.values()
            for name, kind in each.items()
            if len(kind) > 1 and "default" in kind[1]
        }
        model, summary = getattr(node(), node.FUNCTION)(**values, **defaults)
        expected = ours(denoiser, schedules(NAMES)["static"], noise())
        assert close(theirs(model, noise()), expected)
        assert summary == (
            "Skip-Tuning (portraits): scales 4 of 4 skips, strength 1; tuned on tiny with euler,"
            " 4 steps: win (+9.7 % [5.5, 13.9])"
        )
        teller = nodes["SkipTuningReport"]
        told = getattr(teller(), teller.FUNCTION)(model=model, latent={"samples": noise()})
        assert told["ui"]["text"] == told["result"]
        assert "4 of 4 skips were scaled, 16 times in 4 evaluations" in told["result"][0]
        damage(tmp_path / "skiptune/sub/t.json", lambda values: values.update(notes=""))
        assert node.IS_CHANGED(file="sub/t.json") != before
        (tmp_path / "skiptune/sub/t.json").write_text("{")
        assert "expected complete JSON" in node.VALIDATE_INPUTS(file="sub/t.json")


def test_the_second_api(denoiser: Any, folder: Path) -> None:
    write_tuned(folder / "t.json", denoiser, schedules(NAMES)["static"])
    module, nodes = like.load_pack()
    # ComfyUI would take these and never ask for the extension.
    assert not hasattr(module, "NODE_CLASS_MAPPINGS")
    node = nodes["SkipTuningApply"]
    schema = node.define_schema()
    (file,) = [one for one in schema.inputs if one.id == "file"]
    assert file.options["options"] == ["t.json"]
    assert node.validate_inputs(file="t.json") is True
    assert node.fingerprint_inputs(file="t.json", strength=1.0)
    values = {one.id: one.options["default"] for one in schema.inputs if "default" in one.options}
    made = node.execute(model=like.Patcher(like.Model(denoiser)), file="t.json", **values)
    model, _ = made.args
    expected = ours(denoiser, schedules(NAMES)["static"], noise())
    assert close(theirs(model, noise()), expected)
    told = nodes["SkipTuningReport"].execute(model=model, latent={})
    assert "4 of 4 skips were scaled" in told.args[0] and told.ui == {"text": told.args}


def test_both_apis_are_the_same(tmp_path: Path) -> None:
    with like.comfyui(tmp_path, second_api=False):
        _, first = like.load_pack()
        found = {name: node.INPUT_TYPES() for name, node in first.items()}
    with like.comfyui(tmp_path):
        _, second = like.load_pack()
        assert set(second) == set(first)
        for name, node in second.items():
            schema = node.define_schema()
            for kind in ("required", "optional"):
                wanted = found[name].get(kind, {})
                given = {
                    one.id: one
                    for one in schema.inputs
                    if bool(one.options.get("optional")) == (kind == "optional")
                }
                assert list(given) == list(wanted)
                for id, (io_type, *options) in wanted.items():
                    # Of a list to choose from, the first API names the list.
                    assert given[id].io_type == ("COMBO" if id == "file" else io_type)
                    for key, value in (options[0] if options else {}).items():
                        assert given[id].options[key] == value
            assert tuple(one.io_type for one in schema.outputs) == first[name].RETURN_TYPES
            names = tuple(one.options["display_name"] for one in schema.outputs)
            assert names == first[name].RETURN_NAMES


@pytest.mark.parametrize("second_api", [True, False])
def test_a_name_that_another_node_gives_is_read_when_it_is_there(
    tmp_path: Path, second_api: bool
) -> None:
    # ComfyUI's execution.py (`get_input_data`) hands None over for what is linked.
    with like.comfyui(tmp_path, second_api=second_api):
        node = like.load_pack()[1]["SkipTuningApply"]
        validate = node.validate_inputs if second_api else node.VALIDATE_INPUTS
        changed = node.fingerprint_inputs if second_api else node.IS_CHANGED
        assert validate(file=None) is True
        told = changed(file=None, strength=1.0)
        assert told != told, "to ComfyUI a NaN has always changed"


# What the pack is made of.


def test_the_pack_needs_nothing() -> None:
    foreign = {
        item.target.split(".")[0]
        for path in like.PACK.glob("*.py")
        for item in imports(ROOT, path.relative_to(ROOT))
        if not item.within("integrations")
    } - set(sys.stdlib_module_names)
    assert foreign == {"comfy_api", "folder_paths"}
    program = "import sys, integrations.comfyui.nodes; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "False\n"


def test_the_pack_is_written_for_the_pythons_of_comfyui() -> None:
    paths = {path.name: path for path in like.PACK.glob("*.py")}
    assert {"__init__.py", "nodes.py", "patch.py", "tuned_file.py"} <= paths.keys()
    for path in paths.values():
        ast.parse(path.read_text(), feature_version=(3, 10))


def test_the_licence_travels() -> None:
    assert (like.PACK / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_registry_finds_what_it_needs() -> None:
    values = tomllib.loads((like.PACK / "pyproject.toml").read_text())
    assert values["project"]["dependencies"] == []
    assert (like.PACK / values["project"]["license"]["file"]).is_file()
    assert set(values["tool"]["comfy"]) == {"PublisherId", "DisplayName"}
