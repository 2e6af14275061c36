"""How a node of Ray starts a worker; test_ray_cluster.py has actors of a real cluster."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from skiptune.launch.ray_actor import Order

WORDS = ["worker", "tiny", "--until-done", "--device", "cpu"]


def test_a_worker_is_tied_to_the_actor_and_writes_a_file_of_its_own(tmp_path: Path) -> None:
    order = Order(WORDS, {}, str(tmp_path / "made" / "here"), None)
    member = order.member("tiny-20260101-000000-7-12")
    assert (member.number, member.log.name) == (12, "tiny-20260101-000000-7-12.log")
    assert member.log.parent.is_dir()
    assert member.words == [
        *(sys.executable, "-m", "skiptune.launch.tether", str(os.getpid())),
        *(sys.executable, "-m", "skiptune", *WORDS),
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"SKIPTUNE_STORAGE": "a"}, {"SKIPTUNE_STORAGE": "a"}),
        ({"SKIPTUNE_STORAGE_FILE": "b"}, {"SKIPTUNE_STORAGE_FILE": "b"}),
        ({}, {"SKIPTUNE_STORAGE": "of the node", "SKIPTUNE_STORAGE_FILE": "of the node"}),
    ],
)
def test_what_is_said_of_the_database_goes_before_what_the_node_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    expected: dict[str, str],
) -> None:
    for name in ("SKIPTUNE_STORAGE", "SKIPTUNE_STORAGE_FILE", "OTHER"):
        monkeypatch.setenv(name, "of the node")
    found = Order(WORDS, {"NEW": "1", **given}, str(tmp_path), None).member("x-0").environment
    told = {name: found[name] for name in found if name.startswith("SKIPTUNE_STORAGE")}
    assert told == expected
    assert (found["OTHER"], found["NEW"]) == ("of the node", "1")
