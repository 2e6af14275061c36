"""A YAML study file as plain data that remembers on which line each key stands.

The dialect is the YAML 1.2 core schema, one document, text keys, no aliases, no tags: `1e-3` is
a number (YAML 1.1 reads text), `no` and `2026-11-01` are text (YAML 1.1 reads False and a date).
Nothing in a document can name a Python object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from skiptune.errors import Problem, SpecError

__all__ = ["Document", "dotted", "parse_plain", "parse_yaml", "read_text", "shown"]

Path_ = tuple[str | int, ...]

MAX_BYTES = 1_000_000  # a study file is one screen; more is the wrong file


@dataclass(frozen=True)
class Document:
    """Plain data and where it came from.

    Arguments:
        name: The file or preset, for messages.
        values: Nested dict, list, str, int, float, bool, None.
        lines: The line (from 1) of every key and list item, by path.
        problems: What is wrong already: duplicate keys, keys that are not text, tags.
        overrides: The option text of every path that an override has set.
    """

    name: str
    values: dict[str, Any]
    lines: Mapping[Path_, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    overrides: Mapping[Path_, str] = field(default_factory=dict)

    def where(self, path: Path_) -> str:
        """Return how a person finds a path: `study.yaml:12: space.low` or `-s space.low`."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.overrides:
                rest = path[end:]
                return self.overrides[path[:end]] + (f": {dotted(path)}" if rest else "")
        if path and path not in self.lines:
            # A mapping that only an override has brought in.
            for key, option in self.overrides.items():
                if key[: len(path)] == path:
                    return option
        line = next(
            (
                self.lines[path[:end]]
                for end in range(len(path), 0, -1)
                if path[:end] in self.lines
            ),
            None,
        )
        place = self.name if line is None else f"{self.name}:{line}"
        return f"{place}: {dotted(path)}" if path else place

    def is_overridden(self, path: Path_) -> bool:
        """Return whether an override has set this path or a mapping around it."""
        return any(path[:end] in self.overrides for end in range(1, len(path) + 1))

    def overridden(
        self,
        overrides: Iterable[str],
        *,
        replacing: Mapping[Path_, Sequence[Path_]] | None = None,
    ) -> Document:
        """Return the document with `KEY=VALUE` settings applied in turn; a later one wins.

        Arguments:
            overrides: Texts such as ``space.low=0.7``; the value is read as YAML.
            replacing: Keys that say the same as another one in other words: an override of the
                first, unless it is null, takes the others out of the document.

        Raises:
            SpecError: For every text that is not a dotted key, `=` and a YAML value.
        """
        values = _copied(self.values)
        origins = dict(self.overrides)
        problems: list[Problem] = []
        for text in overrides:
            key, equals, value_text = text.partition("=")
            keys = tuple(key.strip().split("."))
            option = f"-s {key.strip()}"
            if not equals or not all(keys):
                problems.append(
                    Problem(f"-s {text}", "KEY=VALUE, e.g. space.low=0.7", shown(text))
                )
                continue
            try:
                value, _, faults = _parsed(value_text, name=option)
            except SpecError as error:
                problems.extend(error.problems)
                continue
            problems.extend(faults)
            target = values
            for step in keys[:-1]:
                inner = target.get(step)
                if not isinstance(inner, dict):
                    inner = target[step] = {}
                target = inner
            target[keys[-1]] = value
            # What an earlier option set inside this key is gone, and so is its origin.
            origins = {path: o for path, o in origins.items() if path[: len(keys)] != keys}
            origins[keys] = option
        if problems:
            raise SpecError.of(problems, hint="write -s KEY=VALUE with a YAML value")
        for path, others in (replacing or {}).items():
            given = any(path[:end] in origins for end in range(1, len(path) + 1))
            if given and _at(values, path) is not None:
                for other in others:
                    # What stands beside it on the command line is a contradiction, not replaced.
                    if not any(other[:end] in origins for end in range(1, len(other) + 1)):
                        _at(values, other[:-1]).pop(other[-1], None)
        return Document(self.name, values, self.lines, self.problems, origins)


def read_text(path: Path, *, hint: str) -> str:
    """Read a small UTF-8 text file.

    Arguments:
        path: The file.
        hint: What to do when it cannot be read.

    Raises:
        SpecError: When the file is missing, a folder, unreadable, too large or not text.
    """
    where = str(path)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except FileNotFoundError:
        raise SpecError(where, expected="a file", found="no such file", hint=hint) from None
    except IsADirectoryError:
        raise SpecError(where, expected="a file", found="a folder", hint=hint) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise SpecError(where, expected="a readable file", found=reason, hint=hint) from None
    if size > MAX_BYTES:
        raise SpecError(
            where, expected=f"at most {MAX_BYTES:,} bytes", found=f"{size:,} bytes", hint=hint
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"binary data (byte 0x{data[error.start]:02x} at offset {error.start})"
        raise SpecError(where, expected="UTF-8 text", found=found, hint=hint) from None


def parse_yaml(text: str, *, name: str) -> Document:
    """Read one YAML document whose top level is a mapping.

    Arguments:
        text: The document.
        name: The file or preset, for messages.

    Raises:
        SpecError: When the text is not YAML, empty, or not a mapping. Faults that leave the rest
            readable (a duplicate key) are kept as the document's problems.
    """
    hint = "see a commented study file with `skiptune init study.yaml`"
    value, lines, faults = _parsed(text, name=name)
    if not isinstance(value, dict):
        found = "an empty file" if value is None else shown(value)
        raise SpecError(name, expected="a mapping of keys to values", found=found, hint=hint)
    return Document(name, value, lines, tuple(faults))


def parse_plain(text: str, *, name: str) -> tuple[Any, Document]:
    """Read one YAML document of any kind, also a list.

    Arguments:
        text: The document.
        name: The file, for messages.

    Returns:
        The value, and what remembers its lines and faults (without the value).

    Raises:
        SpecError: When the text is not YAML.
    """
    value, lines, faults = _parsed(text, name=name)
    return value, Document(name, {}, lines, tuple(faults))


def dotted(path: Path_) -> str:
    """Return `space.skips[2]` for ("space", "skips", 2)."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def shown(value: Any, *, width: int = 70) -> str:
    """Return a value as a person would write it in a study file, cut to `width` characters."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= width else f"{text[: width - 3]}..."


class _Loader(yaml.SafeLoader):
    """Nodes of the YAML 1.2 core schema, without aliases."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "an alias (*name)", mark)
        return super().compose_node(parent, index)


# YAML 1.2.2, section 10.3.2, without octal and hexadecimal integers.
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(rf"^(?:{_pattern})$"),
        ["" if c == "\0" else c for c in _first],
    )


def _parsed(text: str, *, name: str) -> tuple[Any, dict[Path_, int], list[Problem]]:
    """Return the value, the lines of its keys, and the faults that leave the rest readable."""
    hint = "mend the YAML syntax there"
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            lines: dict[Path_, int] = {}
            faults: list[Problem] = []
            value = None if root is None else _value(root, (), name, lines, faults)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name if mark is None else f"{name}:{mark.line + 1}"
        found = error.problem or "a syntax error"
        raise SpecError(where, expected="one YAML document", found=found, hint=hint) from None
    except yaml.YAMLError as error:
        found = str(error).splitlines()[0]
        raise SpecError(name, expected="one YAML document", found=found, hint=hint) from None
    except RecursionError:
        found = "values nested too deeply"
        raise SpecError(name, expected="one YAML document", found=found, hint=hint) from None
    return value, lines, faults


def _value(
    node: Any, path: Path_, name: str, lines: dict[Path_, int], faults: list[Problem]
) -> Any:
    place = f"{name}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str" or key_node.id != "scalar":
                found = shown(key_node.value) if key_node.id == "scalar" else f"a {key_node.id}"
                faults.append(
                    Problem(f"{name}:{line}: {dotted(path)}", "keys that are text", found)
                )
                continue
            key = str(key_node.value)
            inner = (*path, key)
            if inner in lines:
                found = f"`{key_node.value}` again (first on line {lines[inner]})"
                faults.append(Problem(f"{name}:{line}: {dotted(inner)}", "each key once", found))
                continue
            lines[inner] = line
            mapping[key] = _value(value_node, inner, name, lines, faults)
        return mapping
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        items: list[Any] = []
        for index, item_node in enumerate(node.value):
            inner = (*path, index)
            lines[inner] = item_node.start_mark.line + 1
            items.append(_value(item_node, inner, name, lines, faults))
        return items
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    try:
        if isinstance(node, yaml.ScalarNode):
            if kind == "str":
                return str(node.value)
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[node.value.lower()]
            if kind == "int":
                return int(node.value)
            if kind == "float":
                return float(re.sub(r"\.(inf|nan)", r"\1", node.value.lower()))
    except (KeyError, ValueError):
        pass
    faults.append(Problem(f"{place}: {dotted(path)}", "a value without a tag", f"{node.tag}"))
    return None


def _at(values: Any, path: Path_) -> Any:
    """Return the value at a path, None where there is none."""
    for step in path:
        if not isinstance(values, dict):
            return None
        values = values.get(step)
    return values


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_copied(item) for item in value]
    return value
