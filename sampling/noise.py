"""Random numbers: one stream per image, so that an image depends on its seed and nothing else.

Two ways, chosen by `Setting.noise`; their images of one seed differ, and so do their series.
``edm`` (`ImageStreams`) draws on the CPU, whatever the device, one image after the other, in EDM's
order: the latent, then the label, then the churn noise of every step. ``counter``
(`CounterStreams`) computes the numbers of all images of a batch at once, on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from skiptune.errors import SpecError
from skiptune.sampling.setting import NOISES

__all__ = ["CounterStreams", "ImageStreams", "Streams", "image_streams", "philox"]

# Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (SC '11): multipliers of
# Philox-4x32 and the increments of its key, the golden ratio and sqrt(3) - 1 in 32 bits.
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 2**32
_MASK = _WORD - 1

# The third word of a counter: numbers of one kind never meet those of another.
_NORMAL, _WHOLE = 0, 1

# Blocks of four numbers that a CPU computes at a time: arrays of 256 KB, which its caches hold.
_TILE = 2**15


class ImageStreams:
    """The random streams of several images, each from a generator of its own on the CPU.

    Arguments:
        seeds: One per image; a generator takes seed modulo 2^32, as EDM's does.
        device: Where the drawn tensors go.
    """

    noise: ClassVar[str] = "edm"
    """Their name in a setting."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seeds = tuple(int(seed) for seed in seeds)
        self.device = torch.device(device)
        self._generators = [torch.Generator().manual_seed(seed % _WORD) for seed in self.seeds]

    def __len__(self) -> int:
        return len(self.seeds)

    def randn(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers [N, *shape]."""
        drawn = torch.empty(len(self), *shape, dtype=dtype)
        for row, generator in zip(drawn, self._generators, strict=True):
            row.normal_(generator=generator)
        return drawn.to(self.device)

    def randint(self, high: int | Sequence[int]) -> Tensor:
        """Draw whole numbers from 0 to high - 1, int64 [N].

        Arguments:
            high: At least 1, of all images or one for each.
        """
        highs = [high] * len(self) if isinstance(high, int) else high
        drawn = [
            torch.randint(limit, (), generator=generator)
            for limit, generator in zip(highs, self._generators, strict=True)
        ]
        return torch.stack(drawn).to(self.device)

    def randn_like(self, x: Tensor) -> Tensor:
        """Draw standard normal numbers of the shape [N, ...] and dtype of `x`.

        The dtype matters: float32 and float64 numbers of one stream differ. EDM draws churn
        noise in the dtype of its state, float64.
        """
        return self.randn(x.shape[1:], x.dtype).to(x.device)


class CounterStreams:
    """The random streams of several images, computed for all of them at once.

    A number is a function of (seed, draw, element) alone: Philox4x32-10 with the image's seed as
    the key and the counter (element // 4, draw, kind, 0), of whose four words element % 4 takes
    its own. Draws are counted from 0 for each kind, normal and whole numbers, so the churn noise
    of a step does not depend on whether a label was drawn.

    The words are exact on every device. A pair of words (a, b) becomes two normal numbers r cos p
    and r sin p by Box and Muller's method in float64, r = sqrt(-2 log((a + 1/2) / 2^32)) and
    p = 2 pi (b + 1/2) / 2^32, rounded to float32 whatever the dtype asked for: devices whose
    logarithm differs in the last bit of a float64 then agree but for one number in about 10^8,
    and there by one bit. Numbers reach 6.76 standard deviations; beyond lie 1.4e-11 of a normal
    distribution.

    Arguments:
        seeds: One per image, modulo 2^64.
        device: Where the numbers are computed.
    """

    noise: ClassVar[str] = "counter"
    """Their name in a setting."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seeds = tuple(int(seed) for seed in seeds)
        self.device = torch.device(device)
        words = [[seed & _MASK, (seed >> 32) & _MASK] for seed in self.seeds]
        keys = torch.tensor(words, dtype=torch.int64).reshape(-1, 2, 1).to(self.device)
        self._key = (keys[:, 0], keys[:, 1])
        self._draws = {_NORMAL: 0, _WHOLE: 0}

    def __len__(self) -> int:
        return len(self.seeds)

    def randn(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers [N, *shape] that float32 holds exactly."""
        count = math.prod(shape)
        blocks = -(-count // 4)
        drawn = torch.empty(len(self), blocks, 4, device=self.device)
        draw = self._next(_NORMAL)
        for rows, columns in _tiles(len(self), blocks, self.device):
            words = self._words(_NORMAL, draw, rows, columns)
            pairs = (*_box_muller(*words[:2]), *_box_muller(*words[2:]))
            torch.stack(pairs, dim=-1, out=drawn[rows, columns])
        return drawn.flatten(1)[:, :count].reshape(len(self), *shape).to(dtype)

    def randint(self, high: int | Sequence[int]) -> Tensor:
        """Draw whole numbers from 0 to high - 1, int64 [N].

        They are the word times high, over 2^32, cut off: no number is likelier than another by
        more than high / 2^32.

        Arguments:
            high: From 1 to 2^31, of all images or one for each.
        """
        everyone, first = slice(0, len(self)), slice(0, 1)
        word = self._words(_WHOLE, self._next(_WHOLE), everyone, first)[0].flatten()
        return word * torch.as_tensor(high, device=self.device) >> 32

    def randn_like(self, x: Tensor) -> Tensor:
        """Draw standard normal numbers of the shape [N, ...] and dtype of `x`."""
        return self.randn(x.shape[1:], x.dtype).to(x.device)

    def _next(self, kind: int) -> int:
        """Return how many draws of a kind there were before, and count this one."""
        draw = self._draws[kind]
        self._draws[kind] += 1
        return draw

    def _words(
        self, kind: int, draw: int, images: slice, blocks: slice
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return four words [images, blocks] of a draw."""
        block = torch.arange(blocks.start, blocks.stop, dtype=torch.int64, device=self.device)
        rest = (block.new_full((1,), value) for value in (draw, kind, 0))
        return philox((block, *rest), (self._key[0][images], self._key[1][images]))


Streams = ImageStreams | CounterStreams


def image_streams(
    noise: str, seeds: Sequence[int], device: torch.device | str = "cpu"
) -> ImageStreams | CounterStreams:
    """Return the streams that a setting asks for.

    Arguments:
        noise: `Setting.noise`, one of `NOISES`.
        seeds: One per image.
        device: Where the drawn tensors go.

    Raises:
        SpecError: For another name.
    """
    for kind in (ImageStreams, CounterStreams):
        if kind.noise == noise:
            return kind(seeds, device)
    raise SpecError(
        "setting.noise",
        expected=f"one of {', '.join(NOISES)}",
        found=repr(noise),
        hint="choose one of those listed",
    )


def philox(
    counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute Philox4x32-10, a bijection of the counter for each key.

    Arguments:
        counter: Four words, each int64 from 0 to 2^32 - 1, of shapes that broadcast.
        key: Two words, likewise.

    Returns:
        Four words, int64 from 0 to 2^32 - 1, of the broadcast shape.

    References:
        Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011,
        section 3.3; known answers in their Random123, tests/kat_vectors.
    """
    one, two, three, four, *_ = torch.broadcast_tensors(*counter, *key)
    left, right = key
    for _ in range(_ROUNDS):
        high_1, low_1 = _product(one, _MULTIPLIERS[0])
        high_3, low_3 = _product(three, _MULTIPLIERS[1])
        one, two = high_3.bitwise_xor_(two).bitwise_xor_(left), low_3
        three, four = high_1.bitwise_xor_(four).bitwise_xor_(right), low_1
        left, right = left + _INCREMENTS[0] & _MASK, right + _INCREMENTS[1] & _MASK
    return one, two, three, four


def _product(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """Return the upper and the lower word of a product of 64 bits.

    The multiplier is above 2^31: with 2^32 taken off, the product fits the signed numbers of 64
    bits, and the word itself makes up for it in the upper half.
    """
    less = word * (multiplier - _WORD)
    high = (less >> 32).add_(word)
    return high, less.bitwise_and_(_MASK)


def _tiles(images: int, blocks: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Yield parts of a grid [images, blocks]: all of it at once, but on a CPU what caches hold."""
    if device.type != "cpu":
        yield slice(0, images), slice(0, blocks)
        return
    high = max(1, _TILE // max(blocks, 1))
    for row in range(0, images, high):
        for column in range(0, blocks, _TILE):
            rows = slice(row, min(row + high, images))
            yield rows, slice(column, min(column + _TILE, blocks))


def _box_muller(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Return two independent standard normal numbers, float32, of two words."""
    radius = ((one.to(torch.float64) + 0.5) / _WORD).log_().mul_(-2).sqrt_()
    angle = (two.to(torch.float64) + 0.5) * (2 * math.pi / _WORD)
    return (radius * angle.cos()).float(), (radius * angle.sin_()).float()
