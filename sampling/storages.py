"""The tensors and numbers of NVIDIA's pickles: checked to be plain, then read by torch.

A storage is a file of `torch.save` in the layout of before torch 1.6, as bytes: five pickles (a
magic number, a version, the machine, a reference to the storage, a list of its key), the number of
its items, the items. Facts from torch's `serialization.py`.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from typing import Any

import torch
from torch import Tensor

from skiptune.errors import NetworkError
from skiptune.sampling.unpickling import (
    DISTRUST,
    TORCH_MAGIC,
    Call,
    Machine,
    Name,
    Stream,
    UnfitError,
    checked,
    damaged,
    plain_bytes,
)

__all__ = ["Tensors", "number"]

MOST_AXES = 8
"""Of a tensor: a convolution's weight has four."""

_STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
_TORCH_PROTOCOL = 1001
# numpy's codes of the numbers that configurations hold, in the language of `struct`.
_NUMBERS = {"f2": "e", "f4": "f", "f8": "d", "i4": "i", "i8": "q", "u1": "B", "b1": "?"}


def number(call: Call) -> int | float | bool:
    """Return a number of numpy's as Python's.

    Arguments:
        call: With the word `scalar`.

    Raises:
        ValueError: When it is none.
    """
    if call.word != "scalar" or len(call.arguments) != 2:
        raise ValueError(f"a {call.word} where a number belongs")
    kind, data = call.arguments
    if not isinstance(kind, Call) or kind.word != "dtype" or not kind.arguments:
        raise ValueError("a number without a type")
    code = _NUMBERS.get(kind.arguments[0]) if isinstance(kind.arguments[0], str) else None
    order = kind.state[1] if kind.state and len(kind.state) > 1 else "<"
    if code is None or order not in ("<", ">", "|", "="):
        raise ValueError("a number of unknown type")
    try:
        (found,) = struct.unpack(("<" if order in "|=" else order) + code, plain_bytes(data))
    except struct.error as error:
        raise ValueError(str(error)) from error
    value: int | float | bool = found
    return value


class Tensors:
    """Makes the tensors of one file.

    Arguments:
        most_bytes: Of all of them together, and of all their storages: the size of the file. It
            cannot hold more, only refer to the same bytes again and again.
    """

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self._storages_left = most_bytes

    def make(self, value: Any, where: str) -> Tensor:
        """Return a tensor.

        Arguments:
            value: What stands for it, a `Call` with the word `parameter` or `tensor`.
            where: The file and the tensor's name, for messages.

        Returns:
            Contiguous, on the CPU, with the file's dtype, no gradients, sharing memory with no
            other.

        Raises:
            NetworkError: When it is no tensor, its storage is of another kind than a plain one,
                or it reaches beyond it.
        """
        try:
            return self._made(value)
        except UnfitError as unfit:
            raise NetworkError(
                where, expected="a plain tensor", found=str(unfit), hint=unfit.hint
            ) from None
        except Exception as error:
            raise damaged(where, error) from None

    def _made(self, value: Any) -> Tensor:
        if isinstance(value, Call) and value.word == "parameter":
            value = value.arguments[0]
        if not isinstance(value, Call) or value.word != "tensor":
            raise ValueError(f"a {type(value).__name__} where a tensor belongs")
        storage, offset, size, stride = value.arguments[:4]
        for numbers in (size, stride, (offset,)):
            if not all(type(item) is int and item >= 0 for item in checked(numbers, tuple)):
                raise ValueError("a tensor of unknown shape")
        if len(size) != len(stride) or len(size) > MOST_AXES:
            raise ValueError("a tensor of unknown shape")
        flat, fresh = self._storage(storage)
        count = math.prod(size)
        steps = zip(size, stride, strict=True)
        last = offset + sum((length - 1) * step for length, step in steps) if count else offset
        if count > flat.numel() or (count and last >= flat.numel()):
            raise ValueError("a tensor that reaches beyond its storage")
        self._left -= count * flat.element_size()
        self._refuse_more_than_the_file()
        tensor = flat.as_strided(size, stride, offset)
        return (
            tensor.contiguous() if fresh else tensor.clone(memory_format=torch.contiguous_format)
        )

    def _storage(self, call: Any) -> tuple[Tensor, bool]:
        """Return all numbers of a storage, and whether they are used for the first time."""
        if not isinstance(call, Call) or call.word != "storage":
            raise ValueError(f"a {type(call).__name__} where a storage belongs")
        (data,) = call.arguments
        if isinstance(data, Tensor):
            return data, False
        data = plain_bytes(data)
        self._storages_left -= len(data)
        self._refuse_more_than_the_file()
        dtype = _storage_dtype(data)
        with warnings.catch_warnings():
            # torch deprecates the storages that its own files consist of.
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            flat = torch.empty(0, dtype=dtype).set_(loaded.untyped())
        # The bytes are free now: a file is in memory once, not twice.
        call.arguments = (flat,)
        return flat, True

    def _refuse_more_than_the_file(self) -> None:
        if min(self._left, self._storages_left) < 0:
            raise UnfitError("tensors of more bytes than the file has", DISTRUST)


def _storage_dtype(data: bytes | bytearray) -> torch.dtype:
    """Return the type of a storage's numbers, after checking that it holds nothing else.

    `torch.load` allocates what a file says, knows many more names, and unpacks zip archives; so
    a file is only given to it that consists of torch's five pickles and as many bytes as they
    announce.
    """
    stream = Stream(io.BytesIO(data), len(data))
    if data[:2] == b"PK":
        raise UnfitError("a storage that is a zip archive", DISTRUST)
    magic, protocol, system = (Machine({}).run(stream) for _ in range(3))
    if magic != TORCH_MAGIC or protocol != _TORCH_PROTOCOL:
        raise UnfitError("a storage that is no file of torch.save", DISTRUST)
    if checked(system, dict).get("little_endian") is not True:
        raise UnfitError("a storage of a big-endian machine")
    words = dict.fromkeys(_STORAGES, "class")
    value = Machine(words, references=True).run(stream)
    keys = checked(Machine({}).run(stream), list)
    if not isinstance(value, Call) or value.word != "reference":
        raise UnfitError("a storage that holds something else", DISTRUST)
    kind, name, key, _, count, view = checked(value.arguments[0], tuple)
    # Text is compared with text alone: comparing nested lists could take for ever.
    texts = all(isinstance(text, str) for text in (kind, key, *keys[:2]))
    if not texts or kind != "storage" or keys != [key] or view is not None:
        raise UnfitError("a storage that holds something else", DISTRUST)
    if not isinstance(name, Name):
        raise UnfitError("a storage that holds something else", DISTRUST)
    dtype = _STORAGES[name.text]
    if type(count) is not int or stream.left != 8 + count * dtype.itemsize:
        raise UnfitError(f"a storage whose {stream.left:,} bytes are not what it announces")
    return dtype
