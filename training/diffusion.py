"""Train the bundled diffusion network `fashion`: `python -m training.diffusion --help`.

Karras et al. 2022 (arXiv 2206.00364): loss and noise distribution of equation 8 and table 1, Adam
with warm-up, exponential moving average (EMA) of the weights with a half-life that grows with the
images seen. Several processes share a batch when started by torch's launcher:

    OMP_NUM_THREADS=1 python -m torch.distributed.run --nproc-per-node 2 \
        -m training.diffusion --data fashion-mnist.npz --out runs/fashion

A run goes on from ``checkpoint.pt`` in its folder. All randomness of a step derives from the seed,
the step and the rank, so a resumed run makes the same weights as an uninterrupted one. SIGTERM and
SIGINT end a run after the step, with a checkpoint. The learning rate is constant until a run is
resumed with ``--decay-to``; it then falls linearly to zero at that number of images.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from skiptune.sampling.networks import EDMPrecond, build
from training.fashion_mnist import CLASSES, TRAINING_IMAGES, load

__all__ = ["FASHION", "Run", "batch_indices", "edm_loss", "main", "save_weights"]

FASHION: Mapping[str, Any] = {
    "precond": "edm",
    "img_resolution": 32,
    "img_channels": 1,
    "label_dim": len(CLASSES),
    "model_channels": 16,
    "channel_mult": [1, 1, 2, 8],
    "channel_mult_emb": 4,
    "num_blocks": 2,
    "attn_resolutions": [],
    "label_dropout": 0.1,
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
}

# Mean and standard deviation of ln(sigma) in training (Karras et al. 2022, table 1).
P_MEAN, P_STD = -1.2, 1.2
# Gradients are clipped to this norm of the mean loss per pixel; typical norms lie well below.
CLIP_NORM = 1.0
# A run that meets this many unusable gradients in a row will not recover.
MAX_SKIPPED = 20
# Seconds between two lines of the log.
LOG_SECONDS = 20.0


@dataclass
class Run:
    """How far a run is: with weights and moments all that a resumed run needs.

    Attributes:
        step: Optimizer steps made.
        images: Training images seen, repetitions counted.
        seconds: Wall-clock time spent in training, in all sessions together.
        skipped: Steps left out because the gradient was not finite.
        decay_from: Images at which the learning rate began to fall, -1 for never.
        decay_to: Images at which it is zero, -1 for never.
    """

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    skipped: int = 0
    decay_from: int = -1
    decay_to: int = -1


def edm_loss(network: EDMPrecond, images: Tensor, labels: Tensor) -> Tensor:
    """Return the weighted denoising error of each image (Karras et al. 2022, equation 8).

    Arguments:
        network: The denoiser; its ``sigma_data`` sets the weight
            (sigma^2 + sigma_data^2) / (sigma sigma_data)^2.
        images: Clean images in -1..1, [B, C, H, W].
        labels: One-hot rows [B, label_dim].

    Returns:
        Mean over pixels, [B]; near 1 for a network that predicts zero.
    """
    sigma = (P_MEAN + P_STD * torch.randn(images.shape[0], 1, 1, 1)).exp()
    noisy = images + sigma * torch.randn_like(images)
    weight = (sigma.square() + network.sigma_data**2) / (sigma * network.sigma_data).square()
    error: Tensor = network(noisy, sigma.flatten(), labels) - images
    return (weight * error.square()).mean(dim=(1, 2, 3))


def batch_indices(*, seed: int, first: int, count: int, size: int) -> Tensor:
    """Return which images the places ``first .. first + count - 1`` of the training order hold.

    Each epoch is a permutation of ``size`` images of its own, derived from seed and epoch.
    """
    places = torch.arange(first, first + count)
    indices = torch.empty_like(places)
    for epoch in range(first // size, (first + count - 1) // size + 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(size, generator=generator)
        chosen = places // size == epoch
        indices[chosen] = order[places[chosen] % size]
    return indices


def learning_rate(run: Run, *, peak: float, warmup: int) -> float:
    """Return the learning rate after ``run.images`` images."""
    rate = peak * min(1.0, (run.images + 1) / max(warmup, 1))
    if run.decay_to >= 0:
        left = (run.decay_to - run.images) / max(run.decay_to - run.decay_from, 1)
        rate *= min(max(left, 0.0), 1.0)
    return rate


def save_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write weights as safetensors with the network's configuration, replacing the file at once.

    Arguments:
        path: The file to write.
        weights: State of an `EDMPrecond`.
        config: What `skiptune.sampling.networks.build` takes; metadata ``skiptune.network``.
        facts: How the weights came about, plain data; metadata ``skiptune.training``.
    """
    metadata = {
        "skiptune.network": json.dumps(dict(config), sort_keys=True),
        "skiptune.training": json.dumps(dict(facts), sort_keys=True),
    }
    temporary = path.with_name(path.name + ".tmp")
    plain = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    save_file(plain, temporary, metadata=metadata)
    os.replace(temporary, path)


def describe(network: EDMPrecond) -> str:
    """Return parameters, multiply-adds of one forward and skips in one line."""
    size = network.img_resolution
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, network.img_channels, size, size), 1.0)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    skips = sum("_block" in name for name in network.model.dec)
    return (
        f"{parameters / 1e6:.2f} M parameters, {counter.get_total_flops() / 2e9:.3f} GMAC a "
        f"forward, {skips} skips"
    )


class Trainer:
    """One process of a run: the network, its optimizer, its average and its data."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.run = Run()
        pixels, labels = load(options.data)
        self.images = torch.from_numpy(pixels[:TRAINING_IMAGES]).float().div(127.5).sub(1)
        self.labels = torch.nn.functional.one_hot(
            torch.from_numpy(labels[:TRAINING_IMAGES]), len(CLASSES)
        ).float()
        self.config = {
            **FASHION,
            "dropout": options.dropout,
            "sigma_data": round(float(self.images.double().std()), 4),
        }
        torch.manual_seed(options.seed)
        self.network = build(self.config)
        self.say(json.dumps(self.config))
        self.say(describe(self.network.eval()))
        self.network.train().to(memory_format=torch.channels_last)
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=options.lr, fused=True)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.file = Path(options.out) / "checkpoint.pt"
        if self.file.is_file():
            self.resume()

    def say(self, text: str) -> None:
        """Print one line, from the first process only."""
        if self.rank == 0:
            print(text, flush=True)

    def resume(self) -> None:
        """Take over everything from the checkpoint of an earlier session."""
        state = torch.load(self.file, weights_only=True)
        if {**state["config"], "dropout": self.options.dropout} != self.config:
            raise SystemExit(f"{self.file}: another network; choose another --out")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.run = Run(**state["run"])
        self.say(f"resumed at {self.run.images} images from {self.file}")

    def save(self) -> None:
        """Write the checkpoint, replacing the earlier one at once."""
        if self.rank:
            return
        state = {
            "config": self.config,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "run": asdict(self.run),
            "options": {key: str(value) for key, value in vars(self.options).items()},
            "world": self.world,
        }
        temporary = self.file.with_name("checkpoint.pt.tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.file)

    def save_snapshot(self) -> None:
        """Write the averaged weights as they are now, beside the checkpoint."""
        if self.rank == 0:
            path = self.file.with_name(f"snapshot-{self.run.images}.safetensors")
            save_weights(path, self.average, config=self.config, facts=asdict(self.run))
            self.say(f"wrote {path}")
            if self.options.fd:
                self.score()

    def score(self) -> None:
        """Print the Frechet distance of images made with the averaged weights."""
        # The feature network's room is needed only here.
        from skiptune.sampling.setting import Setting
        from training.quality import frechet

        network = build(self.config).eval()
        network.load_state_dict(self.average)
        setting = Setting(solver="dpmpp_2m", steps=6)
        found, nfe = frechet(network, setting, images=self.options.fd)
        self.say(
            f"FD(fashion-cnn) {found.value:.3f} +- {1.96 * found.standard_error:.3f} at "
            f"{self.options.fd} images, {setting.solver} {nfe:.0f} NFE"
        )

    def step(self, *, stop: bool) -> tuple[float, float, bool]:
        """Make one step on this process's share of the batch.

        Arguments:
            stop: This process's wish to end the run.

        Returns:
            Mean loss, norm of the gradient, and whether any process wishes to end the run.
        """
        options, run = self.options, self.run
        share = options.batch // self.world
        torch.manual_seed((options.seed * 1_000_003 + run.step) * self.world + self.rank)
        places = run.images + self.rank * share
        indices = batch_indices(
            seed=options.seed, first=places, count=share, size=self.images.shape[0]
        )
        loss = edm_loss(self.network, self.images[indices], self.labels[indices]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

        gradients = [parameter.grad for parameter in self.parameters]
        flat = torch.cat([g.flatten() for g in gradients if g is not None])
        # Two more numbers travel with the gradient: the loss and the wish to stop.
        message = torch.cat([flat, torch.tensor([loss.item(), float(stop)])]) / self.world
        if dist.is_initialized():
            dist.all_reduce(message)
        norm = float(message[:-2].norm())
        if math.isfinite(norm):
            message[:-2] *= min(1.0, CLIP_NORM / max(norm, 1e-12))
            sizes = [parameter.numel() for parameter in self.parameters]
            parts = torch.split(message[:-2], sizes)
            for parameter, part in zip(self.parameters, parts, strict=True):
                # `flatten` above reads in logical order, so `view` writes in logical order.
                parameter.grad = part.view(parameter.shape)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(run, peak=options.lr, warmup=options.warmup)
            self.optimizer.step()
            run.skipped = 0
        else:
            run.skipped += 1
            if run.skipped > MAX_SKIPPED:
                raise SystemExit(f"{MAX_SKIPPED} unusable gradients in a row at step {run.step}")
        run.step += 1
        run.images += options.batch
        self.update_average()
        return float(message[-2]), norm, bool(message[-1] > 0)

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged weights towards the present ones."""
        half_life = self.options.ema * self.run.images
        keep = 0.5 ** (self.options.batch / half_life)
        present = list(self.network.state_dict().values())
        get_ema_multi_avg_fn(keep)(list(self.average.values()), present, None)

    def train(self) -> None:
        """Run until the planned images or minutes are done, or a signal arrives."""
        options, run = self.options, self.run
        if 0 <= options.decay_to != run.decay_to:
            run.decay_from, run.decay_to = run.images, options.decay_to
        end = run.decay_to if run.decay_to >= 0 else options.images
        stop = False

        def ask_to_stop(*_: object) -> None:
            nonlocal stop
            stop = True

        handled = (signal.SIGTERM, signal.SIGINT)
        earlier = [signal.signal(number, ask_to_stop) for number in handled]
        begun = last = logged = saved = time.monotonic()
        losses: list[float] = []
        norms: list[float] = []
        ended = False
        while run.images < end and not ended:
            now = time.monotonic()
            stop = stop or 0 < options.minutes * 60 < now - begun
            run.seconds += now - last
            last = now
            before = run.images
            loss, norm, ended = self.step(stop=stop)
            losses.append(loss)
            norms.append(norm)
            if any(before < mark <= run.images for mark in options.snapshots):
                self.save_snapshot()
            now = time.monotonic()
            if now - logged > LOG_SECONDS:
                self.say(
                    f"images {run.images}  loss {sum(losses) / len(losses):.4f}  "
                    f"norm {sum(norms) / len(norms):.3f} max {max(norms):.3f}  "
                    f"lr {self.optimizer.param_groups[0]['lr']:.2e}  "
                    f"images/s {len(losses) * options.batch / (now - logged):.1f}  "
                    f"minutes {run.seconds / 60:.1f}"
                )
                losses, norms, logged = [], [], now
            if now - saved > options.checkpoint_minutes * 60:
                self.save()
                saved = now
        run.seconds += time.monotonic() - last
        self.save()
        for number, handler in zip(handled, earlier, strict=True):
            signal.signal(number, handler)
        self.say(f"ended at {run.images} images after {run.seconds / 60:.1f} minutes")


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description="Train the bundled diffusion network `fashion`.")
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with the IDX files, or npz")
    add("--out", type=Path, required=True, help="folder of the run; resumed if it holds one")
    add("--images", type=int, default=1_500_000, help="images to see in all")
    add("--batch", type=int, default=128, help="images a step, over all processes")
    add("--lr", type=float, default=1.5e-3, help="peak learning rate")
    add("--warmup", type=int, default=20_000, help="images until the peak")
    add("--ema", type=float, default=0.05, help="half-life as a share of the images seen")
    add("--dropout", type=float, default=0.0, help="may change when a run is resumed")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1, help="threads of each process")
    add("--minutes", type=float, default=0.0, help="end this session after so many minutes")
    add("--checkpoint-minutes", type=float, default=3.0)
    add(
        "--snapshots",
        type=int,
        nargs="*",
        default=None,
        help="images at which to keep the EMA (default: at 25 and 50 percent of --images)",
    )
    add(
        "--fd",
        type=int,
        default=0,
        help="at each snapshot, print the Frechet distance of this many images (0: never)",
    )
    add(
        "--decay-to",
        type=int,
        default=-1,
        help="let the learning rate fall from now on, to zero "
        "at this number of images, and end there",
    )
    options = parser.parse_args()
    if options.snapshots is None:
        options.snapshots = [options.images // 4, options.images // 2]
    torch.set_num_threads(options.threads)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    if options.batch % (dist.get_world_size() if dist.is_initialized() else 1):
        raise SystemExit("--batch must be divisible by the number of processes")
    options.out.mkdir(parents=True, exist_ok=True)
    Trainer(options).train()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
