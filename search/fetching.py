"""What a study names by path and does not have here: told at once, and fetched when asked.

A study file may hold the address of each of its files (`network.url`, `network.pickle_url`,
`objective.weights_url`, ...). `skiptune fetch` brings those that are missing; nothing else does,
but for a worker of a stored study, whose creator has given the addresses. A file that has arrived
is also found by its content from then on (`files.locate`), by any worker of this host.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from skiptune.canonical import file_digest
from skiptune.errors import (
    NetworkError,
    ObjectiveError,
    OutputError,
    Problem,
    SkiptuneError,
    quoted,
)
from skiptune.objectives.names import (
    DINOV2,
    DINOV2_SHA256,
    INCEPTION_LAYERS,
    INCEPTION_SHA256,
)
from skiptune.sampling.first_stage import stage_files
from skiptune.sampling.options import config_of
from skiptune.sampling.pipeline_files import hub_place, may_be_on_hub
from skiptune.search.downloads import (
    DownloadError,
    OnBytes,
    alone,
    cache_folder,
    cached,
    forget,
    without_secrets,
    writable,
)
from skiptune.search.files import URL_KEYS
from skiptune.search.sections import is_file
from skiptune.search.spec import StudySpec

__all__ = [
    "Arrived",
    "Missing",
    "fetch",
    "missing_error",
    "missing_files",
    "refuse_missing",
    "retry_hint",
]

# What published weights hash to, for studies that do not say it themselves.
_WEIGHTS = {DINOV2: DINOV2_SHA256} | dict.fromkeys(INCEPTION_LAYERS.values(), INCEPTION_SHA256)

# Where a study says what a file must hash to.
_SHA256_KEYS = {
    "network.checkpoint": "network.sha256",
    "network.decoder.vae": "network.decoder.sha256",
    "objective.weights": "objective.weights_sha256",
}

Convert = Callable[[Path, Path], Path]
"""Makes a checkpoint of a pickle: its path, the path of the checkpoint, what was written."""


@dataclass(frozen=True)
class Missing:
    """A file that a study names and that is not there.

    Arguments:
        key: The spec's key, e.g. ``network.checkpoint``.
        path: Where it belongs.
        url: Where it can be had, or None.
        sha256: What it must hash to, where somebody says so.
        is_pickle: Whether the address brings a pickle of EDM or EDM2, or a file of tensors, to be
            converted.
    """

    key: str
    path: Path
    url: str | None
    sha256: str | None
    is_pickle: bool = False

    def problem(self, source: str) -> Problem:
        """Return what is wrong, for a person."""
        name = "/".join(self.path.parts[-2:])
        if self.url is None and self.key == "network.checkpoint" and may_be_on_hub(self.path):
            place = hub_place(name)
            found = f"no such file, and no {name} of the hub in {place}: `hf download {name}`"
        elif self.url is None:
            found = f"no such file, and no address (`{URL_KEYS[self.key]}`)"
        else:
            made = "is made from" if self.is_pickle else "comes from"
            found = f"no such file; it {made} {without_secrets(self.url)}"
        return Problem(f"{source}: {self.key}", f"the file {self.path}", found)


@dataclass(frozen=True)
class Arrived:
    """A file that was fetched.

    Arguments:
        key: The spec's key that names it.
        path: Where it lies now.
        url: Where it, or the pickle it is made from, came from, without secrets.
        sha256: Of its bytes, 64 hexadecimal digits.
        checked: Whether this hash was known before.
    """

    key: str
    path: Path
    url: str
    sha256: str
    checked: bool


def missing_files(spec: StudySpec) -> tuple[Missing, ...]:
    """Return the files that a spec names by path and that are not there, in the spec's order."""
    found = []
    converted = _converted(spec)
    for key in URL_KEYS:
        text = spec.value(key)
        if text is None or not is_file(text) or "://" in text or os.path.lexists(text):
            continue
        url = spec.value(URL_KEYS[key])
        sha256 = spec.value(_SHA256_KEYS[key]) if key in _SHA256_KEYS else None
        is_pickle = url is None and Path(text) in converted
        if is_pickle:
            url = spec.network.pickle_url
        if key == "objective.weights":
            sha256 = sha256 or _WEIGHTS.get(spec.objective.extractor or "")
        found.append(Missing(key, Path(text), url, sha256, is_pickle and url is not None))
    return tuple(found)


def _converted(spec: StudySpec) -> tuple[Path, ...]:
    """Return what is made of the file at `network.pickle_url`: a network, and its first stage."""
    network = spec.network
    if network.pickle_url is None:
        return ()
    own = network.options
    described = None if own is None else config_of(own, where="network.options")
    stage = described is not None and described.stage is not None
    return (Path(network.checkpoint), *(stage_files(network.checkpoint) if stage else ()))


def missing_error(missing: Sequence[Missing], *, source: str, command: str) -> SkiptuneError:
    """Return one error that tells of all missing files.

    Arguments:
        missing: At least one file.
        source: Name of the study file, for messages.
        command: The command line that fetches those with an address.
    """
    hint = f"fetch what is missing: `{command}`"
    without = [one for one in missing if one.url is None]
    if without:
        keys = ", ".join(f"`{URL_KEYS[one.key]}`" for one in without)
        other = f"give the path of a file that is there, or its address ({keys})"
        hint = other if len(without) == len(missing) else f"{hint}; for the others {other}"
    return _kind(missing[0].key).of([one.problem(source) for one in missing], hint=hint)


def refuse_missing(spec: StudySpec, *, source: str) -> None:
    """Refuse a study of which files are missing that can be fetched.

    Where none of them has an address, whoever reads the file says best what is wrong with it.

    Arguments:
        spec: The study.
        source: Name of the file that it came from: what `skiptune fetch` is to be given.

    Raises:
        SkiptuneError: Naming all missing files, and the command that fetches them.
    """
    missing = missing_files(spec)
    if any(one.url is not None for one in missing):
        raise missing_error(missing, source=source, command=f"skiptune fetch {quoted(source)}")


def fetch(
    one: Missing, *, convert: Convert, on_bytes: OnBytes | None = None, source: str = "spec"
) -> Arrived:
    """Bring a missing file to its place.

    It is downloaded into the cache, compared with its hash where that is known, converted where it
    is a pickle, and linked or copied to where the study looks for it.

    Arguments:
        one: The file, which has an address.
        convert: For pickles.
        on_bytes: Called as bytes arrive.
        source: Name of the study file, for messages.

    Raises:
        SkiptuneError: The address does not bring the file, or it cannot be written to its place.
            What has arrived of it is kept: the same call goes on from there.
    """
    assert one.url is not None
    shown = without_secrets(one.url)
    try:
        # The pickle's own hash is not the checkpoint's.
        expected = None if one.is_pickle else one.sha256
        got = cached(one.url, sha256=expected, on_bytes=on_bytes)
    except DownloadError as error:
        raise _kind(one.key)(
            f"{source}: {one.key}: {shown}",
            expected="an address that brings the file",
            found=str(error),
            hint=retry_hint(error) + ("" if one.is_pickle else f", or put the file at {one.path}"),
        ) from error
    if not one.is_pickle:
        _place(got.path, one.path)
        sha256 = got.sha256
    else:
        try:
            convert(got.path, one.path)
        except NetworkError:
            # Kept, it would be taken for the file of this address ever after.
            forget(one.url)
            raise
        sha256 = file_digest(one.path)
        if one.sha256 not in (None, sha256):
            raise NetworkError(
                f"{source}: {_SHA256_KEYS[one.key]}",
                expected=f"{one.sha256}",
                found=f"{sha256}, of what was made from {shown}",
                hint=f"correct `{_SHA256_KEYS[one.key]}` if this is the network you mean",
            )
    _remember(one.path, sha256)
    return Arrived(one.key, one.path, shown, sha256, checked=one.sha256 is not None)


def retry_hint(error: DownloadError) -> str:
    """Return what to do about a download that failed."""
    if error.broken_off:
        return "run the same command again: it goes on where it stopped"
    return "check the address and the connection of this host, then run the same command again"


def _kind(key: str) -> type[SkiptuneError]:
    return NetworkError if key.startswith("network.") else ObjectiveError


def _place(origin: Path, target: Path) -> None:
    """Give a file of the cache a second name, or copy it; it is there whole or not at all.

    Raises:
        OutputError: It cannot be written there.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(origin, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(
            str(target),
            expected="a folder that can be written to, with room for the file",
            found=error.strerror or str(error),
            hint=f"choose another place in the study file; the file lies in {origin}",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _link_or_copy(origin: Path, target: Path) -> None:
    try:
        os.link(origin, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(origin, target)
        with open(target, "rb+") as file:
            os.fsync(file.fileno())


def _remember(path: Path, sha256: str) -> None:
    """Let workers of this host find a file by its content, wherever the study looks for it."""
    files = cache_folder() / "files"
    known = files / sha256[:2] / f"{sha256}{path.suffix}"
    if known.exists():
        return
    with alone(files / f"{sha256}.lock", path.name), writable(path.name):
        known.parent.mkdir(parents=True, exist_ok=True)
        temporary = known.with_name(f".{known.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            _link_or_copy(path, temporary)
            os.replace(temporary, known)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
