"""The bundled study file: one commented screen that names every key and every choice."""

from __future__ import annotations

import re
from typing import Any

import yaml
from pydantic import BaseModel

from skiptune.objectives.names import (
    DCT,
    EXTRACTORS,
    INCEPTION,
    INCEPTION_LAYERS,
    RANDOM_PATCHES,
    REFERENCES,
)
from skiptune.sampling.setting import GRIDS, LATER_FIELDS, SOLVERS, Setting
from skiptune.search.launch_section import LaunchSpec
from skiptune.search.sections import SAMPLERS
from skiptune.search.space_section import SPACES
from skiptune.search.spec import StudySpec, load_spec, preset_text, presets


def test_the_preset_is_one_commented_screen() -> None:
    lines = preset_text("fashion").splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 90
    sections = {"objective:", "search:"}
    for line in lines:
        assert "#" in line or line in sections or line == "confirm:"


def test_the_preset_names_every_key_but_the_rarely_used() -> None:
    rare = {"setting.sigma_min", "setting.sigma_max", "setting.exponent", "setting.churn"}
    rare |= {"setting.epsilon_scale", "network.url", "network.decoder", "network.pickle_url"}
    rare |= {f"setting.{name}" for name in LATER_FIELDS}
    rare |= {"objective.weights_url", "objective.reference_url", "objective.images_url"}
    rare |= {"space.branches", "objective.teacher", "objective.projection"}
    rare |= {"objective.weights_sha256", "search.warm_start", "search.patience"}
    rare |= {"space.part", "space.setting", "network.prompts", "network.prompts_url"}
    rare |= {"objective.clip_model", "objective.pick_model"}
    rare |= {f"launch.{name}" for name in LaunchSpec.model_fields}
    rare |= {"network.dtype", "network.options"}
    given_keys = set(leaves(yaml.safe_load(preset_text("fashion"))))
    known = {
        f"{section}.{key}"
        for section, field in StudySpec.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for key in field.annotation.model_fields
    }
    assert given_keys == (known - rare) | {"study", "microbatch"}


def test_the_preset_lists_the_choices_that_exist() -> None:
    lines = re.findall(r"^ *(\w+): *(.*?)# (.*)$", preset_text("fashion"), re.MULTILINE)
    comments = {key: comment for key, _, comment in lines}
    # A joint name takes the room; the first of its parts is a choice as well.
    comments["extractor"] += " " + {key: value for key, value, _ in lines}["extractor"]
    for key, choices in {
        "solver": SOLVERS,
        "grid": GRIDS,
        "kind": SPACES,
        # The layers of Inception are in docs/metrics.md.
        # What is computed is for second opinions, or joined with another.
        "extractor": set(EXTRACTORS)
        - (set(INCEPTION_LAYERS.values()) - {INCEPTION})
        - {DCT, RANDOM_PATCHES},
        "sampler": SAMPLERS,
    }.items():
        for choice in choices:
            assert re.search(rf"\b{re.escape(choice)}\b", comments[key]), (key, choice)


def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in values.items():
        keys += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return keys


def test_the_preset_is_valid_and_searches_per_skip() -> None:
    spec = load_spec("fashion")
    assert "fashion" in presets()
    assert spec.study == "fashion"
    assert spec.network.checkpoint == "fashion"
    assert (spec.space.kind, spec.space.low, spec.space.high) == ("per-skip", 0.7, 1.4)
    assert (spec.space.intervals, spec.search.sampler) == (3, "auto")
    assert spec.objective.reference in REFERENCES
    assert spec.setting.to_setting() == Setting(solver="dpmpp_2m", steps=6)
