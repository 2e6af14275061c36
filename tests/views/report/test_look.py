"""The style sheet: contrast in every scheme, nothing that is loaded, the script's own hash."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from skiptune.views.report.look import DARK, LIGHT, PRINT, SCRIPT, policy, style

WRITTEN = ("ink", "quiet", "best", "proved", "warning")  # colours of text
DRAWN = ("grey", "c0", "c1", "c2", "c3")


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance and contrast ratio, written out."""

    def light(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        red, green, blue = (
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_formula() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # WCAG's own example


@pytest.mark.parametrize("scheme", [LIGHT, DARK, PRINT], ids=["light", "dark", "print"])
def test_contrast(scheme: dict[str, str]) -> None:
    assert scheme.keys() == LIGHT.keys()
    found = {
        (name, paper): contrast(scheme[name], scheme[paper])
        for name in (*WRITTEN, *DRAWN)
        for paper in ("paper", "card", "code")
    }
    assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}


def test_every_colour_is_named_and_every_name_is_used() -> None:
    sheet = style()
    used = set(re.findall(r"var\(--([a-z0-9]+)", sheet)) - {"s", "at"}
    assert used == set(LIGHT)
    outside = sheet.replace(":root", "")
    for scheme in (LIGHT, DARK, PRINT):
        for value in scheme.values():
            outside = outside.replace(value, "")
    # White and black lie on pictures alone.
    assert set(re.findall(r"#[0-9a-f]{3,6}\b", outside)) <= {"#fff"}


def test_braces_are_balanced_and_nothing_is_loaded() -> None:
    sheet = style()
    depth = 0
    for letter in sheet:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    for word in ("url(", "@import", "http", "@font-face", "</"):
        assert word not in sheet
    for query in ("prefers-color-scheme:dark", "@media print", "@media (max-width"):
        assert query in sheet


def test_the_policy_lets_nothing_in_but_this_script() -> None:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in policy().split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["img-src"] == "data:"
    assert "http" not in policy()
