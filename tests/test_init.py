"""`import skiptune`: it costs nothing, and every public name leads somewhere."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import skiptune
from tests.sources import ROOMS
from tests.test_imports import loads

HEAVY = ("numpy", "optuna", "PIL", "pydantic", "rich", "sqlalchemy", "torch", "yaml")


def declared(source: str) -> dict[str, str]:
    """Return what a type checker sees: names and the modules they come from."""
    return {
        alias.name: str(node.module)
        for block in ast.walk(ast.parse(source))
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_import_loads_nothing_heavy() -> None:
    assert loads("skiptune", *HEAVY) == []


def test_import_names_its_version_and_public_names() -> None:
    assert dir(skiptune) == sorted(skiptune.__all__)
    assert {"Schedule", "apply", "load", "scaled", "tune", "__version__"} <= set(dir(skiptune))


@pytest.mark.parametrize("name", [n for n in skiptune.__all__ if n != "__version__"])
def test_public_name_is_the_one_that_type_checkers_see(name: str) -> None:
    home = declared(Path(skiptune.__file__).read_text(encoding="utf-8"))[name]
    assert getattr(skiptune, name) is getattr(importlib.import_module(home), name)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'skiptune' has no attribute 'sacled'"):
        skiptune.sacled  # noqa: B018


@pytest.mark.parametrize("room", ["skiptune", *(f"skiptune.{room}" for room in ROOMS)])
def test_no_public_name_is_also_a_module(room: str) -> None:
    # Importing skiptune.search.tune sets skiptune.search.tune to the module, whatever it was.
    package = importlib.import_module(room)
    modules = {path.stem for path in Path(str(package.__file__)).parent.glob("*.py")}
    assert set(package.__all__) & modules == set()


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_of_a_room_lead_somewhere(room: str) -> None:
    package = importlib.import_module(f"skiptune.{room}")
    assert package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        package.nothing_of_this_name  # noqa: B018
