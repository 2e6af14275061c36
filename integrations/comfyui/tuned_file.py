"""Reading `tuned.json`, the file in which skiptune hands over tuned skip scales.

Nothing of skiptune is needed: the format is that of `skiptune.tuned`, version 1, whose JSON Schema
is `search/tuned.schema.json` in skiptune's repository. A file is read whole or refused with every
problem that was found. The hash beside the rows is computed anew: rows that were edited by hand,
or that mean more than is read here, do not match it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__ = ["FORMAT", "VERSION", "Row", "Setting", "TunedFile", "TunedFileError", "Window", "read"]

FORMAT = "skiptune.tuned"
VERSION = 1
BRANCHES = ("both", "cond", "uncond")

# Numbers of a setting that may be tuned together with scales, with what an absent key means.
_KNOBS = {
    "epsilon_scale": 1.0,
    "exponent": 7.0,
    "sigma_max": 80.0,
    "guidance": 1.0,
    "eta": 1.0,
    "churn.noise": 1.0,
}
_EXPORT = "export it again with `skiptune export STUDY -o tuned.json`"
_PARTS = (
    "this node scales whole skips before the concatenation and cannot reach one part of a block;"
    " fold the scales into a checkpoint instead: `skiptune export --format baked`"
)


class TunedFileError(ValueError):
    """A file that cannot be used, with every problem in a line of its own.

    Arguments:
        name: The file.
        problems: What is wrong.
        hint: What mends it.
    """

    def __init__(self, name: str, problems: Sequence[str], *, hint: str = _EXPORT) -> None:
        lines = [f"Skip-Tuning: {name} cannot be used", *(f"- {one}" for one in problems)]
        super().__init__("\n".join([*lines, f"Hint: {hint}"]))


@dataclass(frozen=True)
class Window:
    """Noise levels low <= sigma < high at which a skip is multiplied by `scale`.

    Arguments:
        low: A sigma of at least 0.
        high: A sigma, infinity for no upper end.
        scale: At least 0; 0 drops the skip.
    """

    low: float
    high: float
    scale: float


@dataclass(frozen=True)
class Row:
    """One skip; rows stand deepest first, as decoders use them.

    Arguments:
        address: The decoder block that receives the skip, as the tuned network calls it.
        main_channels: Channels of the main path.
        skip_channels: Channels of the skip.
        windows: Where it is scaled, not overlapping; outside them it is untouched.
    """

    address: str
    main_channels: int
    skip_channels: int
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Setting:
    """The setting that the scales were tuned at, as far as a sampler's node shows it.

    Arguments:
        solver: Its name in skiptune.
        steps: Its steps.
        guidance: The scale of guidance (cfg); 1 is none.
        ends_at_zero: Whether the last step goes to noise level 0.
        knobs: Numbers of the setting that were tuned together with the scales, by name.
    """

    solver: str
    steps: int
    guidance: float
    ends_at_zero: bool
    knobs: Mapping[str, float]


@dataclass(frozen=True)
class TunedFile:
    """What is read of a file.

    Arguments:
        study: The name of the study.
        network: The name of the network that was tuned.
        rows: Every skip of that network, deepest first.
        branches: ``both``, or the evaluations of guidance that are scaled: ``cond``, ``uncond``.
        setting: The setting that the scales were tuned at.
        verdict: What the confirmation said, in words.
    """

    study: str
    network: str
    rows: tuple[Row, ...]
    branches: str
    setting: Setting
    verdict: str

    @property
    def has_windows(self) -> bool:
        """Whether some scale depends on the noise level."""
        windows = [window for row in self.rows for window in row.windows]
        return any(window.low > 0 or window.high < math.inf for window in windows)


def read(path: Path | str) -> TunedFile:
    """Read a file.

    Raises:
        TunedFileError: It is missing, cut short, of another format or a newer version, edited by
            hand, or scales parts of blocks, which ComfyUI's hook for skips cannot do.
    """
    name = Path(path).name
    values = _json(Path(path), name)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else values
        raise TunedFileError(name, [f"format: expected {FORMAT}, found {_shown(found)}"])
    version = values.get("schema_version", VERSION)
    if _is_whole(version) and version > VERSION:
        problem = f"schema_version: expected at most {VERSION}, found {version}"
        raise TunedFileError(name, [problem], hint="update this node pack")
    if version != VERSION:
        raise TunedFileError(
            name, [f"schema_version: expected {VERSION}, found {_shown(version)}"]
        )
    reader = _Reader()
    tuned = reader.tuned(values)
    if tuned is None or reader.problems:
        raise TunedFileError(name, reader.problems)
    parts = [
        f"skips[{place}] ({row['address']}): scales its {part['part']} alone"
        for place, row in enumerate(values["skips"])
        for part in row.get("parts", [])
    ]
    if parts:
        raise TunedFileError(name, parts, hint=_PARTS)
    if values.get("schedule_sha256") != _digest(tuned):
        problem = "schedule_sha256: not the hash of the rows: the scales were edited by hand"
        hint = f"{_EXPORT}; to weaken them, use the node's strength"
        raise TunedFileError(name, [problem], hint=hint)
    return tuned


def _json(path: Path, name: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TunedFileError(name, [f"the file cannot be read: {error}"]) from None
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        found = "the end of the file" if not text[error.pos :].strip() else error.msg
        problem = f"line {error.lineno}: expected complete JSON, found {found}"
        raise TunedFileError(name, [problem]) from None
    except (ValueError, RecursionError) as error:
        problem = f"expected plain JSON, found {str(error).splitlines()[0]}"
        raise TunedFileError(name, [problem]) from None


class _Reader:
    """Reads plain data and collects what is wrong with it."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def tuned(self, values: Mapping[str, Any]) -> TunedFile | None:
        """Return what the file says; None or nonsense where there are problems."""
        skips = values.get("skips")
        if not isinstance(skips, list) or not skips:
            self._wrong("skips", "a list of the network's skips", skips)
            skips = []
        branches = values.get("branches", "both")
        if branches not in BRANCHES:
            self._wrong("branches", f"one of {', '.join(BRANCHES)}", branches)
        rows = [self._row(place, row) for place, row in enumerate(skips)]
        addresses = [row.address for row in rows if row is not None]
        for address in sorted({one for one in addresses if addresses.count(one) > 1}):
            self.problems.append(f"skips: {address} stands there twice")
        network = self._object("network", values.get("network"))
        setting = self._setting(values)
        found = (values.get("study"), network.get("name"))
        for where, text in zip(("study", "network.name"), found, strict=True):
            if not isinstance(text, str) or not text:
                self._wrong(where, "a name", text)
        if self.problems or setting is None:
            return None
        return TunedFile(
            study=str(found[0]),
            network=str(found[1]),
            rows=tuple(row for row in rows if row is not None),
            branches=branches,
            setting=setting,
            verdict=_verdict(values),
        )

    def _row(self, place: int, values: Any) -> Row | None:
        where = f"skips[{place}]"
        before = len(self.problems)
        row = self._object(where, values)
        address = row.get("address")
        if not isinstance(address, str) or not address:
            self._wrong(f"{where}.address", "a decoder block", address)
        if not _is_whole(row.get("index")) or row["index"] != place:
            self._wrong(
                f"{where}.index", f"{place}: every skip once, deepest first", row.get("index")
            )
        for key in ("main_channels", "skip_channels"):
            if not _is_whole(row.get(key)) or row[key] < 1:
                self._wrong(f"{where}.{key}", "a whole number of at least 1", row.get(key))
        windows = self._windows(where, row)
        parts = row.get("parts", [])
        if not isinstance(parts, list):
            self._wrong(f"{where}.parts", "a list", parts)
            parts = []
        for number, part in enumerate(parts):
            if not isinstance(self._object(f"{where}.parts[{number}]", part).get("part"), str):
                self._wrong(f"{where}.parts[{number}].part", "the name of a part", part)
        if len(self.problems) > before:
            return None
        return Row(str(address), row["main_channels"], row["skip_channels"], tuple(windows))

    def _windows(self, where: str, row: Mapping[str, Any]) -> list[Window]:
        scale = self._number(f"{where}.scale", row.get("scale"))
        listed = row.get("windows", [])
        if not isinstance(listed, list):
            self._wrong(f"{where}.windows", "a list", listed)
            listed = []
        if listed and scale not in (None, 1):
            self._wrong(f"{where}.windows", "no windows where `scale` is not 1", listed)
        if not listed:
            return [] if scale in (None, 1) else [Window(0.0, math.inf, float(scale or 0))]
        windows = []
        for number, values in enumerate(listed):
            here = f"{where}.windows[{number}]"
            window = self._object(here, values)
            low = self._number(f"{here}.low", window.get("low"))
            own = self._number(f"{here}.scale", window.get("scale"))
            high: float | None = math.inf
            if "high" not in window or window["high"] is not None:
                high = self._number(f"{here}.high", window.get("high"))
            if low is None or high is None or own is None:
                continue
            if low > high:
                self._wrong(here, "low below high", values)
            windows.append(Window(low, high, own))
        windows = sorted(windows, key=lambda window: (window.low, window.high))
        windows = [window for window in windows if window.low < window.high]
        for one, two in pairwise(windows):
            if two.low < one.high:
                found = f"{one.low}..{one.high} and {two.low}..{two.high}"
                self.problems.append(f"{where}.windows: expected none that overlap, found {found}")
        return [window for window in windows if window.scale != 1]

    def _setting(self, values: Mapping[str, Any]) -> Setting | None:
        setting = self._object("setting", values.get("setting"))
        solver, steps = setting.get("solver", "dpmpp_2m"), setting.get("steps", 6)
        if not isinstance(solver, str):
            self._wrong("setting.solver", "a name", solver)
        if not _is_whole(steps) or steps < 1:
            self._wrong("setting.steps", "a whole number of at least 1", steps)
        guidance = self._number("setting.guidance", setting.get("guidance", 1.0))
        knobs = {}
        untouched = values.get("untouched_setting")
        if untouched is not None:
            before = self._object("untouched_setting", untouched)
            for knob in _KNOBS:
                now, then = _at(setting, knob), _at(before, knob)
                if now != then:
                    number = self._number(f"setting.{knob}", now)
                    knobs[knob] = math.nan if number is None else number
        if guidance is None:
            return None
        ends = setting.get("final_zero", True) is True
        return Setting(str(solver), steps, guidance, ends, knobs)

    def _object(self, where: str, values: Any) -> Mapping[str, Any]:
        if isinstance(values, dict):
            return values
        self._wrong(where, "an object", values)
        return {}

    def _number(self, where: str, value: Any) -> float | None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and math.isfinite(value) and value >= 0:
            return float(value)
        self._wrong(where, "a finite number of at least 0", value)
        return None

    def _wrong(self, where: str, expected: str, found: Any) -> None:
        self.problems.append(f"{where}: expected {expected}, found {_shown(found)}")


def _digest(tuned: TunedFile) -> str:
    """Return the hash of the schedule as skiptune has it: of its terms in canonical order."""
    terms: list[dict[str, Any]] = []
    for row in sorted(tuned.rows, key=lambda row: row.address):
        joined: list[Window] = []
        for window in row.windows:
            last = joined[-1] if joined else None
            if last is not None and (last.scale, last.high) == (window.scale, window.low):
                joined[-1] = Window(last.low, window.high, last.scale)
            else:
                joined.append(window)
        for window in joined:
            term: dict[str, Any] = {"address": row.address, "scale": _hex(window.scale)}
            if window.low > 0:
                term["low"] = _hex(window.low)
            if window.high < math.inf:
                term["high"] = _hex(window.high)
            terms.append(term)
    plain: dict[str, Any] = {"terms": terms}
    if tuned.branches != "both" and terms:
        plain["branches"] = tuned.branches
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _hex(value: float) -> str:
    return (value + 0.0).hex()


def _verdict(values: Mapping[str, Any]) -> str:
    verdict = values.get("verdict")
    if not isinstance(verdict, dict) or not isinstance(verdict.get("verdict"), str):
        return "no verdict in the file"
    text = str(verdict["verdict"])
    gain, interval = verdict.get("gain"), verdict.get("interval")
    if isinstance(gain, float) and isinstance(interval, list) and len(interval) == 2:
        text += f" ({gain:+.1f} % [{interval[0]:.1f}, {interval[1]:.1f}])"
    return text


def _at(setting: Mapping[str, Any], knob: str) -> Any:
    value: Any = setting
    for key in knob.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return _KNOBS[knob] if value is None else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {_shown(key)} twice in one object")
        values[key] = value
    return values


def _no_constant(text: str) -> float:
    raise ValueError(f"the number {text}")
