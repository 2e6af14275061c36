"""From a schedule and the noise level of a call to one factor per skip.

The schedule is a table of terms in buffers, looked up with tensor operations only, so that a
compiled network sees new scales without being compiled again and an accelerator is never waited
for. Where the answer is known on the host, it is given as plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.skips import Skip

__all__ = ["Factors", "Scales"]

Scales = Schedule | Mapping[str, Tensor]
"""A schedule, or a tensor per address: 0-dim, or [B] with one scale per image."""


class Factors:
    """The factors of all skips of one network, for the call that is under way.

    Arguments:
        skips: The network's skips, deepest first.
        has_sigma: Whether the network is told the noise level.
        device: Where the table of terms is looked up.
    """

    def __init__(self, skips: Sequence[Skip], *, has_sigma: bool, device: torch.device) -> None:
        self.skips = tuple(skips)
        self.has_sigma = has_sigma
        self.depends_on_sigma = False
        self._table = _Table(len(self.skips), 1).to(device)
        self._tensors: dict[int, Tensor] | None = None
        self._current: list[float | Tensor] = [1.0] * len(self.skips)
        self._compiled: Tensor | None = None

    def load(self, scales: Scales) -> None:
        """Take over other scales.

        Raises:
            NetworkError: For an unknown address, a tensor that is neither 0-dim nor [B], or
                windows where the noise level is unknown.
        """
        places = {skip.address: skip.index for skip in self.skips}
        addresses = scales.addresses if isinstance(scales, Schedule) else tuple(scales)
        unknown = ", ".join(address for address in addresses if address not in places)
        if unknown:
            raise NetworkError(
                f"schedule: {unknown}",
                expected=f"addresses among {', '.join(places)}",
                found=f"no such skip in this network: {unknown}",
                hint="list the network's skips with `skiptune skips CHECKPOINT`",
            )
        if isinstance(scales, Schedule):
            self._load_schedule(scales, places)
        else:
            self._load_tensors(scales, places)

    def enter(self, sigma: Tensor | float | None) -> None:
        """Begin a call of the network at a noise level, one number for all images or [B]."""
        if self._tensors is not None:
            return
        if torch.compiler.is_compiling():
            self._compiled = self._lookup(sigma)
        elif self.depends_on_sigma:
            rows = self._lookup(sigma)
            if rows.device.type == "cpu" and rows.shape[1] == 1:
                self._current = rows[:, 0].tolist()
            else:
                self._current = list(rows[:, 0] if rows.shape[1] == 1 else rows)

    def of(self, row: int) -> float | Tensor:
        """Return one skip's factor in this call: a number, or a tensor 0-dim or [B]."""
        if torch.compiler.is_compiling() and self._tensors is None and self._compiled is not None:
            factor = self._compiled[row]
            return factor[0] if factor.shape[0] == 1 else factor
        return self._current[row]

    def _load_schedule(self, schedule: Schedule, places: Mapping[str, int]) -> None:
        windows = any(term.low > 0 or term.high < math.inf for term in schedule.terms)
        if windows and not self.has_sigma:
            raise NetworkError(
                "network",
                expected="a denoiser called with sigma, because the schedule has windows",
                found="a network without an argument `sigma`",
                hint="apply the schedule to the preconditioned network around the U-Net",
            )
        terms: list[list[tuple[float, float, float]]] = [[] for _ in self.skips]
        for term in schedule.terms:
            terms[places[term.address]].append((term.scale, term.low, term.high))
        columns = max(1, *map(len, terms))
        if columns > self._table.columns:
            # The only change that makes a compiled network compile again: more windows per skip.
            self._table = _Table(len(self.skips), columns).to(self._table.scale.device)
        self._table.fill(terms)
        self._tensors = None
        self.depends_on_sigma = windows
        self._current = [1.0 if windows or not row else row[0][0] for row in terms]

    def _load_tensors(self, scales: Mapping[str, Tensor], places: Mapping[str, int]) -> None:
        for address, scale in scales.items():
            if not isinstance(scale, Tensor) or scale.dim() > 1:
                found = list(scale.shape) if isinstance(scale, Tensor) else type(scale).__name__
                raise NetworkError(
                    f"scales: {address}",
                    expected="a tensor, 0-dim or [B]",
                    found=str(found),
                    hint="give plain numbers as a Schedule",
                )
        self._tensors = {places[address]: scale for address, scale in scales.items()}
        self.depends_on_sigma = False
        self._current = [self._tensors.get(row, 1.0) for row in range(len(self.skips))]

    def _lookup(self, sigma: Tensor | float | None) -> Tensor:
        if not self.has_sigma or sigma is None:
            return self._table.scale[:, :1]
        level = torch.as_tensor(sigma).detach()
        if not level.is_floating_point():
            level = level.to(torch.float64)
        if level.device.type != "cpu" and level.device != self._table.scale.device:
            self._table.to(level.device)
        return self._table.at(level.reshape(-1).to(self._table.scale.device))


class _Table(nn.Module):
    """Terms per skip: scale, low and high, each float64 [skips, terms].

    A module of its own: buffers of the network would be cast by `network.half()`, which breaks
    windows, and would stay behind when the hooks go.
    """

    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        for name in ("scale", "low", "high"):
            empty = torch.zeros(rows, columns, dtype=torch.float64)
            self.register_buffer(name, empty, persistent=False)

    def fill(self, terms: Sequence[Sequence[tuple[float, float, float]]]) -> None:
        """Write the terms of every skip in place; unused columns are empty windows."""
        unused = (1.0, math.inf, math.inf)
        # A skip without terms keeps 1 in column 0, which is read alone where sigma is unknown.
        padded = [[*row, *[unused] * (self.columns - len(row))] for row in terms]
        values: Any = torch.tensor(padded, dtype=torch.float64).unbind(-1)
        with torch.no_grad():
            for buffer, value in zip((self.scale, self.low, self.high), values, strict=True):
                buffer.copy_(value)

    def at(self, levels: Tensor) -> Tensor:
        """Return the scales [skips, N] at noise levels [N]."""
        # Bounds and levels meet in the levels' dtype: a float32 level then lies inside a window
        # that begins at the float64 number it was rounded from.
        low, high = self.low.to(levels.dtype), self.high.to(levels.dtype)
        acts = (low[..., None] <= levels) & (levels < high[..., None])
        # Windows do not overlap, so at most one factor differs from 1.
        return torch.where(acts, self.scale[..., None], 1.0).prod(dim=1)
