"""Cost, use, limits and provenance of a report."""

from __future__ import annotations

from dataclasses import replace

import yaml

from skiptune.objectives.catalogue import PROMPT
from skiptune.views.report.blocks import Bullets, Code, Facts, Fold, Listing, Section
from skiptune.views.report.origin import (
    cost_section,
    limits_section,
    provenance_section,
    use_section,
)
from tests.views.report.findings import EXPLANATION, FINDINGS, OVERVIEW, RESULT, SCHEDULE


def facts(section: Section) -> dict[str, str]:
    return {
        name: words
        for block in section.blocks
        if isinstance(block, Facts)
        for name, words in block.rows
    }


def limits(**changes: object) -> str:
    section = limits_section(replace(FINDINGS, **changes))  # type: ignore[arg-type]
    (bullets,) = section.blocks
    assert isinstance(bullets, Bullets)
    return "\n".join(bullets.items)


def test_cost_adds_up_part_by_part() -> None:
    section = cost_section(FINDINGS)
    table = next(block for block in section.blocks if isinstance(block, Listing))
    assert [tuple(row) for row in table.rows] == [
        ("search", "5,000", "1,000", "30,000", "36 s"),
        ("confirm 1, block B (tests)", "7,500", "0", "45,000", "54 s"),
        ("together", "12,500", "1,000", "75,000", "1 min 30 s"),
    ]
    told = facts(section)
    assert told["GPU hours"] == "0.03"  # 90 s
    assert told["devices"] == "NVIDIA H200: 12,500 images in 1 min 30 s"
    assert told["taken over from other studies"] == "1,000 images"
    assert told["sampled twice after a lost worker"] == "250 images"
    cpu = replace(FINDINGS.origin, devices=())
    assert facts(cost_section(replace(FINDINGS, origin=cpu)))["GPU hours"] == "none"


def test_commands_name_the_study() -> None:
    commands, python = [b for b in use_section(FINDINGS).blocks if isinstance(b, Code)]
    assert commands.text.splitlines() == [
        "$ skiptune export fashion -o tuned.json",
        "$ skiptune sample tuned.json --compare -o grid.png",
        "$ skiptune best fashion",
    ]
    compile(python.text, "report", "exec")
    assert 'skiptune.load("tuned.json").apply(network)' in python.text


def test_a_name_is_one_word_of_a_command() -> None:
    overview = replace(OVERVIEW, study="a b; rm -rf ~")
    found = replace(FINDINGS, explanation=replace(EXPLANATION, overview=overview))
    commands = next(b for b in use_section(found).blocks if isinstance(b, Code))
    assert "$ skiptune export 'a b; rm -rf ~' -o tuned.json" in commands.text


def test_limits_follow_from_what_was_done() -> None:
    assert "dpmpp_2m, 6 steps" in limits() or "steps" in limits()
    assert "level 0.025" in limits()
    assert "No features but those of the search" not in limits()
    assert "No features but those of the search" in limits(result=replace(RESULT, second=None))
    assert "over prompts" in limits(result=replace(RESULT, unit=PROMPT))
    overview = replace(OVERVIEW, metric="recall(x)-2k")
    other = limits(explanation=replace(EXPLANATION, overview=overview))
    assert "distance of features" not in other and "recall(x)-2k is what was optimised" in other


def test_provenance_is_whole() -> None:
    section = provenance_section(FINDINGS)
    told = facts(section)
    assert told["schedule, SHA-256"] == SCHEDULE.digest
    assert told["network, SHA-256"] == f"fashion {'a' * 64}"
    assert told["series, SHA-256"] == "c" * 64
    assert told["versions"] == "torch 2.10.0, 2.15.0"
    seeds = next(block for block in section.blocks if isinstance(block, Listing))
    assert tuple(seeds.rows[0]) == ("search", "1,000,000", "2,000")
    fold = next(block for block in section.blocks if isinstance(block, Fold))
    (code,) = fold.blocks
    assert isinstance(code, Code)
    assert yaml.safe_load(code.text) == FINDINGS.origin.spec
