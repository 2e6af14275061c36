"""The room's front door: every name it offers is the thing meant, however it was reached."""

from __future__ import annotations

import importlib
import pkgutil
import types

import pytest

import skiptune.sampling as room


def test_every_public_name_is_a_thing_and_not_a_module() -> None:
    # Importing a submodule puts it into the package under its name and hides a lazy name.
    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"skiptune.sampling.{module.name}")
    for name in room.__all__:
        assert not isinstance(getattr(room, name), types.ModuleType), name
    assert dir(room) == sorted(room.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match=r"skiptune\.sampling.*nothing"):
        room.nothing  # noqa: B018
