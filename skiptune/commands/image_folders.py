"""Folders of images, one PNG per seed: a run that was stopped goes on where it stood.

The files are called as EDM's generate.py calls them, `000000.png`. Beside them a hidden file says
what made them: a folder never holds images of two schedules.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiptune.errors import OutputError
from skiptune.search.output import write_whole

if TYPE_CHECKING:
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.sampling.schedule import Schedule
    from skiptune.sampling.setting import Setting

__all__ = ["RECORD", "check_images", "image_name", "meaning_of", "write_images"]

RECORD = ".skiptune-images.json"  # hidden: whoever reads the images passes it over
FORMAT = "skiptune.images"


def image_name(seed: int) -> str:
    """Return the name of a seed's file, as EDM's generate.py has it."""
    return f"{seed:06d}.png"


def meaning_of(
    checkpoint: Checkpoint, setting: Setting, schedule: Schedule | None, **more: Any
) -> dict[str, Any]:
    """Return all that decides about the images of seeds, as plain data.

    Arguments:
        checkpoint: The network, with its decoder and prompts if any.
        setting: How images are made.
        schedule: The scales; None for the untouched network.
        more: What else a person should know, e.g. the words of a prompt.
    """
    from skiptune.sampling.schedule import Schedule

    decoder = checkpoint.decoder
    return {
        "format": FORMAT,
        "network": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "dtype": checkpoint.dtype,
        "schedule_sha256": (schedule or Schedule.baseline()).digest,
        "setting": setting.to_json(),
        "decoder": None if decoder is None else decoder.describe(),
        "prompts": checkpoint.config.get("prompts"),
        **more,
    }


def write_images(
    folder: Path,
    checkpoint: Checkpoint,
    setting: Setting,
    schedule: Schedule | None,
    seeds: Sequence[int],
    *,
    meaning: dict[str, Any],
    force: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[int, int]:
    """Write the images of seeds that are not there yet.

    Arguments:
        folder: Where; it is made.
        checkpoint: A network without a schedule installed, with its decoder if any.
        setting: How images are made.
        schedule: The scales; None leaves the network as it is.
        seeds: One per image.
        meaning: From `meaning_of`.
        force: Make images again that are there.
        progress: Told how many of the seeds are done.

    Returns:
        How many images were written, and how many of them are black because they diverged.

    Raises:
        OutputError: As `check_images`.
    """
    from skiptune.commands.pictures import MICROBATCH
    from skiptune.sampling.hooks import scaled
    from skiptune.sampling.images import sample
    from skiptune.sampling.schedule import Schedule
    from skiptune.views.picture import png

    # A batch of another size may change the last bit: what is added later has the first one's.
    batch_size = check_images(folder, meaning)
    if batch_size is None:
        batch_size = min(MICROBATCH, len(seeds))
        _begin(folder, {**meaning, "microbatch": batch_size})
    there = {path.name for path in folder.iterdir()}
    missing = [seed for seed in seeds if force or image_name(seed) not in there]
    done, diverged = len(seeds) - len(missing), 0
    with scaled(checkpoint.network, schedule or Schedule.baseline()):
        for batch in sample(
            checkpoint.network,
            setting,
            missing,
            microbatch=batch_size,
            decoder=checkpoint.decoder,
        ):
            for seed, pixels in zip(batch.seeds, batch.images.cpu().numpy(), strict=True):
                write_whole(folder / image_name(seed), png(pixels), force=True)
            diverged += int((~batch.finite).sum())
            done += len(batch.seeds)
            progress(done)
    return len(missing), diverged


def check_images(folder: Path, meaning: dict[str, Any]) -> int | None:
    """Refuse a folder into which images cannot go, before any is made.

    Arguments:
        folder: Where they are to go; it need not be there.
        meaning: From `meaning_of`.

    Returns:
        How many images went through the network at once when the folder was begun; None where it
        is not.

    Raises:
        OutputError: The folder holds images of something else, or cannot be written.
    """
    from skiptune.commands.output import check_folder

    record = folder / RECORD
    try:
        text = record.read_text(encoding="utf-8") if os.path.exists(record) else None
        is_there = text is None and folder.is_dir()
        foreign = is_there and any(path.suffix == ".png" for path in folder.iterdir())
    except (OSError, UnicodeDecodeError) as error:
        raise _unwritable(folder, getattr(error, "strerror", None) or str(error)) from None
    if text is None and not foreign:
        whole = folder.absolute()
        nearest = next(path for path in (whole, *whole.parents) if os.path.exists(path))
        check_folder(nearest, where=f"-o {folder}")
        return None
    try:
        found_meaning = {} if text is None else json.loads(text)
        batch_size = int(found_meaning["microbatch"])
    except (ValueError, TypeError, KeyError):
        found_meaning, batch_size = {}, 0
    wanted = json.loads(json.dumps({**meaning, "microbatch": batch_size}))
    if found_meaning != wanted or batch_size < 1:
        keys = dict.fromkeys([*wanted, *found_meaning])
        other = [key for key in keys if found_meaning.get(key) != wanted.get(key)]
        raise OutputError(
            f"-o {folder}",
            expected="an empty folder, or images of the same network, scales and setting",
            found=f"images of another {', '.join(other)}" if found_meaning else "other images",
            hint="choose another folder",
        )
    return batch_size


def _begin(folder: Path, meaning: dict[str, Any]) -> None:
    """Make a folder, and its record in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from None
    plain = json.dumps(meaning, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(folder / RECORD, plain.encode("utf-8"))


def _unwritable(folder: Path, found: str) -> OutputError:
    return OutputError(
        f"-o {folder}",
        expected="a folder that can be written",
        found=found,
        hint="choose another folder",
    )
