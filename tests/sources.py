"""Read a source tree without running it: its files, and what each of them imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FOLDERS", "ROOMS", "Import", "files", "imports", "module_name"]

ROOMS = ("sampling", "objectives", "storage", "search")
"""Folders at the top of the repository that are installed as `skiptune.<room>`."""

FOLDERS = ("skiptune", *ROOMS, "tests", "training", "bench", "integrations")
"""Every folder that holds Python of ours."""


@dataclass(frozen=True)
class Import:
    """One imported name.

    Arguments:
        file: The importing file, relative to the root.
        line: The line of the statement, from 1.
        target: The dotted name, e.g. ``skiptune.errors.SpecError`` for
            ``from skiptune.errors import SpecError``.
    """

    file: Path
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"

    def within(self, *names: str) -> bool:
        """Tell whether the target is one of the dotted names or lies below one."""
        return any(self.target == name or self.target.startswith(f"{name}.") for name in names)


def files(root: Path, folders: Sequence[str] = FOLDERS, pattern: str = "*.py") -> list[Path]:
    """Return the files of the folders, relative to the root, each once.

    The links `skiptune/<room>` are not followed: a room's files are found under the room.
    """
    return sorted(
        path.relative_to(root)
        for folder in folders
        for path in (root / folder).rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    )


def module_name(path: Path) -> str:
    """Return the name a file is imported by: `search/space.py` is `skiptune.search.space`.

    Arguments:
        path: A Python file relative to the root.
    """
    parts = list(path.with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    if parts[0] in ROOMS:
        parts.insert(0, "skiptune")
    return ".".join(parts)


def imports(root: Path, path: Path) -> Iterator[Import]:
    """Yield everything that a file imports, wherever the statement stands.

    Imports inside functions and under `TYPE_CHECKING` count, and so do calls of
    `import_module` whose argument begins with literal text.

    Arguments:
        root: The root of the tree.
        path: A Python file relative to the root.
    """
    for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"), str(path))):
        match node:
            case ast.Import(names=names):
                targets = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                base = _resolve(path, module, level)
                targets = [base if a.name == "*" else f"{base}.{a.name}" for a in names]
            case ast.Call(func=ast.Name(id="import_module") | ast.Attribute(attr="import_module")):
                targets = [text] if (text := _leading_text(node)) else []
            case _:
                continue
        for target in targets:
            yield Import(path, node.lineno, target)


def _resolve(path: Path, module: str | None, level: int) -> str:
    if level == 0:
        return module or ""
    # `.` is the package of the file: for an __init__.py, the module itself.
    parts = module_name(path).split(".")
    up = level - (path.name == "__init__.py")
    return ".".join([*parts[: len(parts) - up], *([module] if module else [])])


def _leading_text(call: ast.Call) -> str:
    match call.args:
        case [ast.Constant(value=str(text)), *_]:
            return text
        case [ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]), *_]:
            return text.rstrip(".")
    return ""
