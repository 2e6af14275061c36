"""Metrics that compare images with their prompts: the models that a study names, loaded for it."""

from __future__ import annotations

from dataclasses import replace

import torch

from skiptune.objectives.catalogue import CATALOGUE
from skiptune.objectives.text_scores import load_text_score
from skiptune.sampling.prompts import read_prompts
from skiptune.search.objective import Objective
from skiptune.search.spec import StudySpec

__all__ = ["with_texts"]


def with_texts(
    objective: Objective, spec: StudySpec, *, shape: tuple[int, int, int], device: str
) -> Objective:
    """Return an objective with the scores of images and prompts that its metrics need.

    Arguments:
        objective: What is measured.
        spec: The study; its own checks have seen to prompts and models.
        shape: Channels, height and width of the network's images.
        device: Torch device of the models.

    Raises:
        NetworkError: The prompts cannot be read.
        ObjectiveError: A model cannot be loaded or read the network's images; or transformers is
            missing.
    """
    keys = spec.objective.text_keys
    if not keys:
        return objective
    prompts = spec.network.prompts
    assert prompts is not None
    texts = read_prompts(prompts).texts
    scores = []
    for key in keys:
        folder = spec.value(f"objective.{CATALOGUE[key].model}")
        one = load_text_score(key, folder, texts, device=device)
        # One blank image and one prompt: a broken model is refused now, not in the first chunk.
        blank = torch.zeros(1, *shape, dtype=torch.uint8)
        replace(one, prompts=texts[:1])(blank, torch.zeros(1, dtype=torch.int64))
        scores.append(one)
    return replace(objective, texts=tuple(scores))
