from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

SCRIPT = Path(__file__).with_name("tiny_study.py")


@pytest.fixture(scope="session")
def tiny_study() -> ModuleType:
    """The module `tiny_study`, loaded once: its extractor can be registered only once."""
    name = "tests_tiny_study"
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, SCRIPT)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module
        found.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def study_folder(
    tmp_path: Path,
    tiny_study: ModuleType,
    tiny_network: nn.Module,
    write_checkpoint: Callable[..., Path],
) -> Path:
    """A folder with everything the tiny study needs, and no database yet."""
    folder = tmp_path / "study"
    folder.mkdir()
    checkpoint = write_checkpoint(tiny_network, folder / "tiny.safetensors")
    tiny_study.prepare(folder, checkpoint)
    return folder
