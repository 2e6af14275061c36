"""What is installed: packages, links, data, dependencies and pins agree with the tree."""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.sources import ROOMS, files, imports, module_name

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ("skiptune", *ROOMS)
NOT_INSTALLED = ("tests", "training", "bench", "integrations")
# What a node pack finds where it runs: ComfyUI's own modules, which no registry holds.
HOSTED = {"integrations/comfyui": ("comfy_api", "folder_paths")}


def settings(root: Path) -> dict[str, Any]:
    """Return pyproject.toml as plain data."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def wrong_packages(root: Path) -> list[str]:
    """Return the folders that would be missing from the wheel, and packages without a folder."""
    built = set(settings(root)["tool"]["setuptools"]["packages"])
    sources = files(root, INSTALLED)
    named = {module_name(path) for path in sources if path.name == "__init__.py"}
    return [
        *(f"{name} is not in packages" for name in sorted(named - built)),
        *(f"{name} has no folder with __init__.py" for name in sorted(built - named)),
        *(
            f"{folder} has no __init__.py"
            for folder in sorted({path.parent for path in sources})
            if not (root / folder / "__init__.py").is_file()
        ),
    ]


def wrong_links(root: Path) -> list[str]:
    """Return the links skiptune/<room> that do not lead to their room by a relative path."""
    found = []
    for room in ROOMS:
        link = root / "skiptune" / room
        if not link.is_symlink():
            found.append(f"{room}: no link")
        elif link.readlink().is_absolute():
            found.append(f"{room}: an absolute link")
        elif not link.is_dir() or link.resolve() != (root / room).resolve():
            found.append(f"{room}: leads to {link.readlink()}")
    return found


def wrong_mapping(root: Path) -> list[str]:
    """Return the rooms that setuptools would not take from the top of the repository."""
    mapping = settings(root)["tool"]["setuptools"]["package-dir"]
    expected = {"skiptune": "skiptune"} | {f"skiptune.{room}": room for room in ROOMS}
    return sorted(f"{name} = {folder}" for name, folder in mapping.items() ^ expected.items())


def wrong_data(root: Path) -> list[str]:
    """Return the data files that no wheel would hold, and the patterns without a file."""
    patterns = {
        Path(*name.removeprefix("skiptune.").split(".")) / pattern
        for name, each in settings(root)["tool"]["setuptools"]["package-data"].items()
        for pattern in each
    }
    data = [path for path in files(root, INSTALLED, "*") if path.suffix not in (".py", ".pyc")]
    return [
        *(
            f"{p} is not in package-data"
            for p in data
            if not any(_matches(p, q) for q in patterns)
        ),
        *(
            f"{q} matches no file"
            for q in sorted(patterns)
            if not any(_matches(p, q) for p in data)
        ),
    ]


def _matches(path: Path, pattern: Path) -> bool:
    # As setuptools does it: a star does not cross a folder.
    return len(path.parts) == len(pattern.parts) and all(
        fnmatchcase(*pair) for pair in zip(path.parts, pattern.parts, strict=True)
    )


def undeclared_imports(root: Path, distributions: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the imports that no dependency declares.

    Arguments:
        root: The root of the tree.
        distributions: From top-level import names to the distributions that hold them. A name
            that is absent, e.g. of an extra that is not installed, stands for itself.
    """
    project = settings(root)["project"]
    core = _names(project["dependencies"])
    extras = {k: _names(v) for k, v in project.get("optional-dependencies", {}).items()}
    optional = core.union(*(names for extra, names in extras.items() if extra != "test"))
    declared = {
        **dict.fromkeys(INSTALLED, optional),
        **dict.fromkeys(NOT_INSTALLED, optional | extras.get("test", set())),
    }
    ours = {"skiptune", *NOT_INSTALLED}
    found = []
    for path in files(root):
        for item in imports(root, path):
            name = item.target.split(".")[0]
            if name in ours or name in sys.stdlib_module_names:
                continue
            if name in HOSTED.get(path.parent.as_posix(), ()):
                continue
            holders = {canonicalize_name(each) for each in distributions.get(name, [name])}
            if not holders & declared[path.parts[0]]:
                found.append(str(item))
    return found


def _names(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def wrong_requirements(root: Path) -> list[str]:
    """Return the requirements that are not exactly one lower bound, and twice declared ones."""
    found = []
    project = settings(root)["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        found += [text for text in group if not _is_lower_bound(Requirement(text))]
        names = [canonicalize_name(Requirement(text).name) for text in group]
        found += [f"{name} twice" for name in sorted(set(names)) if names.count(name) > 1]
    if [s.operator for s in Requirement(f"python{project['requires-python']}").specifier] != [
        ">="
    ]:
        found.append(f"requires-python {project['requires-python']}")
    return found


def _is_lower_bound(requirement: Requirement) -> bool:
    return requirement.url is None and [s.operator for s in requirement.specifier] == [">="]


def wrong_constraints(root: Path) -> list[str]:
    """Return the lines that are no plain pin, and the requirements without a pin that fits."""
    found: list[str] = []
    pins: dict[str, Version] = {}
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        name, equals, version = line.partition("==")
        # No path, address, hash, option or local build of a version ("+cpu").
        plain = equals and all(c.isalnum() or c in "-_.!" for c in name + version)
        if not plain or canonicalize_name(name) in {*pins, "skiptune"}:
            found.append(line)
        else:
            pins[canonicalize_name(name)] = Version(version)
    project = settings(root)["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        for requirement in map(Requirement, group):
            pin = pins.get(canonicalize_name(requirement.name))
            if pin is None or pin not in requirement.specifier:
                found.append(f"{requirement} has the pin {pin}")
    return found


def test_every_package_is_built() -> None:
    assert wrong_packages(ROOT) == []


def test_every_link_leads_to_its_room() -> None:
    assert wrong_links(ROOT) == []


def test_every_room_is_mapped() -> None:
    assert wrong_mapping(ROOT) == []


def test_every_data_file_is_built() -> None:
    assert wrong_data(ROOT) == []


def test_every_import_is_declared() -> None:
    assert undeclared_imports(ROOT, packages_distributions()) == []


def test_requirements_are_lower_bounds() -> None:
    assert wrong_requirements(ROOT) == []


def test_constraints_pin_every_requirement() -> None:
    assert wrong_constraints(ROOT) == []


def test_version_is_valid() -> None:
    import skiptune

    assert str(Version(skiptune.__version__)) == skiptune.__version__


# The guards can fail: in a small tree that is right, each thing is broken in turn.

PYPROJECT = """
[project]
requires-python = ">=3.11"
dependencies = ["numpy>=2.0", "PyYAML>=6.0"]
[project.optional-dependencies]
plot = ["matplotlib>=3.9"]
test = ["pytest>=8.4"]
[tool.setuptools]
packages = [
    "skiptune", "skiptune.sampling", "skiptune.objectives", "skiptune.storage", "skiptune.search",
]
[tool.setuptools.package-dir]
"skiptune" = "skiptune"
"skiptune.sampling" = "sampling"
"skiptune.objectives" = "objectives"
"skiptune.storage" = "storage"
"skiptune.search" = "search"
[tool.setuptools.package-data]
"skiptune" = ["py.typed"]
"skiptune.search" = ["presets/*.yaml"]
"""

DISTRIBUTIONS = {"numpy": ["numpy"], "yaml": ["PyYAML"], "pytest": ["pytest"]}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree in which nothing is wrong."""
    for folder in INSTALLED:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("import json\n")
    for room in ROOMS:
        (tmp_path / "skiptune" / room).symlink_to(Path("..", room))
    (tmp_path / "skiptune/py.typed").touch()
    (tmp_path / "search/presets").mkdir()
    (tmp_path / "search/presets/fashion.yaml").touch()
    (tmp_path / "search/spec.py").write_text("import yaml, skiptune.sampling\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_spec.py").write_text("import pytest, numpy.linalg\n")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "constraints.txt").write_text(
        "# pins\nnumpy==2.4.6\nPyYAML==6.0.3\nmatplotlib==3.11.1\npytest==9.2.0\nmpmath==1.3.0\n"
    )
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    """Replace text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_right_tree_passes(tree: Path) -> None:
    assert wrong_packages(tree) == []
    assert wrong_links(tree) == []
    assert wrong_mapping(tree) == []
    assert wrong_data(tree) == []
    assert undeclared_imports(tree, DISTRIBUTIONS) == []
    assert wrong_requirements(tree) == []
    assert wrong_constraints(tree) == []


def test_wrong_packages_are_found(tree: Path) -> None:
    (tree / "storage/migrations").mkdir()
    (tree / "storage/migrations/__init__.py").touch()
    (tree / "sampling/networks").mkdir()
    (tree / "sampling/networks/block.py").touch()
    (tree / "search/__init__.py").unlink()
    assert wrong_packages(tree) == [
        "skiptune.storage.migrations is not in packages",
        "skiptune.search has no folder with __init__.py",
        "sampling/networks has no __init__.py",
        "search has no __init__.py",
    ]


def test_wrong_links_are_found(tree: Path) -> None:
    for room in ROOMS:
        (tree / "skiptune" / room).unlink()
    (tree / "skiptune/sampling").symlink_to(tree / "sampling")
    (tree / "skiptune/objectives").symlink_to("../storage")
    shutil.copytree(tree / "storage", tree / "skiptune/storage")
    (tree / "skiptune/search").symlink_to("../searching")
    assert wrong_links(tree) == [
        "sampling: an absolute link",
        "objectives: leads to ../storage",
        "storage: no link",
        "search: leads to ../searching",
    ]


def test_a_wrong_mapping_is_found(tree: Path) -> None:
    edit(tree / "pyproject.toml", '"skiptune.search" = "search"\n', "")
    assert wrong_mapping(tree) == ["skiptune.search = search"]


def test_wrong_data_is_found(tree: Path) -> None:
    (tree / "objectives/assets").mkdir()
    (tree / "objectives/assets/fashion-train.safetensors").touch()
    (tree / "search/presets/fashion.yaml").rename(tree / "search/presets/fashion.yml")
    assert wrong_data(tree) == [
        "objectives/assets/fashion-train.safetensors is not in package-data",
        "search/presets/fashion.yml is not in package-data",
        "search/presets/*.yaml matches no file",
    ]


def test_undeclared_imports_are_found(tree: Path) -> None:
    (tree / "search/spec.py").write_text(
        "import scipy.linalg\n"  # installed by nobody's wish
        "import pytest\n"  # declared, for the tests only
        "import comfy_api\n"  # there in a node pack alone
        "def plot():\n    from matplotlib import pyplot\n"  # an extra
    )
    (tree / "tests/test_spec.py").write_text("import hypothesis, pytest, matplotlib\n")
    (tree / "integrations/comfyui").mkdir(parents=True)
    (tree / "integrations/comfyui/nodes.py").write_text("import comfy_api.latest, scipy\n")
    assert undeclared_imports(tree, DISTRIBUTIONS) == [
        "integrations/comfyui/nodes.py:1 imports scipy",
        "search/spec.py:1 imports scipy.linalg",
        "search/spec.py:2 imports pytest",
        "search/spec.py:3 imports comfy_api",
        "tests/test_spec.py:1 imports hypothesis",
    ]


@pytest.mark.parametrize(
    "requirement",
    ["numpy", "numpy==2.0", "numpy>=2.0,<3", "numpy<3", "numpy~=2.0", "numpy!=2.1"],
)
def test_a_requirement_without_one_lower_bound_is_found(tree: Path, requirement: str) -> None:
    edit(tree / "pyproject.toml", "numpy>=2.0", requirement)
    assert wrong_requirements(tree) == [requirement]


def test_an_upper_bound_of_python_is_found(tree: Path) -> None:
    edit(tree / "pyproject.toml", '">=3.11"', '">=3.11,<3.14"')
    assert wrong_requirements(tree) == ["requires-python >=3.11,<3.14"]


def test_a_requirement_declared_twice_is_found(tree: Path) -> None:
    edit(tree / "pyproject.toml", '"numpy>=2.0", "PyYAML>=6.0"', '"numpy>=2.0", "Numpy>=2.1"')
    assert wrong_requirements(tree) == ["numpy twice"]


@pytest.mark.parametrize(
    "line",
    [
        "scipy>=1.0",
        "torch==2.15.0+cpu",
        "scipy @ file:///wheels/scipy.whl",
        "-e ../skiptune",
        "--index-url https://packages.example/simple",
        "skiptune==0.1.0",
        "mpmath==1.4.0",
        "scipy==1.0 --hash=sha256:00",
    ],
)
def test_a_line_that_is_no_plain_pin_is_found(tree: Path, line: str) -> None:
    path = tree / "constraints.txt"
    path.write_text(f"{path.read_text()}{line}\n")
    assert wrong_constraints(tree) == [line]


def test_a_missing_or_old_pin_is_found(tree: Path) -> None:
    edit(tree / "constraints.txt", "numpy==2.4.6\n", "numpy==1.26.4\n")
    edit(tree / "constraints.txt", "pytest==9.2.0\n", "")
    assert wrong_constraints(tree) == [
        "numpy>=2.0 has the pin 1.26.4",
        "pytest>=8.4 has the pin None",
    ]
