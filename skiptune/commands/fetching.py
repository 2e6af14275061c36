"""The command that brings what a study names and does not have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skiptune.commands.options import Options, pass_options, shared, study_option
from skiptune.errors import NetworkError, quoted

if TYPE_CHECKING:
    from skiptune.search.downloads import Fetched, OnBytes

__all__ = ["downloaded", "fetch", "fetch_command"]


@click.command()
@click.argument("spec", metavar="SPEC|PRESET")
@study_option
@shared
@pass_options
def fetch(options: Options, spec: str, overrides: tuple[str, ...]) -> None:
    """Fetch the files of a study that are missing here.

    Each comes from its address in the study file: `network.url`, or `network.pickle_url` of a
    pickle that is converted without running it, `objective.weights_url`, `objective.reference_url`
    and `objective.images_url`. Files are kept in the cache (SKIPTUNE_CACHE) and linked or copied
    to where the study looks for them. After an interruption the same command goes on.

    \b
    Examples:
      skiptune fetch study.yaml
      skiptune fetch edm-cifar10-cond
      skiptune fetch study.yaml -s network.url=https://example.org/net.safetensors
    """
    from dataclasses import asdict

    from skiptune.commands.converting import check_free, convert_file, convert_stage
    from skiptune.commands.output import print_json, say
    from skiptune.sampling.first_stage import stage_files
    from skiptune.search import fetching
    from skiptune.search.spec import load_spec

    study = load_spec(spec, overrides=overrides)
    missing = fetching.missing_files(study)
    if any(one.url is None for one in missing):
        # Nothing is fetched for a study that could not run anyway.
        command = fetch_command(spec, overrides)
        raise fetching.missing_error(missing, source=spec, command=command)
    for one in missing:
        if one.is_pickle and one.key == "network.checkpoint":
            _check_name(one.path)
            check_free(one.path.parent, one.path.stem)
    arrived = []

    def convert(network: Path, checkpoint: Path) -> Path:
        own = study.network.options
        stage = stage_files(study.network.checkpoint)
        if checkpoint in stage:
            assert own is not None  # else nothing would say that it comes with the network
            if not checkpoint.exists():
                convert_stage(network, checkpoint, options=own)
            return checkpoint
        made = convert_file(
            network,
            checkpoint.parent,
            stem=checkpoint.stem,
            options=own,
            # What is there already may be another's, and is left alone.
            with_stage=not any(path.exists() for path in stage),
        )
        for caution in made.cautions:
            say(options, f"caution: {caution}")
        return made.target

    for one in missing:
        with _watched(options, str(one.url)) as on_bytes:
            got = fetching.fetch(one, convert=convert, on_bytes=on_bytes, source=spec)
        arrived.append(got)
        known = "as it must be" if got.checked else "recorded, it was not known before"
        say(options, f"Wrote {got.path}: sha256 {got.sha256} ({known})")
    if options.json:
        print_json({"study": study.study, "fetched": [asdict(got) for got in arrived]})
    if not missing:
        say(options, f"Nothing is missing: {spec}")
    say(options, f"Next: skiptune check {quoted(spec)}")


def fetch_command(spec: str, overrides: tuple[str, ...] = ()) -> str:
    """Return the command line that fetches the files of a study."""
    import shlex

    words = ["skiptune", "fetch", spec]
    for text in overrides:
        words += ["-s", text]
    return shlex.join(words)


def downloaded(options: Options, url: str) -> Fetched:
    """Return the file of an address that stands on the command line, from the cache.

    Raises:
        NetworkError: The address does not bring it.
    """
    from skiptune.search.downloads import DownloadError, cached, without_secrets
    from skiptune.search.fetching import retry_hint

    try:
        with _watched(options, url) as on_bytes:
            return cached(url, on_bytes=on_bytes)
    except DownloadError as error:
        raise NetworkError(
            without_secrets(url),
            expected="an address that brings a file",
            found=str(error),
            hint=retry_hint(error),
        ) from error


def _check_name(path: Path) -> None:
    """Refuse a checkpoint that a pickle is not converted to."""
    if path.suffix != ".safetensors":
        raise NetworkError(
            f"network.checkpoint: {path}",
            expected="a path that ends in .safetensors: `pickle_url` is converted into it",
            found=path.suffix or "no suffix",
            hint=f"name it {path.with_suffix('.safetensors').name}",
        )


@contextmanager
def _watched(options: Options, url: str) -> Iterator[OnBytes | None]:
    """Show how far a download is: a bar on a terminal, else one line when it begins."""
    from skiptune.commands.output import say, stderr_console
    from skiptune.search.downloads import without_secrets

    console = stderr_console()
    shown = without_secrets(url)
    if options.quiet or options.no_progress or not console.is_terminal:
        say(options, f"Fetching {shown}")
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(shown.rpartition("/")[2], total=None)

        def told(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total or None)

        yield told
