"""From a schedule, the noise level and the guidance branch of a call to one factor per skip.

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
from skiptune.sampling.schedule import Schedule, place_name, place_of

__all__ = ["Factors", "Labelled", "Scales"]

Scales = Schedule | Mapping[str, Tensor]
"""A schedule, or a tensor per place (`schedule.place_name`; an address is one): 0-dim, or [B]
with one scale per image."""

Labelled = bool | Tensor
"""Whether a call's images are evaluated with their labels: all or none, or bool [B] or [1]."""

# Whether scales act without and with a label.
_ACTS = {"both": (True, True), "cond": (False, True), "uncond": (True, False)}


class Factors:
    """The factors of all skips of one network, for the call that is under way.

    Arguments:
        addresses: Of the network's skips, deepest first; and of the places in the blocks.
        has_sigma: Whether the network is told the noise level.
        has_labels: Whether its images may have labels, so that guidance has two branches.
        device: Where the table of terms is looked up.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        has_sigma: bool,
        has_labels: bool = True,
        device: torch.device,
    ) -> None:
        self.addresses = tuple(addresses)
        self.has_sigma = has_sigma
        self.has_labels = has_labels
        self.depends_on_sigma = False
        self._branches = "both"
        self._table = _Table(len(self.addresses), 1).to(device)
        self._tensors: dict[int, Tensor] | None = None
        self._current: list[float | Tensor] = [1.0] * len(self.addresses)
        self._compiled: Tensor | None = None

    @property
    def depends_on_call(self) -> bool:
        """Whether two calls of the network may have different factors."""
        return self.depends_on_sigma or self.depends_on_branch

    @property
    def depends_on_branch(self) -> bool:
        """Whether the scales act in one branch of guidance alone."""
        return self._branches != "both"

    def load(self, scales: Scales) -> None:
        """Take over other scales.

        Raises:
            NetworkError: For an unknown address or a part without a hook, a tensor that is neither
                0-dim nor [B], windows where the noise level is unknown, or one branch where there
                are no labels.
        """
        places = {address: place for place, address in enumerate(self.addresses)}
        self._refuse_unknown(scales)
        if isinstance(scales, Schedule):
            self._load_schedule(scales, places)
        else:
            self._load_tensors(scales, places)

    def enter(self, sigma: Tensor | float | None, labelled: Labelled | None = None) -> None:
        """Begin a call of the network.

        Arguments:
            sigma: The noise level, one number for all images or [B].
            labelled: Which images are evaluated with a label; None for no matter which: the
                factors are then those of the branches in which the schedule acts.
        """
        if self._tensors is not None:
            return
        if torch.compiler.is_compiling():
            self._compiled = self._in_branch(self._lookup(sigma), labelled)
        elif self.depends_on_call:
            rows = self._in_branch(self._lookup(sigma), _one_for_all(labelled))
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

    def _refuse_unknown(self, scales: Scales) -> None:
        if isinstance(scales, Schedule):
            names = [place_name(term.address, term.part) for term in scales.terms]
        else:
            names = list(scales)
        missing = [name for name in dict.fromkeys(names) if name not in self.addresses]
        if not missing:
            return
        whole = [name for name in self.addresses if place_of(name)[1] == "both"]
        unknown = ", ".join(name for name in missing if place_of(name)[0] not in whole)
        if unknown:
            raise NetworkError(
                f"schedule: {unknown}",
                expected=f"addresses among {', '.join(whole)}",
                found=f"no such skip in this network: {unknown}",
                hint="list the network's skips with `skiptune skips CHECKPOINT`",
            )
        hooked = dict.fromkeys(place_of(name)[1] for name in self.addresses)
        wanted = dict.fromkeys(place_of(name)[1] for name in missing)
        raise NetworkError(
            f"schedule: {', '.join(missing)}",
            expected=f"parts that have hooks: {', '.join(hooked)}",
            found=", ".join(wanted),
            hint="name them when a schedule is installed: skiptune.apply(..., parts=[...])",
        )

    def _load_schedule(self, schedule: Schedule, places: Mapping[str, int]) -> None:
        windows = any(term.low > 0 or term.high < math.inf for term in schedule.terms)
        if windows and not self.has_sigma:
            raise NetworkError(
                "network",
                expected="a denoiser called with sigma, because the schedule has windows",
                found="a network without an argument `sigma`",
                hint="apply the schedule to the preconditioned network around the U-Net",
            )
        if schedule.branches != "both" and not self.has_labels:
            raise NetworkError(
                "network",
                expected=f"a network with labels, because the schedule acts in the branch "
                f"{schedule.branches} of guidance alone",
                found="a network that knows no classes",
                hint="let the schedule act in both branches",
            )
        terms: list[list[tuple[float, float, float]]] = [[] for _ in self.addresses]
        for term in schedule.terms:
            row = places[place_name(term.address, term.part)]
            terms[row].append((term.scale, term.low, term.high))
        columns = max(1, *map(len, terms))
        if columns > self._table.columns:
            # The only change that makes a compiled network compile again: more windows per skip.
            self._table = _Table(len(self.addresses), columns).to(self._table.scale.device)
        self._table.fill(terms)
        self._table.acts.copy_(torch.tensor(_ACTS[schedule.branches]))
        self._tensors = None
        self.depends_on_sigma = windows
        self._branches = schedule.branches
        static = not self.depends_on_call
        self._current = [row[0][0] if static and row else 1.0 for row in terms]

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
        self._branches = "both"
        self._current = [self._tensors.get(row, 1.0) for row in range(len(self.addresses))]

    def _lookup(self, sigma: Tensor | float | None) -> Tensor:
        if not self.has_sigma or sigma is None:
            return self._table.scale[:, :1]
        level = torch.as_tensor(sigma).detach()
        if not level.is_floating_point():
            level = level.to(torch.float64)
        if level.device.type != "cpu" and level.device != self._table.scale.device:
            self._table.to(level.device)
        return self._table.at(level.reshape(-1).to(self._table.scale.device))

    def _in_branch(self, rows: Tensor, labelled: Labelled | None) -> Tensor:
        """Return the scales [skips, N] as 1 where an image's branch is one they do not act in."""
        if labelled is None:
            return rows
        without, with_label = self._table.acts.to(rows.device).unbind()
        if isinstance(labelled, Tensor):
            acts = torch.where(labelled.reshape(-1).to(rows.device), with_label, without)
        else:
            acts = with_label if labelled else without
        return torch.where(acts, rows, 1.0)


def _one_for_all(labelled: Labelled | None) -> Labelled | None:
    """Return a number for a mask whose images are all alike, where no device is waited for."""
    if not isinstance(labelled, Tensor) or labelled.device.type != "cpu":
        return labelled
    return bool(labelled.all()) if bool((labelled == labelled.flatten()[:1]).all()) else labelled


class _Table(nn.Module):
    """Terms per skip: scale, low and high, each float64 [skips, terms]; and where they act.

    `acts`, bool [2], says whether they act without and with a label.

    A module of its own: buffers of the network would be cast by `network.half()`, which breaks
    windows, and would stay behind when the hooks go.
    """

    scale: Tensor
    low: Tensor
    high: Tensor
    acts: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.register_buffer("acts", torch.ones(2, dtype=torch.bool), persistent=False)
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
