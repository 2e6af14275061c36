"""A stand-in for the package transformers: the calls of it that are used, with tiny encoders.

Its numbers are so simple that a test can write them down: the states of a text are the rows of a
table at its letters, and the pooled embedding is their mean.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["TOKENS", "install", "states_of", "write_encoders"]

TOKENS = 6
"""Letters that a text is cut off at, or filled up to."""


class CLIPTokenizer:
    """Letters as their codes, up to `TOKENS`."""

    model_max_length = TOKENS

    @classmethod
    def from_pretrained(cls, folder: str, *, local_files_only: bool) -> CLIPTokenizer:
        assert local_files_only
        if not (Path(folder) / "tokenizer.json").is_file():
            raise OSError(f"no tokenizer in {folder}\nmore words")
        return cls()

    def __call__(self, texts: list[str], **options: Any) -> Any:
        if options == {"verbose": False}:
            return SimpleNamespace(input_ids=[[ord(letter) % 128 for letter in t] for t in texts])
        assert options == {
            "padding": "max_length",
            "max_length": TOKENS,
            "truncation": True,
            "return_tensors": "pt",
        }
        rows = [[ord(letter) % 128 for letter in text[:TOKENS]] for text in texts]
        return SimpleNamespace(
            input_ids=torch.tensor([row + [0] * (TOKENS - len(row)) for row in rows])
        )


class _Output(tuple[Tensor, ...]):
    hidden_states: tuple[Tensor, ...] = ()


class CLIPTextModel(nn.Module):
    """A table; the layer before the last is twice the last one."""

    pooled = False

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    @classmethod
    def from_pretrained(cls, folder: str, **options: Any) -> CLIPTextModel:
        assert options == {
            "local_files_only": True,
            "use_safetensors": True,
            "dtype": torch.float32,
        }
        return cls(load_file(Path(folder) / "model.safetensors")["table"])

    def forward(self, ids: Tensor, *, output_hidden_states: bool) -> _Output:
        states = self.table[ids]
        made = _Output((states.mean(1) if self.pooled else states,))
        made.hidden_states = (states * 3, states * 2, states) if output_hidden_states else ()
        return made


class CLIPTextModelWithProjection(CLIPTextModel):
    """The same with a pooled embedding in the first place."""

    pooled = True


def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Put the stand-in in the place of the package for the length of a test."""
    module = ModuleType("transformers")
    for kind in (CLIPTokenizer, CLIPTextModel, CLIPTextModelWithProjection):
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "transformers", module)
    return module


def write_encoders(folder: Path, *, widths: Sequence[int], **index: Any) -> Path:
    """Add text encoders of these widths to a pipeline, and keys to its index."""
    path = folder / "model_index.json"
    plain = {**json.loads(path.read_text()), **index}
    for name, kind, width in zip(
        ("text_encoder", "text_encoder_2"),
        ("CLIPTextModel", "CLIPTextModelWithProjection"),
        widths,
        strict=False,
    ):
        tokenizer = name.replace("text_encoder", "tokenizer")
        plain |= {
            name: ["transformers", kind],
            tokenizer: ["transformers", "CLIPTokenizer"],
        }
        for part in (name, tokenizer):
            (folder / part).mkdir()
        generator = torch.Generator().manual_seed(width)
        table = torch.randn(128, width, generator=generator)
        save_file({"table": table}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text("{}")
        (folder / tokenizer / "tokenizer.json").write_text("{}")
    path.write_text(json.dumps(plain))
    return folder


def states_of(text: str, width: int) -> Tensor:
    """The states of a text, [TOKENS, width], written out."""
    table = torch.randn(128, width, generator=torch.Generator().manual_seed(width))
    letters = text[:TOKENS].ljust(TOKENS, "\0")
    return torch.stack([table[ord(letter)] for letter in letters])
