"""Who may import whom (docs: the table of rooms), what stays light, and how files are cut."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.sources import FOLDERS, ROOMS, files, imports, module_name

ROOT = Path(__file__).resolve().parents[1]

LEAVES = ("skiptune.errors", "skiptune.canonical")

# Not installed, but no tests either.
OUTSIDE = ("training", "bench", "integrations")

# What each room may import of skiptune, apart from itself and the leaves.
ARROWS = {
    "sampling": (),
    "storage": (),
    "objectives": ("skiptune.sampling",),
    "search": ("skiptune.sampling", "skiptune.objectives", "skiptune.storage"),
}

# Everything that loads torch when it is imported itself.
TORCH = ("torch", "torchvision", "torch_fidelity", "safetensors.torch")

# What a command imports that samples nothing, so that `--help` and `status` answer at once.
TORCH_FREE = (
    "skiptune",
    "skiptune.canonical",
    "skiptune.cli",
    "skiptune.errors",
    "skiptune.launch",
    "skiptune.launch.companion",
    "skiptune.launch.crew",
    "skiptune.launch.k8s",
    "skiptune.launch.programs",
    "skiptune.launch.local",
    "skiptune.launch.ray_actor",
    "skiptune.launch.ray_cluster",
    "skiptune.launch.ray_driver",
    "skiptune.launch.slurm",
    "skiptune.launch.tether",
    "skiptune.objectives",
    "skiptune.objectives.clip_files",
    "skiptune.objectives.names",
    "skiptune.sampling",
    "skiptune.sampling.pipeline_files",
    "skiptune.sampling.schedule",
    "skiptune.sampling.setting",
    "skiptune.sampling.skips",
    "skiptune.search",
    "skiptune.search.diagnosis",
    "skiptune.search.launch_notes",
    "skiptune.search.pending",
    "skiptune.search.findings",
    "skiptune.search.space",
    "skiptune.search.spec",
    "skiptune.search.stored_result",
    "skiptune.search.tuned",
    "skiptune.views",
    "skiptune.views.dashboard.guard",
    "skiptune.views.dashboard.refreshing",
    "skiptune.views.dashboard.served",
    "skiptune.views.dashboard.server",
    "skiptune.views.diagnosis",
    "skiptune.views.report.contents",
    "skiptune.views.report.kept",
    "skiptune.views.report.markdown",
    "skiptune.views.report.page",
    "skiptune.views.report.tiles",
)

FORBIDDEN_NAMES = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
MOST_LINES = 500


def forbidden_arrows(root: Path) -> list[str]:
    """Return the imports that go against the arrows between the rooms."""
    found = []
    for path in files(root, ("skiptune", *ROOMS, *OUTSIDE)):
        folder, module = path.parts[0], module_name(path)
        for item in imports(root, path):
            ours = item.within("skiptune")
            if folder in ROOMS:
                allowed = (f"skiptune.{folder}", "skiptune.__version__", *LEAVES, *ARROWS[folder])
                wrong = ours and not item.within(*allowed)
            else:
                wrong = ours and module in LEAVES
            # What is not installed cannot be imported by what is.
            outside = ("tests",) if folder in OUTSIDE else ("tests", *OUTSIDE)
            if wrong or item.within(*outside):
                found.append(str(item))
    return found


def torch_in_storage(root: Path) -> list[str]:
    """Return the imports by which the storage room would load torch."""
    return [
        str(item)
        for path in files(root, ("storage",))
        for item in imports(root, path)
        if item.within(*TORCH)
    ]


def bare_rooms(root: Path) -> list[str]:
    """Return the imports of a room by its bare folder name, which make a second copy of it."""
    return [
        str(item) for path in files(root) for item in imports(root, path) if item.within(*ROOMS)
    ]


def badly_cut(root: Path) -> list[str]:
    """Return the files that are too long or named after no concept."""
    found = []
    for path in files(root):
        lines = len((root / path).read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            found.append(f"{path}: {lines} lines")
        for part in {path.stem, path.parent.name} & FORBIDDEN_NAMES:
            found.append(f"{path}: the name {part}")
    return found


def loads(module: str, *heavy: str) -> list[str]:
    """Return which of the heavy modules a fresh interpreter holds after one import."""
    program = (
        "import importlib, sys\n"
        "importlib.import_module(sys.argv[1])\n"
        "print(*(name for name in sys.argv[2:] if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, module, *heavy],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def storage_modules(root: Path) -> list[str]:
    """Return every module of the storage room but Alembic's scripts, which only Alembic runs."""
    paths = (path for path in files(root, ("storage",)) if "migrations" not in path.parts)
    return [module_name(path) for path in paths]


def test_rooms_follow_the_arrows() -> None:
    assert forbidden_arrows(ROOT) == []


def test_storage_imports_no_torch() -> None:
    assert torch_in_storage(ROOT) == []


def test_rooms_are_never_imported_by_their_bare_name() -> None:
    assert bare_rooms(ROOT) == []


def test_files_are_short_and_named_by_their_noun() -> None:
    assert badly_cut(ROOT) == []


@pytest.mark.parametrize("module", [*TORCH_FREE, *storage_modules(ROOT)])
def test_module_leaves_torch_out(module: str) -> None:
    assert loads(module, *TORCH) == []


def test_every_folder_is_read() -> None:
    read = {path.parts[0] for path in files(ROOT)}
    assert read == {folder for folder in FOLDERS if any((ROOT / folder).glob("*.py"))}
    assert {*ROOMS, "skiptune", "tests"} <= read


# The guards can fail: each is shown one thing of every kind that it must find.


def plant(root: Path, sources: Mapping[str, str]) -> None:
    """Write source files under a root."""
    for name, source in sources.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("sampling/hooks.py", "import skiptune.search"),
        ("sampling/hooks.py", "def later():\n    from skiptune.objectives import frechet"),
        ("sampling/hooks.py", "from ..storage import leases"),
        ("sampling/hooks.py", "from skiptune import storage"),
        ("sampling/hooks.py", "from skiptune import find_skips"),
        ("sampling/hooks.py", "import skiptune.sampling, skiptune.cli"),
        (
            "storage/tables.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import skiptune.search.spec",
        ),
        ("storage/tables.py", "from skiptune.sampling.schedule import Schedule"),
        ("objectives/frechet.py", "from skiptune.storage.arrays import ArrayStore"),
        (
            "objectives/frechet.py",
            "import importlib\nimportlib.import_module('skiptune.search.tune')",
        ),
        ("objectives/frechet.py", "import_module(f'skiptune.storage.{name}')"),
        ("search/tune.py", "import skiptune.cli"),
        ("search/tune.py", "from training import fashion_mnist"),
        ("skiptune/errors.py", "from skiptune.canonical import digest"),
        ("skiptune/cli.py", "import bench.hooks"),
        ("skiptune/cli.py", "import integrations.edm.plain_hooks"),
        ("training/network.py", "import tests.conftest"),
    ],
)
def test_an_arrow_against_the_plan_is_found(tmp_path: Path, name: str, source: str) -> None:
    plant(tmp_path, {name: source})
    assert len(forbidden_arrows(tmp_path)) == 1


def test_arrows_of_the_plan_are_allowed(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "sampling/hooks.py": "import torch\nfrom skiptune.errors import NetworkError",
            "sampling/__init__.py": "from . import schedule\nfrom skiptune import __version__",
            "objectives/frechet.py": "import skiptune.sampling.images, skiptune.canonical",
            "search/tune.py": "from skiptune.storage import leases\nimport skiptune.objectives",
            "skiptune/cli.py": "import skiptune.search.tune\nfrom skiptune.views import table",
            "skiptune/errors.py": "import dataclasses",
            "training/network.py": "from skiptune.sampling.networks import build",
            "tests/test_it.py": "import training.network\nimport skiptune.storage",
        },
    )
    assert forbidden_arrows(tmp_path) == []
    assert bare_rooms(tmp_path) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "def f():\n    from torch import nn",
        "import safetensors.torch as st",
        "from safetensors.torch import save_file",
        "from safetensors import torch",
        "from torch_fidelity import metric_fid",
    ],
)
def test_torch_in_storage_is_found(tmp_path: Path, source: str) -> None:
    plant(tmp_path, {"storage/arrays.py": source})
    assert len(torch_in_storage(tmp_path)) == 1


def test_numpy_in_storage_is_allowed(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {"storage/arrays.py": "import numpy\nimport safetensors.numpy\nimport torchless"},
    )
    assert torch_in_storage(tmp_path) == []


def test_a_bare_room_is_found(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "search/tune.py": "import storage",
            "tests/test_it.py": "from search.space import Space",
            "skiptune/cli.py": "import researching\nimport skiptune.search",
        },
    )
    assert bare_rooms(tmp_path) == [
        "search/tune.py:1 imports storage",
        "tests/test_it.py:1 imports search.space.Space",
    ]


def test_a_long_or_misnamed_file_is_found(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "storage/tables.py": "pass\n" * (MOST_LINES + 1),
            "storage/leases.py": "pass\n" * MOST_LINES,
            "search/utils.py": "",
            "training/common/__init__.py": "",
        },
    )
    assert badly_cut(tmp_path) == [
        "search/utils.py: the name utils",
        f"storage/tables.py: {MOST_LINES + 1} lines",
        "training/common/__init__.py: the name common",
    ]


def test_a_heavy_import_is_found() -> None:
    assert loads("json.tool", "argparse", "sqlite3") == ["argparse"]
