"""The patch that multiplies skips inside ComfyUI's U-Net, and counts what it does.

ComfyUI calls an output block patch right before the concatenation of the main path h and the skip
hsp of `output_blocks[i]`, i counted from the deepest: patch(h, hsp, transformer_options) returns
both. `transformer_options` names the block, holds the noise levels of the images of one prompt
(`sigmas`) and says which prompts the batch is made of (`cond_or_uncond`: 0 with the prompt, 1 with
the negative one), one chunk of equal size each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .tuned_file import Row, TunedFile, Window

__all__ = ["Run", "SkipPatch", "SkipPatchError"]

# The first arguments of sampling, and what ComfyUI calls the solvers of skiptune.
_SAMPLING = ("noise", "latent_image", "sampler", "sigmas")
_SAMPLERS = {
    "euler": ("euler",),
    "heun": ("heun",),
    "dpmpp_2m": ("dpmpp_2m",),
    "unipc": ("uni_pc", "uni_pc_bh2", "unipc", "unipc_bh2"),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
}


class SkipPatchError(RuntimeError):
    """The model that samples is not the tuned one, or does not say what the scales need."""

    def __init__(self, where: str, expected: str, found: str, hint: str) -> None:
        super().__init__(f"Skip-Tuning: {where}: expected {expected}, found {found}\nHint: {hint}")


@dataclass
class Run:
    """What happened since sampling began.

    Arguments:
        evaluations: Calls of the network.
        scaled: By output block, how often its skip was multiplied by something other than 1.
        steps: Steps of the sampler, where it said so.
        sampler: Its name, where it said so.
        guidance: The scale of guidance (cfg), where the guider said so.
    """

    evaluations: int = 0
    scaled: dict[int, int] = field(default_factory=dict)
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None


class SkipPatch:
    """Scales the skips of one model as a file says.

    One object belongs to one model and its clones, which ComfyUI makes by deep copies of the
    options: these keep the object itself, so that `run` counts for all of them.

    Arguments:
        tuned: The file.
        strength: 1 applies the scales, 0 none of them: a skip is multiplied by
            1 + strength (scale - 1).
        sigma_high: The noise level from which on downwards anything is scaled.
        sigma_low: The last noise level at which anything is scaled.
    """

    def __init__(
        self,
        tuned: TunedFile,
        *,
        strength: float = 1.0,
        sigma_high: float = math.inf,
        sigma_low: float = 0.0,
    ) -> None:
        self.tuned = tuned
        self.strength = strength
        self.range = (sigma_low, sigma_high)
        self.rows = tuple(_weakened(row, strength) for row in tuned.rows)
        self.run = Run()
        self._depends_on_sigma = self.range != (0.0, math.inf) or tuned.has_windows
        self._levels: tuple[Any, list[float]] = (None, [])
        self._bounds: dict[Any, list[list[Window]]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> SkipPatch:
        return self

    @property
    def scales_anything(self) -> bool:
        """Whether any skip is ever multiplied by something other than 1."""
        return any(row.windows for row in self.rows)

    def __call__(self, h: Any, hsp: Any, transformer_options: Mapping[str, Any]) -> Any:
        """Scale one skip, out of place.

        Arguments:
            h: The main path [B, main_channels, H, W].
            hsp: The skip [B, skip_channels, H, W].
            transformer_options: What the model says of this call.

        Raises:
            SkipPatchError: The block is none of the tuned network's, or what the scales depend on
                is not said.
        """
        kind, place = transformer_options.get("block") or ("an unnamed", None)
        if kind != "output" or not isinstance(place, int) or not 0 <= place < len(self.rows):
            raise self._another(
                f"{kind} block {place}", f"output blocks 0 to {len(self.rows) - 1}"
            )
        row = self.rows[place]
        expected, found = (row.main_channels, row.skip_channels), (h.shape[1], hsp.shape[1])
        if found != expected:
            raise self._another(
                f"{found[0]} + {found[1]} channels",
                f"{expected[0]} + {expected[1]} channels ({row.address})",
                where=f"output block {place}",
            )
        self.run.evaluations += place == 0
        factor = self._factor(place, hsp, transformer_options)
        if factor is None:
            return h, hsp
        self.run.scaled[place] = self.run.scaled.get(place, 0) + 1
        # Out of place: the deepest skip is also what the middle block was given.
        return h, hsp * factor

    def around_sampling(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Sample, counting from 0: a wrapper of `outer_sample`.

        Arguments:
            executor: What samples; its `class_obj` is the guider.
            args: Those of sampling: noise, latent image, sampler, noise levels and others.
            kwargs: More of them.

        Raises:
            SkipPatchError: The scales act with or without the prompt alone, and the guider has
                other prompts than these two.
        """
        guider = getattr(executor, "class_obj", None)
        prompts = set(getattr(guider, "original_conds", ()))
        if self.tuned.branches != "both" and not prompts <= {"positive", "negative"}:
            raise self._prompts(", ".join(sorted(prompts)))
        given = dict(zip(_SAMPLING, args, strict=False)) | kwargs
        function = getattr(given.get("sampler"), "sampler_function", None)
        name = getattr(function, "__name__", "").removeprefix("sample_")
        sigmas = given.get("sigmas")
        self.run = Run(
            steps=None if sigmas is None else len(sigmas) - 1,
            sampler=name.removesuffix("_function") or None,
            guidance=getattr(guider, "cfg", None),
        )
        return executor(*args, **kwargs)

    @property
    def did_nothing(self) -> bool:
        """Whether the last run scaled no skip although there was something to scale."""
        return self.scales_anything and not self.run.scaled

    def report(self) -> str:
        """Return in words what the last run did, and how it differed from the tuned setting."""
        run, wanted = self.run, sum(bool(row.windows) for row in self.rows)
        text = (
            f"Skip-Tuning ({self.tuned.study}): {len(run.scaled)} of {wanted} skips were scaled, "
            f"{sum(run.scaled.values())} times in {run.evaluations} evaluations of the network"
        )
        if self.did_nothing and not run.evaluations:
            text += "; the model that sampled never called this patch, so nothing was changed"
        elif self.did_nothing:
            where = {"both": "", "cond": " with the prompt", "uncond": " without the prompt"}
            text += f"; no evaluation{where[self.tuned.branches]} lay at a scaled noise level"
        differs = self._differences()
        return f"{text}; {differs}" if differs else text

    def _differences(self) -> str:
        run, tuned = self.run, self.tuned.setting
        found = []
        if run.sampler is not None and run.sampler not in _SAMPLERS.get(tuned.solver, ()):
            found.append(f"{run.sampler} (tuned: {tuned.solver})")
        if run.steps is not None and tuned.ends_at_zero and run.steps != tuned.steps:
            found.append(f"{run.steps} steps (tuned: {tuned.steps})")
        if run.guidance is not None and not math.isclose(run.guidance, tuned.guidance):
            found.append(f"cfg {run.guidance:g} (tuned: {tuned.guidance:g})")
        if not found:
            return ""
        return f"another setting than the tuned one, so its gain may differ: {', '.join(found)}"

    def _factor(self, place: int, hsp: Any, options: Mapping[str, Any]) -> Any:
        """Return what the skip is multiplied by: a number, one per image, or None for 1."""
        windows = self.rows[place].windows
        if not windows:
            return None
        factors = [windows[0].scale]
        if self._depends_on_sigma:
            factors = self._at_levels(place, options)
        if self.tuned.branches == "both":
            if len(set(factors)) == 1:
                return None if factors[0] == 1 else factors[0]
            chunks = [True] * len(options.get("cond_or_uncond") or [0])
        else:
            chunks = self._acting(options)
        images, rest = divmod(hsp.shape[0], len(chunks))
        if rest or len(factors) not in (1, images):
            raise SkipPatchError(
                f"output block {place}",
                f"{len(chunks)} prompts of as many images as noise levels ({len(factors)})",
                f"a batch of {hsp.shape[0]}",
                "sample with a sampler that gives all images of a batch one noise level",
            )
        of_prompt = factors * (images // len(factors))
        rows = [factor if acts else 1.0 for acts in chunks for factor in of_prompt]
        if len(set(rows)) == 1:
            return None if rows[0] == 1 else rows[0]
        return hsp.new_tensor(rows).reshape(-1, *[1] * (hsp.ndim - 1))

    def _acting(self, options: Mapping[str, Any]) -> list[bool]:
        """Return by chunk of the batch whether the scales act there."""
        prompts = options.get("cond_or_uncond")
        if not prompts:
            raise SkipPatchError(
                "cond_or_uncond",
                f"which prompts are in the batch, because the scales act in {self.tuned.branches}"
                " alone",
                "nothing",
                "sample with KSampler or CFGGuider",
            )
        if not set(prompts) <= {0, 1}:
            raise self._prompts(f"number {max(prompts)}")
        return [prompt == BRANCH[self.tuned.branches] for prompt in prompts]

    def _at_levels(self, place: int, options: Mapping[str, Any]) -> list[float]:
        """Return the skip's factors: one for all images, or one for each image of a prompt."""
        sigmas = options.get("sigmas")
        if sigmas is None:
            raise SkipPatchError(
                "sigmas",
                "the noise level, because the scales depend on it",
                "nothing",
                "sample with a sampler that tells the model its noise levels",
            )
        # Read once per evaluation, because an accelerator is waited for.
        if place == 0 or self._levels[0] is not sigmas:
            levels = sigmas.reshape(-1).tolist()
            self._levels = (sigmas, levels[:1] if len(set(levels)) == 1 else levels)
        if sigmas.dtype not in self._bounds:
            self._bounds[sigmas.dtype] = [_rounded(row.windows, sigmas) for row in self.rows]
        low, high = self.range
        windows = self._bounds[sigmas.dtype][place]
        return [
            next((w.scale for w in windows if w.low <= level < w.high), 1.0)
            if low <= level <= high
            else 1.0
            for level in self._levels[1]
        ]

    def _another(self, found: str, expected: str, where: str = "the model") -> SkipPatchError:
        hint = f"load {self.tuned.network}, or a model of its architecture"
        return SkipPatchError(where, f"{expected} as in {self.tuned.network}", found, hint)

    def _prompts(self, found: str) -> SkipPatchError:
        return SkipPatchError(
            "prompts",
            f"positive and negative, because the scales act in {self.tuned.branches} alone",
            found,
            "sample with KSampler or CFGGuider",
        )


BRANCH = {"cond": 0, "uncond": 1}
"""The numbers of `cond_or_uncond` in which a schedule of one branch acts."""


def _weakened(row: Row, strength: float) -> Row:
    windows = (Window(one.low, one.high, 1 + strength * (one.scale - 1)) for one in row.windows)
    kept = tuple(window for window in windows if window.scale != 1)
    return Row(row.address, row.main_channels, row.skip_channels, kept)


def _rounded(windows: Sequence[Window], sigmas: Any) -> list[Window]:
    """Return windows whose ends are numbers of the noise levels' own precision.

    A float32 level then lies inside a window that begins at the number it was rounded from.
    """
    ends = [[window.low, window.high] for window in windows]
    rounded = sigmas.new_tensor(ends, device="cpu").tolist()
    return [
        Window(low, high, one.scale) for (low, high), one in zip(rounded, windows, strict=True)
    ]
