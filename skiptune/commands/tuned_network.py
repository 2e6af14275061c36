"""The network of a tuned.json and what belongs to it: where they are, and loading them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiptune.errors import NetworkError, SpecError
from skiptune.sampling.pipeline_files import vae_folder

if TYPE_CHECKING:
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.search.tuned import Tuned

__all__ = ["decoder_place", "network_place", "prompts_place", "tuned_network"]


def network_place(checkpoint: str | None, document: Tuned, tuned: Path) -> str | Path:
    """Return where the network of a tuned.json is."""
    from skiptune.sampling.checkpoint import CHECKPOINTS

    if checkpoint is not None or document.network.name in CHECKPOINTS:
        return checkpoint or document.network.name
    beside = tuned.parent / document.network.name
    if not beside.exists():
        raise NetworkError(
            f"{tuned}: network",
            expected=f"the checkpoint {document.network.name} beside it",
            found="no such file",
            hint="say where it is with --checkpoint FILE",
        )
    return beside


def decoder_place(
    decoder: str | None, document: Tuned, tuned: Path, network: str | Path
) -> str | Path | None:
    """Return where the VAE of a tuned.json is, None where its network makes pixels.

    Arguments:
        decoder: What the command line says.
        document: The scales.
        tuned: Their file; the VAE may lie beside it.
        network: From `network_place`; of a pipeline's folder the VAE in it is taken.
    """
    needed = document.network.decoder
    if needed is None:
        if decoder is not None:
            raise SpecError(
                f"--decoder {decoder}",
                expected="scales of a network that makes latents",
                found=f"{tuned}, whose network makes pixels",
                hint="leave --decoder out",
            )
        return None
    beside = tuned.parent / needed.name
    inside = None if beside.is_dir() else vae_folder(network)
    if decoder is None and inside is None and not beside.is_dir():
        raise NetworkError(
            f"{tuned}: network.decoder",
            expected=f"the VAE {needed.name} beside it",
            found="no such folder",
            hint="say where it is with --decoder FOLDER",
        )
    return decoder or inside or beside


def prompts_place(document: Tuned, tuned: Path) -> Path | None:
    """Return where the prompts of a tuned.json are, None where its network reads no text."""
    needed = document.network.prompts
    if needed is None:
        return None
    beside = tuned.parent / needed.name
    if not beside.is_file():
        raise NetworkError(
            f"{tuned}: network.prompts",
            expected=f"the prompts {needed.name} beside it",
            found="no such file",
            hint="put the file that the scales were tuned with there",
        )
    return beside


def tuned_network(
    document: Tuned,
    network: str | Path,
    decoder: str | Path | None,
    prompts: Path | None,
    *,
    device: str,
) -> Checkpoint:
    """Load the network that scales were tuned on, with its decoder and its prompts if any.

    Arguments:
        document: The scales.
        network: From `network_place`.
        decoder: From `decoder_place`.
        prompts: From `prompts_place`.
        device: Torch device of all.

    Raises:
        NetworkError: One of them is another one.
    """
    from dataclasses import replace

    from skiptune.canonical import digest
    from skiptune.sampling.checkpoint import load_checkpoint
    from skiptune.sampling.decoder import load_decoder
    from skiptune.sampling.numeric_mode import in_mode
    from skiptune.search.application import refuse_baked

    loaded = load_checkpoint(network, device=device)
    refuse_baked(document, loaded.path, loaded.sha256)
    document.check(loaded.skips, sha256=loaded.sha256)
    loaded = in_mode(loaded, document.network.dtype)
    told = document.network.prompts
    if told is not None and prompts is not None:
        from skiptune.search.prompting import with_prompts

        loaded = with_prompts(loaded, str(prompts), source="tuned.json", device=device)
        if digest(loaded.config["prompts"]) != told.identity:
            raise NetworkError(
                f"prompts {prompts}",
                expected="the lines and the text encoders that the scales were tuned with",
                found="others",
                hint="put the file that the scales were tuned with there",
            )
    needed = document.network.decoder
    if needed is None or decoder is None:
        return loaded
    model: Any = loaded.network
    found = load_decoder(
        decoder,
        sha256=needed.sha256,
        dtype=needed.dtype,
        latents=needed.latents,
        microbatch=needed.microbatch,
        channels=model.img_channels,
        device=device,
    )
    if digest(found.describe()) != needed.identity:
        raise NetworkError(
            f"decoder {decoder}",
            expected="the configuration that the scales were tuned with",
            found="the same weights with another configuration",
            hint="put the config.json that came with the VAE beside its weights",
        )
    return replace(loaded, decoder=found)
