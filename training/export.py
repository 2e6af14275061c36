"""Write the averaged weights of a training run: `python -m training.export CHECKPOINT OUT`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from training.diffusion import save_weights

__all__ = ["main"]

# Weights are kept in half precision: converting them back to float32 is exact, so every reader
# computes with the same numbers.
_STORED = torch.float16


def main() -> None:
    """Read the options and export."""
    parser = argparse.ArgumentParser(description="Write the averaged weights as safetensors.")
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of a run")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    options = parser.parse_args()
    state = torch.load(options.checkpoint, weights_only=True, map_location="cpu")
    weights = {name: value.to(_STORED) for name, value in state["average"].items()}
    largest = max(float(value.abs().max()) for value in weights.values())
    if not math.isfinite(largest):
        raise SystemExit("a weight does not fit half precision")
    options_kept = {key: state["options"][key] for key in ("batch", "lr", "warmup", "ema", "seed")}
    facts = {**state["run"], **options_kept, "processes": state["world"]}
    save_weights(options.out, weights, config=state["config"], facts=facts)
    print(f"{options.out}: {state['run']['images']} images, largest weight {largest:.3f}")


if __name__ == "__main__":
    main()
