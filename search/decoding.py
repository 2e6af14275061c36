"""The decoder of a study: the VAE that its spec names, loaded for the study's network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from skiptune.errors import SpecError
from skiptune.objectives.catalogue import CATALOGUE
from skiptune.sampling.checkpoint import Checkpoint
from skiptune.sampling.decoder import load_decoder
from skiptune.sampling.first_stage import FOLDER
from skiptune.search.spec import StudySpec

__all__ = ["renamed", "with_decoder"]


def with_decoder(
    checkpoint: Checkpoint, spec: StudySpec, *, device: str = "cpu", source: str = "spec"
) -> Checkpoint:
    """Return a network with the decoder that its study names, if it names one.

    Arguments:
        checkpoint: The study's network.
        spec: The study. Where its `latents` is null, EDM2's networks have EDM2's convention and
            all others that of the VAE's configuration.
        device: Torch device of the decoder.
        source: Name of the file the spec came from, for messages.

    Raises:
        SpecError: A metric needs real images, which would have to be encoded first; or a network
            that is known to make latents has no decoder.
        NetworkError: With everything that is wrong with the decoder, or does not fit the network.
    """
    decoder = spec.network.decoder
    if decoder is None and checkpoint.config.get("latents"):
        raise SpecError(
            f"{source}: network.decoder",
            expected="what makes images of the network's latents",
            found="null",
            hint=f"name it: `network.decoder.vae`, e.g. the folder {FOLDER} that"
            " `skiptune convert` writes beside such a network",
        )
    if decoder is None:
        return checkpoint
    keys = dict.fromkeys(item.key for item in spec.objective.items)
    wrong = [key for key in keys if CATALOGUE[key].real_images]
    if wrong:
        raise SpecError(
            f"{source}: objective",
            expected="metrics of sampled images, because the network makes latents",
            found=f"{', '.join(wrong)}, for which real images would have to be encoded",
            hint="measure fd or kid, of the decoded images",
        )
    network: Any = checkpoint.network
    own = "edm2" if checkpoint.config.get("precond") == "edm2" else "vae"
    loaded = load_decoder(
        decoder.vae,
        config=decoder.config,
        sha256=decoder.sha256,
        dtype=decoder.dtype,
        latents=decoder.latents or own,
        microbatch=decoder.microbatch,
        channels=network.img_channels,
        device=device,
    )
    return replace(checkpoint, decoder=loaded)


def renamed(checkpoint: Checkpoint, path: str | None) -> Checkpoint:
    """Return a network whose decoder is called as the folder it lay in where it was named.

    Arguments:
        checkpoint: A study's network.
        path: Where the decoder's weights lay on the host that created the study; None for none.
    """
    if checkpoint.decoder is None or path is None:
        return checkpoint
    name = Path(path).parent.name
    return replace(checkpoint, decoder=replace(checkpoint.decoder, name=name))
