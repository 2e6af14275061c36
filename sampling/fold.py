"""Folding the scales of skips into a network's weights, so that it needs no hooks.

A layer that reads main path and skip is linear in its input. What multiplies the skip's channels
of that input may as well multiply the columns of the weight that belong to them:

    W [x, s k] = [W_x, s W_k] [x, k]

What reads a skip decides whether that is all (`skips`):

- One linear layer alone (U-ViT), or convolutions that read the block's input itself (lucidrains):
  exact, whatever the scale.
- A shortcut, and a branch behind group normalisation whose groups hold channels of one path each:
  the normalisation divides the scale out, so the shortcut's columns are all. This is exact up to
  the eps in its square root, which is not scaled along: a group of variance v is off by the
  relative eps (1 / s^2 - 1) / (2 v). A scale of 0 is no limit of small ones: the branch then sees
  the normalisation's bias, so its gain for these channels becomes 0, which is exact.
- The same with one group that holds channels of both paths (a *mixed* block): its mean and
  variance depend on the scale and on the image, so no weights do it exactly. The shortcut is
  folded, and the branch is near.
- What eps and mixed groups leave, `norm_fit` makes smaller: it fits the normalisation's gain and
  bias to what a sampler meets.
- One part of a block alone (`schedule.PARTS`): exact, whatever the groups.

Weights that are computed on every call, as EDM2's, cannot be folded: the normalisation of a row
would undo it. Each layer is asked, with random numbers, whether it is linear in its weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from skiptune.errors import NetworkError, Problem
from skiptune.sampling.factors import Scales
from skiptune.sampling.schedule import Schedule, place_name, place_of
from skiptune.sampling.skips import SkipPlace, find_places, skip_sites

__all__ = ["MIXED", "Affine", "Edit", "Fold", "FoldedBlock", "fold", "replaced"]

MIXED = ("fold", "leave", "refuse")
"""What becomes of a scale before a mixed group: fold it nearly, leave the block at 1, refuse."""

_STATIC = "one scale per skip, the same at every noise level, in every image and evaluation"
_SHOWN = 3  # of many windows a reader needs no list
_HINT = "install these scales at run time instead: skiptune.load(FILE).apply(network)"


@dataclass(frozen=True)
class Affine:
    """What makes of a block's normalised channels those of the block with a scaled skip, nearly.

    Arguments:
        start: First of the channels of the block's input.
        factor: float64 [n], one per channel.
        shift: float64 [n], added behind the factor.
    """

    start: int
    factor: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Edit:
    """A change of some channels of one tensor of a network's state.

    Arguments:
        key: The tensor's name in the network's `state_dict`.
        dim: The dimension of the channels.
        start: First channel.
        factor: float64 [n], on the n channels from there on.
        shift: float64 [n], added behind the factor; None for nothing.
    """

    key: str
    dim: int
    start: int
    factor: Tensor
    shift: Tensor | None = None

    def apply(self, tensor: Tensor) -> None:
        """Change a tensor of real numbers in place."""
        part = tensor.narrow(self.dim, self.start, len(self.factor))
        shape = [-1 if dim == self.dim else 1 for dim in range(tensor.dim())]
        part.mul_(self.factor.to(tensor).reshape(shape))
        if self.shift is not None:
            part.add_(self.shift.to(tensor).reshape(shape))


@dataclass(frozen=True)
class FoldedBlock:
    """What became of the scales of one block.

    Arguments:
        address: Of its skip.
        mixed: Whether a group holds channels of both paths and the skip itself is scaled, so that
            the block is folded nearly, not exactly.
        left: Whether the skip itself was left at 1 for that.
        terms: Its scales, by parts.
        edits: The changes of weights that they come to.
    """

    address: str
    mixed: bool
    left: bool
    terms: Mapping[str, float]
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Fold:
    """Scales as changes of weights.

    Arguments:
        blocks: The scaled blocks, deepest first.
    """

    blocks: tuple[FoldedBlock, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the tensors that change, sorted."""
        return tuple(sorted({edit.key for block in self.blocks for edit in block.edits}))

    @property
    def exact(self) -> bool:
        """Whether no block is folded nearly, or left at 1."""
        return not any(block.mixed for block in self.blocks)

    def apply(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that change, changed, by name.

        Tensors of half precision are changed in float32 and rounded once.

        Arguments:
            tensors: A network's state or a part of it, which stays as it is.
        """
        made: dict[str, Tensor] = {}
        for edit in (edit for block in self.blocks for edit in block.edits):
            if edit.key not in tensors:
                continue
            if edit.key not in made:
                tensor = tensors[edit.key].detach()
                computing = torch.promote_types(tensor.dtype, torch.float32)
                made[edit.key] = tensor.to(computing, copy=True)
            edit.apply(made[edit.key])
        return {key: tensor.to(tensors[key].dtype) for key, tensor in made.items()}


def fold(
    network: nn.Module,
    schedule: Scales,
    *,
    mixed: str = "fold",
    fitted: Mapping[str, Affine] | None = None,
) -> Fold:
    """Find what changes of weights do what the scales of a schedule do; nothing is changed.

    Arguments:
        network: A network of a known family without a schedule installed.
        schedule: Scales that are the same for every noise level, image and branch of guidance.
            Its knobs are numbers of the setting and stay that.
        mixed: One of `MIXED`.
        fitted: How gain and bias of normalisations change, by address (`norm_fit.fit_norms`);
            without it, a branch behind one sees an unscaled skip.

    Raises:
        NetworkError: With every reason why these scales on this network are not weights.
    """
    assert mixed in MIXED
    scales = _static(schedule)
    places = {place.skip.address: place for place in find_places(network)}
    # Its errors for unknown addresses and for parts that a block lacks are those of `apply`.
    known = skip_sites(network, {part for _, part in scales})
    _refuse_unknown(scales, known)
    layers = _Layers(network)
    problems: list[Problem] = []
    blocks: list[FoldedBlock] = []
    for address, place in places.items():
        terms = {part: scale for (of, part), scale in scales.items() if of == address}
        if not terms:
            continue
        is_mixed = "both" in terms and place.skip.mixed and place.skip.groups > 0
        left = is_mixed and mixed == "leave"
        if is_mixed and mixed == "refuse":
            problems.append(
                Problem(
                    f"network: {address}",
                    "normalisation groups of one path each, which weights can do exactly",
                    "a group that holds channels of the main path and of the skip",
                )
            )
            continue
        edits: list[Edit] = []
        try:
            for part, scale in terms.items():
                if part == "both" and not left:
                    edits += layers.whole_skip(place, scale, (fitted or {}).get(address))
                elif part != "both":
                    edits += layers.part(place, part, scale)
        except NetworkError as error:
            problems += error.problems
        blocks.append(FoldedBlock(address, is_mixed, left, terms, tuple(edits)))
    if problems:
        hint = _HINT if mixed != "refuse" else f"--mixed fold folds them nearly; or {_HINT}"
        raise NetworkError.of(problems, hint=hint)
    return Fold(tuple(blocks))


@contextmanager
def replaced(network: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a network other numbers in some tensors for the length of a `with` block.

    Arguments:
        network: The network, on any device.
        tensors: By the names of its `state_dict`, of any floating dtype.
    """
    state = network.state_dict()
    before = {key: state[key].clone() for key in tensors}
    try:
        with torch.no_grad():
            for key, tensor in tensors.items():
                state[key].copy_(tensor)
        yield
    finally:
        with torch.no_grad():
            for key, tensor in before.items():
                state[key].copy_(tensor)


def _static(schedule: Scales) -> dict[tuple[str, str], float]:
    """Return scales by address and part, and refuse those that are not one number each."""
    problems: list[Problem] = []
    if not isinstance(schedule, Schedule):
        found = {}
        for name, tensor in schedule.items():
            if tensor.numel() != 1:
                text = f"{tensor.numel()} scales, one per image"
                problems.append(Problem(f"scales: {name}", _STATIC, text))
            else:
                found[place_of(name)] = float(tensor)
        if problems:
            raise NetworkError.of(problems, hint=_HINT)
        return {place: scale for place, scale in found.items() if scale != 1}
    settings = []
    if schedule.branches != "both":
        settings.append("-s space.branches=both")
        text = f"scales in the evaluations {schedule.branches} of guidance alone"
        problems.append(Problem("schedule: branches", _STATIC, text))
    windows = [term for term in schedule.terms if term.low > 0 or term.high < math.inf]
    if windows:
        shown = [f"{t.address} at sigma {t.low:g} to {t.high:g}" for t in windows[:_SHOWN]]
        more = len(windows) - len(shown)
        shown += [f"and {more} more"] if more else []
        where = "a window" if len(windows) == 1 else "windows"
        text = f"{len(windows)} in {where} of the noise level: {', '.join(shown)}"
        settings += ["-s space.window=null", "-s space.intervals=1"]
        problems.append(Problem("schedule: scales", _STATIC, text))
    if problems:
        again = f"skiptune tune SPEC -s study=NAME {' '.join(settings)}"
        raise NetworkError.of(problems, hint=f"{_HINT}; or tune scales that fold: {again}")
    return {(term.address, term.part): term.scale for term in schedule.terms}


def _refuse_unknown(scales: Iterable[tuple[str, str]], known: Iterable[str]) -> None:
    names = set(known)
    problems = [
        Problem("schedule", f"addresses among {', '.join(known)}", f"the unknown {address}")
        for address, part in scales
        if place_name(address, part) not in names
    ]
    if problems:
        raise NetworkError.of(problems, hint="list the skips with `skiptune skips CHECKPOINT`")


class _Layers:
    """The layers of a network by the names of their weights, and what scaling them takes."""

    def __init__(self, network: nn.Module) -> None:
        # A tensor that several modules share has as many names.
        named = list(network.named_parameters(remove_duplicate=False))
        self.names = {id(tensor): name for name, tensor in reversed(named)}
        self.uses = Counter(id(tensor) for _, tensor in named)

    def whole_skip(self, place: SkipPlace, scale: float, fitted: Affine | None) -> list[Edit]:
        """Return what a scale on the skip itself comes to."""
        if place.joint is not None:
            return [self._columns(place, place.joint, scale)]
        groups = place.skip.groups
        if groups == 0 and place.residual is not None and not place.residual_shared:
            raise _refused(
                place,
                "a normalisation before the branch, or layers that read the skip itself",
                "an activation that reads the skip before the layers do, as in EDM2's blocks",
            )
        layers = [place.shortcut, *([place.residual] if groups == 0 else [])]
        edits = []
        for layer, what in zip(layers, ("shortcut", "first layer of the branch"), strict=False):
            if layer is None:
                found = "none: the block adds its input as it is, or reads it in another way"
                raise _refused(place, f"a {what} with weights for main path and skip", found)
            edits.append(self._columns(place, layer, scale))
        if groups > 0 and fitted is not None:
            edits += self._fitted(place, fitted)
        elif groups > 0 and scale == 0 and not place.skip.mixed:
            # Normalised, a group of zeros is 0, and the bias alone is left of it.
            skip = place.skip
            none = torch.zeros(skip.skip_channels, dtype=torch.float64)
            key = self._key(place, place.norm, "weight")
            edits.append(Edit(key, 0, skip.main_channels, none))
        return edits

    def part(self, place: SkipPlace, part: str, scale: float) -> list[Edit]:
        """Return what a scale in one part of a block comes to."""
        if part == "whole-shortcut":
            layer: Any = place.shortcut
            weight, bias = layer.weight, getattr(layer, "bias", None)
            names = ["weight", *(["bias"] if bias is not None else [])]
            factor = torch.full((weight.shape[0],), scale, dtype=torch.float64)
            edits = [Edit(self._key(place, layer, name), 0, 0, factor) for name in names]
            self._refuse_computed(place, layer, edits, output=True)
            return edits
        chosen = place.residual if part == "residual" else place.shortcut
        assert chosen is not None  # `skip_sites` has looked
        return [self._columns(place, chosen, scale)]

    def _columns(self, place: SkipPlace, layer: nn.Module, scale: float) -> Edit:
        factor = torch.full((place.skip.skip_channels,), scale, dtype=torch.float64)
        key = self._key(place, layer, "weight")
        edit = Edit(key, 1, place.skip.main_channels, factor)
        self._refuse_computed(place, layer, [edit], output=False)
        return edit

    def _fitted(self, place: SkipPlace, fitted: Affine) -> list[Edit]:
        norm: Any = place.norm
        factor, shift = fitted.factor.cpu(), fitted.shift.cpu()
        keys = [self._key(place, norm, name) for name in ("weight", "bias")]
        weight = norm.weight.detach().double().cpu().narrow(0, fitted.start, len(factor))
        ones = torch.ones_like(factor)
        return [
            Edit(keys[0], 0, fitted.start, factor),
            Edit(keys[1], 0, fitted.start, ones, weight * shift),
        ]

    def _key(self, place: SkipPlace, layer: nn.Module | None, name: str) -> str:
        """Return the name of a layer's own tensor in the network's state."""
        tensor = None if layer is None else layer._parameters.get(name)
        key = None if tensor is None else self.names.get(id(tensor))
        if tensor is None or key is None:
            expected = f"{type(layer).__name__} with a {name} of its own"
            raise _refused(place, expected, f"a {name} that is computed, or none")
        if self.uses[id(tensor)] > 1:
            found = f"{key}, which {self.uses[id(tensor)]} modules share"
            raise _refused(place, f"a {name} that nothing else uses", found)
        return key

    def _refuse_computed(
        self, place: SkipPlace, layer: nn.Module, edits: list[Edit], *, output: bool
    ) -> None:
        """Refuse a layer that is not linear in its weights, seen with half of the weights."""
        weight: Any = layer.weight
        shape = (2, weight.shape[1], *((8, 8) if weight.dim() == 4 else ()))
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(shape, generator=generator).to(weight.device, weight.dtype)
        tried = {}
        for edit in edits:
            name = edit.key.rpartition(".")[2]
            tried[name] = layer._parameters[name].detach().clone()  # type: ignore[union-attr]
            replace(edit, factor=torch.full_like(edit.factor, 0.5)).apply(tried[name])
        with torch.no_grad():
            by_weights = functional_call(layer, tried, (x,))
            if output:
                by_input = 0.5 * layer(x)
            else:
                skip = x.narrow(1, place.skip.main_channels, place.skip.skip_channels)
                skip.mul_(0.5)
                by_input = layer(x)
        exact = weight.dtype in (torch.float32, torch.float64)
        error = torch.linalg.vector_norm((by_weights - by_input).float())
        if error > (1e-4 if exact else 1e-2) * torch.linalg.vector_norm(by_input.float()):
            raise _refused(
                place,
                "layers whose output is linear in their weights",
                f"{type(layer).__name__}, which normalises its weights on every call",
            )


def _refused(place: SkipPlace, expected: str, found: str) -> NetworkError:
    return NetworkError(
        f"network: {place.skip.address}", expected=expected, found=found, hint=_HINT
    )
