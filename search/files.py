"""The files of a study, known by their content: found on any host, or fetched there once.

A study is created on one host and worked on by others that know only the database and the
study's name. What its spec names by path (checkpoint, extractor weights, reference) is therefore
remembered as a `SourceFile`: name, size and SHA-256. A path is a guess and an address is a
promise; a file is used only after its bytes have been hashed on this host. A checkpoint may be the
folder of a pipeline of diffusers, and models that read prompts are folders: known by the hash of
those of their files that decide what is computed, found by path or name, never fetched.

A download goes into the cache and resumes where it was interrupted (`downloads`), under a lock
that one process of a host holds at a time.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skiptune.canonical import file_digest
from skiptune.errors import NetworkError, ObjectiveError, Problem, SkiptuneError, StorageError
from skiptune.objectives.clip_files import clip_files
from skiptune.sampling.pipeline_files import content_digest, folder_name
from skiptune.search.document import shown
from skiptune.search.downloads import (
    TIMEOUT,
    DownloadError,
    OnBytes,
    alone,
    bring,
    cache_folder,
    without_secrets,
    writable,
)
from skiptune.search.sections import is_file
from skiptune.search.spec import FILE_KEYS, StudySpec

__all__ = [
    "PATH",
    "URL_KEYS",
    "Fetch",
    "SourceFile",
    "locate",
    "located",
    "sources_of",
]

URL_KEYS = {
    "network.checkpoint": "network.url",
    "network.decoder.vae": "network.decoder.url",
    "network.decoder.config": "network.decoder.config_url",
    "network.prompts": "network.prompts_url",
    "objective.weights": "objective.weights_url",
    "objective.reference": "objective.reference_url",
    "objective.images": "objective.images_url",
}
"""The key of a spec that holds a file's address, for each key that holds a file."""

PATH = "SKIPTUNE_PATH"

_KEYS = tuple(map(".".join, FILE_KEYS))


def _clip_digest(folder: str | Path) -> tuple[str, int]:
    return clip_files(folder).digest()


# What may be a folder: the kind of thing, and its hash and size.
_FOLDERS: dict[str, tuple[str, Callable[[str | Path], tuple[str, int]]]] = {
    "network.checkpoint": ("pipeline", content_digest),
    "objective.clip_model": ("model", _clip_digest),
    "objective.pick_model": ("model", _clip_digest),
}


@dataclass(frozen=True)
class SourceFile:
    """A file that a study needs, known by its content.

    Arguments:
        key: The spec's key that names it, one of `FILE_KEYS`.
        name: Its name without folder.
        sha256: Of its bytes, 64 lower-case hexadecimal digits; of a pipeline that of
            `pipeline_files.content_digest`, of a CLIP model that of `CLIPFiles.digest`.
        bytes: Its size.
        url: Where it can be fetched (http, https, file), or None.
        path: Where it lay on the host that created the study: a guess.
    """

    key: str
    name: str
    sha256: str
    bytes: int
    url: str | None
    path: str

    @property
    def suffix(self) -> str:
        """The end of its name, e.g. ``.safetensors``: loaders ask for it."""
        return Path(self.name).suffix

    def to_json(self) -> dict[str, Any]:
        """Return the file as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SourceFile:
        """Read what `to_json` gave; keys of later versions are left out.

        Raises:
            StorageError: With every field that is missing or wrong.
        """
        problems = [
            Problem(f"a stored file of the study: {name}", expected, shown(values.get(name)))
            for name, (expected, accepts) in _FIELDS.items()
            if name not in values or not accepts(values[name])
        ]
        if problems:
            raise StorageError.of(problems, hint="create the study anew: this row is damaged")
        return cls(**{name: values[name] for name in _FIELDS})


Fetch = Callable[[SourceFile], bytes | None]
"""Asks the study's own store for a file: its bytes, or None where the store has none."""

_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "key": (f"one of {', '.join(_KEYS)}", lambda v: isinstance(v, str) and v in _KEYS),
    "name": (
        "a file's name without folder",
        lambda v: isinstance(v, str) and v not in ("", ".", "..") and not {"/", "\0"} & set(v),
    ),
    "sha256": (
        "64 lower-case hexadecimal digits",
        lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None,
    ),
    "bytes": ("a whole number of at least 0", lambda v: type(v) is int and v >= 0),
    "url": ("an address or null", lambda v: v is None or isinstance(v, str)),
    "path": ("a path", lambda v: isinstance(v, str) and "\0" not in v),
}


def sources_of(
    spec: StudySpec, *, urls: Mapping[str, str | None] | None = None
) -> tuple[SourceFile, ...]:
    """Hash every file that a spec names.

    Arguments:
        spec: The study.
        urls: Where files can be fetched, by the key of the file, e.g. ``network.checkpoint``.

    Returns:
        One entry per key that holds a path, in the order of the spec; what is bundled under a
        bare name, and null, are not files.

    Raises:
        NetworkError: The checkpoint cannot be read.
        ObjectiveError: Weights or reference cannot be read.
    """
    sources = []
    for key in _KEYS:
        text = _named(spec, key)
        if text is None:
            continue
        if key in _FOLDERS and (os.path.isdir(text) or key not in URL_KEYS):
            sha256, size = _FOLDERS[key][1](text)
            sources.append(SourceFile(key, folder_name(text), sha256, size, None, text))
            continue
        try:
            with open(text, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                # What was hashed, also where somebody is still writing to the file.
                size = file.tell()
        except OSError as error:
            raise _kind(key)(
                f"{key}: {text}",
                expected="the path of a file that can be read",
                found=error.strerror or str(error),
                hint=f"check the path; an address goes into `{URL_KEYS[key]}`",
            ) from error
        sources.append(SourceFile(key, Path(text).name, sha256, size, (urls or {}).get(key), text))
    return tuple(sources)


def locate(
    source: SourceFile,
    *,
    study: str = "NAME",
    fetch: Fetch | None = None,
    timeout: float = TIMEOUT,
    on_bytes: OnBytes | None = None,
) -> Path:
    """Return where a file lies on this host, after fetching it if need be.

    Looked at in this order: the path on the creating host, the folders of `SKIPTUNE_PATH`, the
    cache, the study's store, the address. What has another hash is never used.

    Arguments:
        source: The file.
        study: The study's name, for messages.
        fetch: Asks the study's store; what it raises passes through.
        timeout: Seconds of silence after which a download is given up.
        on_bytes: Called as bytes arrive from store or address.

    Raises:
        NetworkError: The checkpoint is nowhere; the message names all places.
        ObjectiveError: Weights or reference are nowhere.
        StorageError: The file could be fetched, and the cache cannot be written.
        DiskFullError: The same, for want of space.
    """
    paths = _find([source], study=study, fetch=fetch, timeout=timeout, on_bytes=on_bytes)
    return paths[source]


def located(
    spec: StudySpec,
    sources: Sequence[SourceFile],
    *,
    fetch: Fetch | None = None,
    timeout: float = TIMEOUT,
    on_bytes: OnBytes | None = None,
) -> StudySpec:
    """Return a spec whose files are those of this host, and which is otherwise the same.

    Arguments:
        spec: The study as it was created.
        sources: Its files, from `sources_of`; one whose key names no file any more is left out.
        fetch, timeout, on_bytes: See `locate`.

    Raises:
        SkiptuneError: Like `locate`; of several missing files at once, as the first one's kind.
    """
    named = [source for source in sources if _named(spec, source.key) is not None]
    paths = _find(named, study=spec.study, fetch=fetch, timeout=timeout, on_bytes=on_bytes)
    for source, path in paths.items():
        spec = spec.replaced(source.key, str(path))
    return spec


def _named(spec: StudySpec, key: str) -> str | None:
    """Return the path that a key of the spec holds; None for a bundled name and for null."""
    text: str | None = spec.value(key)
    return text if text is not None and is_file(text) else None


def _kind(key: str) -> type[SkiptuneError]:
    return NetworkError if key.startswith("network.") else ObjectiveError


def _find(
    sources: Sequence[SourceFile],
    *,
    study: str,
    fetch: Fetch | None,
    timeout: float,
    on_bytes: OnBytes | None,
) -> dict[SourceFile, Path]:
    """Locate files; those that are nowhere are told of together."""
    paths: dict[SourceFile, Path] = {}
    missing: dict[SourceFile, Problem] = {}
    for source in sources:
        notes: list[str] = []
        path = _look(source, notes)
        if path is None:
            path = _receive(source, notes, fetch=fetch, timeout=timeout, on_bytes=on_bytes)
        if path is not None:
            paths[source] = path
        else:
            missing[source] = Problem(
                f"{source.key}: {source.name} (sha256 {source.sha256[:12]}...)",
                f"a file of {source.bytes} bytes with this SHA-256 on this host",
                "; ".join(notes),
            )
    if missing:
        lacking = (source.key for source in missing if source.url is None)
        keys = ", ".join(f"`{URL_KEYS[key]}`" for key in lacking if key in URL_KEYS)
        other = f"give the study its address ({keys})" if keys else "see that its url brings it"
        if all(source.key not in URL_KEYS for source in missing):
            other = "fetch it from the hub, as on the host that created the study"
        raise _kind(next(iter(missing)).key).of(
            list(missing.values()),
            hint=f"put it into a folder of {PATH}, e.g. "
            f"`{PATH}=/data/checkpoints skiptune worker {study}`, or {other}; "
            "this worker refuses, the study goes on elsewhere",
        )
    return paths


def _look(source: SourceFile, notes: list[str]) -> Path | None:
    """Look at the creating host's path and at `SKIPTUNE_PATH`."""
    path = Path(source.path)
    fault = _fault(path, source)
    if fault is None:
        return path.absolute()
    notes.append(fault)
    folders = [text for text in os.environ.get(PATH, "").split(os.pathsep) if text]
    if not folders:
        notes.append(f"{PATH} names no folder")
    for folder in (Path(os.path.expanduser(text)).absolute() for text in folders):
        others = []
        # An empty suffix makes the last two the same.
        for name in dict.fromkeys((source.name, source.sha256, source.sha256 + source.suffix)):
            fault = _fault(folder / name, source)
            if fault is None:
                return folder / name
            if os.path.lexists(folder / name):
                others.append(fault)
        notes += others or [f"{'nothing in' if folder.is_dir() else 'no folder'} {folder}"]
    return None


def _fault(path: Path, source: SourceFile) -> str | None:
    """Return why a path is not the file; None where its bytes are those of the file."""
    kind = "another file of this name" if path.name == source.name else "a damaged copy"
    try:
        status = path.stat()
        if source.key in _FOLDERS and stat.S_ISDIR(status.st_mode):
            what, digest = _FOLDERS[source.key]
            found, size = digest(path)
            if size != source.bytes:
                return f"another {what}: {path} ({size} bytes)"
            return None if found == source.sha256 else f"{kind}: {path} (sha256 {found[:12]}...)"
        # Hashing a pipe or a device may never end.
        if not stat.S_ISREG(status.st_mode):
            return f"no file but something else: {path}"
        if status.st_size != source.bytes:
            return f"{kind}: {path} ({status.st_size} bytes)"
        found = file_digest(path)
    except (FileNotFoundError, NotADirectoryError):
        return f"no file {path}"
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    except (NetworkError, ObjectiveError) as error:  # a folder of something else
        return f"{path}: {error.problems[0].found}"
    return None if found == source.sha256 else f"{kind}: {path} (sha256 {found[:12]}...)"


def _receive(
    source: SourceFile,
    notes: list[str],
    *,
    fetch: Fetch | None,
    timeout: float,
    on_bytes: OnBytes | None,
) -> Path | None:
    """Take the file from the cache, or bring it there from the study's store or its address."""
    files = cache_folder() / "files"
    path = files / source.sha256[:2] / f"{source.sha256}{source.suffix}"
    fault = _fault(path, source)
    if fault is None:
        return path
    notes.append(fault if os.path.lexists(path) else f"nothing in the cache {files.parent}")
    if source.url is None:
        notes.append("no url")
        if fetch is None:
            return None
    with alone(files / f"{source.sha256}.lock", source.name, source.bytes):
        if _fault(path, source) is None:
            return path
        with writable(source.name, source.bytes):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Nobody else writes under the lock: these are of processes that were killed.
            for left in path.parent.glob(f".{source.sha256}*.tmp"):
                left.unlink(missing_ok=True)
        if fetch is not None:
            data = fetch(source)
            fault = "nothing" if data is None else _store(path, data, source, on_bytes=on_bytes)
            if fault is None:
                return path
            notes.append(f"the study's store: {fault}")
        if source.url is not None:
            try:
                bring(
                    source.url,
                    path,
                    sha256=source.sha256,
                    size=source.bytes,
                    timeout=timeout,
                    on_bytes=on_bytes,
                )
                return path
            except DownloadError as error:
                notes.append(f"{without_secrets(source.url)}: {error}")
    return None


def _store(path: Path, data: bytes, source: SourceFile, *, on_bytes: OnBytes | None) -> str | None:
    """Write bytes to a path if they are the file; else return why not, and leave nothing."""
    if len(data) > source.bytes:
        return f"another file, of more than {source.bytes} bytes"
    if (found := hashlib.sha256(data).hexdigest()) != source.sha256:
        return f"another file, of {len(data)} bytes (sha256 {found[:12]}...)"
    if on_bytes is not None:
        on_bytes(len(data), source.bytes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with writable(source.name, source.bytes):
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return None
