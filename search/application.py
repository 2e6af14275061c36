"""Tuned scales on what a user holds: a network, a loaded checkpoint, or a pipeline of diffusers.

Another architecture is refused. Scales on other weights, as of a fine-tune, or at another setting
are allowed, but nothing was measured there: a `SkiptuneWarning` says so, once.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skiptune.errors import NetworkError, Problem, SkiptuneError, SkiptuneWarning
from skiptune.sampling.baked_files import scales_within
from skiptune.sampling.checkpoint import Checkpoint
from skiptune.sampling.hooks import Handle, apply, refuse_compiled
from skiptune.sampling.levels import levels, rounded
from skiptune.sampling.pipeline_calls import PipelineCalls, solver_change, step_change
from skiptune.sampling.pipeline_files import content_digest, hub_folder
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting, churned, evaluations
from skiptune.sampling.skips import find_skips, skip_sites

if TYPE_CHECKING:
    from skiptune.search.tuned import Tuned

__all__ = ["installed", "refuse_baked"]

_NEAR = 1e-3  # relative: how far a call's noise level may be from the setting's
_ELSEWHERE = "nothing was measured there: score it, or tune it: `skiptune init study.yaml`"


def refuse_baked(tuned: Tuned, path: Path, sha256: str | None) -> None:
    """Refuse weights that hold tuned scales already, other than those the scales were tuned on.

    Arguments:
        tuned: The scales.
        path: The network's file or folder.
        sha256: Its hash.

    Raises:
        NetworkError: Scales would act twice.
    """
    if sha256 == tuned.network.sha256:
        return
    within = scales_within(path)
    if within is not None:
        own = within.get("schedule_sha256") == tuned.schedule_sha256
        raise NetworkError(
            "network",
            expected=f"the weights of {tuned.network.name} (sha256 {tuned.network.sha256})",
            found=f"{path.name}, whose weights hold {'these scales' if own else 'scales'} already"
            f" (baked, of study {within.get('study')})",
            hint="use it as it is: once more, scales would act twice",
        )


def installed(
    tuned: Tuned,
    target: Any,
    *,
    sha256: str | None = None,
    scheduler: Any = None,
    check_weights: bool = True,
) -> Handle:
    """Install tuned scales; see `Tuned.apply`."""
    setting, schedule = tuned.setting.to_setting(), tuned.schedule
    at = _target_of(target, scheduler, setting)
    tuned.check(find_skips(at.network), sha256=sha256)
    if at.calls is not None and any(t.low > 0 or t.high < math.inf for t in schedule.terms):
        at.calls.read()  # refuses a scheduler that has no noise levels
    if sha256 is None and check_weights:
        found = at.sha256()
        if at.place is not None:
            refuse_baked(tuned, at.place, found)
        if found not in (None, tuned.network.sha256):
            name = tuned.network.name
            expected = f"the weights of {name} (sha256 {tuned.network.sha256})"
            _warn(Problem("network", expected, f"sha256 {found}"), stacklevel=4)
    if isinstance(at.watch, _SchedulerWatch):
        # How many steps there will be is known when the network is called.
        at.watch.tell(solver_change(setting, at.watch.calls.scheduler), stacklevel=5)
    watches = [at.watch, *_part_watch(at.network, schedule)]
    return apply(at.network, schedule, reader=at.calls, watch=_Watches(watches))


@dataclass(frozen=True)
class _Target:
    """What the scales are installed on, and what is known of it."""

    network: nn.Module
    sha256: Callable[[], str | None]
    watch: _LevelWatch | _SchedulerWatch | None
    calls: PipelineCalls | None = None
    place: Path | None = None


def _target_of(target: Any, scheduler: Any, setting: Setting) -> _Target:
    if isinstance(target, Checkpoint):
        network, sha256 = target.network, target.sha256
        watched = _level_watch(network, setting)
        return _Target(network, lambda: sha256, watched, place=target.path)
    if isinstance(target, nn.Module):
        if scheduler is None:
            return _Target(target, lambda: None, _level_watch(target, setting))
        _refuse_without_timestep(target)
        calls = PipelineCalls(scheduler)
        return _Target(target, lambda: None, _SchedulerWatch(calls, setting), calls)
    unet = getattr(target, "unet", None)
    if not isinstance(unet, nn.Module) or not hasattr(target, "scheduler"):
        raise NetworkError(
            "network",
            expected="a network, a Checkpoint, or a pipeline of diffusers with a U-Net",
            found=type(target).__name__,
            hint="load a network with skiptune.sampling.load_checkpoint; pipelines without a"
            " U-Net have no skips",
        )
    if scheduler is not None:
        raise NetworkError(
            "scheduler",
            expected="none: a pipeline's own is followed, whenever it is switched",
            found=type(scheduler).__name__,
            hint="set pipe.scheduler",
        )
    _refuse_without_timestep(unet)
    calls = PipelineCalls(pipeline=target)
    watch = _SchedulerWatch(calls, setting)
    return _Target(unet, lambda: _pipeline_digest(target), watch, calls, _pipeline_folder(target))


def _refuse_without_timestep(unet: nn.Module) -> None:
    refuse_compiled(unet)  # whose arguments are not to be seen
    if "timestep" not in inspect.signature(unet.forward).parameters:
        raise NetworkError(
            "network",
            expected="a U-Net of diffusers, which is told a `timestep`",
            found=type(unet).__name__,
            hint="leave `scheduler` out, or give the denoiser around the U-Net",
        )


def _pipeline_folder(pipeline: Any) -> Path | None:
    """Return the folder of this host that a pipeline was read from; None of any other."""
    name = getattr(pipeline, "name_or_path", None)
    if not name:
        return None
    folder = Path(hub_folder(str(name)) or str(name))
    return folder if folder.is_dir() else None


def _pipeline_digest(pipeline: Any) -> str | None:
    """Return the hash of the folder that a pipeline was read from; None where none can be told."""
    folder = _pipeline_folder(pipeline)
    if folder is None:
        return None
    try:
        return content_digest(folder)[0]
    except SkiptuneError:
        # Another place than this host's, or another format: what was read cannot be told.
        return None


def _level_watch(network: nn.Module, setting: Setting) -> _LevelWatch | None:
    """Return what watches a denoiser's noise levels; None for a network that is told others."""
    try:
        grid = [level for level in levels(network, setting) if level > 0]
        raised = rounded(network, [churned(setting, level) for level in grid])
    except (RuntimeError, TypeError):
        return None  # a network whose `round_sigma` is another one
    return _LevelWatch([*grid, *raised], setting)


class _LevelWatch:
    """Warns where a network is called otherwise than by the solver of its tuned setting.

    That is at a noise level which the setting has not, or as often as another solver does: heun
    alone calls twice as often at the second level as at the first, however many calls guidance
    and parts of a batch make of one evaluation.

    A call that probes the network at a level of its own is none of a solver's, whose levels fall.
    As many calls are looked at as an image takes on its way, and two more: reading a level waits
    for an accelerator.
    """

    def __init__(self, grid: Iterable[float], setting: Setting) -> None:
        self.grid = tuple(grid)
        self.setting = setting
        self.left = evaluations(setting) + 2
        self.last: float | None = None
        self.calls: list[int] = []  # at each level since one was higher than that before
        # Else guidance, where it takes a call of its own, is in some levels' counts alone.
        whole = (setting.guidance_low, setting.guidance_high) == (0, math.inf)
        self.counted = setting.guidance == 1 or whole

    def __call__(self, call: Mapping[str, Any]) -> None:
        if self.left == 0 or call.get("sigma") is None:
            return
        self.left -= 1
        given = torch.as_tensor(call["sigma"]).detach().flatten()
        level, before = float(given[0]), self.last
        if level <= 0 or not bool((given == given[0]).all()):
            return  # images at different levels are not on their way through a solver
        self.last = level
        if before is None or level > before:
            self.calls = [1]
        elif level == before:
            self.calls[-1] += 1
        elif found := self._otherwise(before, level):
            self.left = 0
            _warn(Problem("network", *found), stacklevel=4)
        else:
            self.calls.append(1)

    def _otherwise(self, before: float, level: float) -> tuple[str, str] | None:
        """Return what is expected and found where a fall is not one of the tuned setting."""
        setting = self.setting
        tuned = f"{setting.solver} with {setting.steps} steps, at which the scales were tuned"
        other = [one for one in (before, level) if not self._has(one)]
        if other:
            return f"the noise levels of {tuned}", f"a call at sigma {other[0]:.4g}"
        if len(self.calls) == 2 and self.counted:
            first, second = self.calls
            heun = setting.solver == "heun"
            if second == (first if heun else 2 * first):
                wanted = "twice as many" if heun else "as many"
                return (
                    f"{wanted} calls at sigma {before:.4g} as at the level before: {tuned}",
                    f"{second} after {first}",
                )
        return None

    def _has(self, level: float) -> bool:
        return min(abs(known / level - 1) for known in self.grid) <= _NEAR


class _SchedulerWatch:
    """Warns, once of each, where a pipeline steps otherwise than the tuned setting."""

    def __init__(self, calls: PipelineCalls, setting: Setting) -> None:
        self.calls = calls
        self.setting = setting
        self.said: set[Problem] = set()

    def __call__(self, call: Mapping[str, Any]) -> None:
        scheduler = self.calls.scheduler
        for change in (solver_change, step_change):
            self.tell(change(self.setting, scheduler), stacklevel=5)

    def tell(self, problem: Problem | None, *, stacklevel: int) -> None:
        """Warn of a problem that is new."""
        if problem is not None and problem not in self.said:
            self.said.add(problem)
            _warn(problem, stacklevel=stacklevel)


def _part_watch(network: nn.Module, schedule: Schedule) -> Iterator[_PartWatch]:
    parts = [part for part in schedule.parts if part != "both"]
    if parts:
        scaled = {id(site.module) for site in skip_sites(network, parts).values()}
        yield _PartWatch(
            [
                (owner, name, module)
                for owner in network.modules()
                for name, module in owner.named_children()
                if id(module) in scaled
            ]
        )


class _PartWatch:
    """Refuses to go on where another layer has taken the place of one that is scaled.

    An adapter (LoRA) does so: beside the layer, which it keeps, it would read unscaled skips.
    """

    def __init__(self, places: Sequence[tuple[nn.Module, str, nn.Module]]) -> None:
        self.places = tuple(places)

    def __call__(self, call: Mapping[str, Any]) -> None:
        for owner, name, module in self.places:
            found = owner._modules.get(name)
            if found is not module:
                raise NetworkError(
                    f"network: {name} of {type(owner).__name__}",
                    expected="the layer that the scales were installed on",
                    found=f"{type(found).__name__} in its place",
                    hint="load adapters before the scales: handle.remove(), then apply again",
                )


class _Watches:
    """Several that look at every call."""

    def __init__(self, watches: Sequence[Callable[[Mapping[str, Any]], None] | None]) -> None:
        self.watches = [watch for watch in watches if watch is not None]

    def __call__(self, call: Mapping[str, Any]) -> None:
        for watch in self.watches:
            watch(call)


def _warn(problem: Problem, *, stacklevel: int) -> None:
    warnings.warn(f"{problem} (hint: {_ELSEWHERE})", SkiptuneWarning, stacklevel=stacklevel)
