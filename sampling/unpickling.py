"""Pickles of NVIDIA's EDM and EDM2 networks as plain records: nothing in them is run or imported.

A pickle is a program for a small machine that may call any function by its name, and these files
also carry the source code of their classes, which NVIDIA's own loader executes. Here
`pickletools.genops` takes the stream apart, and the machine below knows the instructions of plain
data and the names in `WORDS`, which it writes down as records. It has no way to import or call
anything; any other instruction or name ends the reading and is told. The embedded source is
dropped. Protocols 0 to 5 are read as far as they need nothing else.

Format (facts from github.com/NVlabs/edm and edm2, torch_utils/persistence.py, version 6): a
persistent object is one call of `_reconstruct_persistent_obj` with a dict of its class name, the
source of its module and its `__dict__`; a tensor is a call of torch's rebuilding functions around
a storage's bytes, which `storages` reads.

What a hostile file can cost is bounded before it is paid: see the constants. A length beyond the
end of the file is refused unread. The number of instructions bounds time, and with it the size of
everything but text and bytes, which the file's own size bounds (text by four times that).
"""

from __future__ import annotations

import os
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from skiptune.errors import NetworkError

__all__ = [
    "DISTRUST",
    "TORCH_MAGIC",
    "WORDS",
    "Call",
    "Machine",
    "Name",
    "Record",
    "Stream",
    "UnfitError",
    "checked",
    "damaged",
    "plain_bytes",
    "read_records",
    "refuse_old_torch",
]

MOST_BYTES = 8 << 30
"""Of a file: EDM2's largest, XXL, has 3.05 GB."""

MOST_INSTRUCTIONS = 2_000_000
"""About a second of reading. The layout of ImageNet-64's network takes 50,000 in the tests."""

MOST_MEMO = 1_000_000
"""Values kept for reuse, and the largest number that one is kept by: 12,000 in the same."""

MOST_DEPTH = 500
"""Open groups at a time: these networks have 16."""

MOST_BITS = 128
"""Of an integer: the largest in these files, torch's magic number, has 77."""

OLDEST_TORCH = (2, 10)
"""Earlier ones can be made to run code by a file in spite of weights_only (CVE-2026-24747)."""

WORDS = {
    "torch_utils.persistence _reconstruct_persistent_obj": "object",
    "torch._utils _rebuild_tensor_v2": "tensor",
    "torch._utils _rebuild_parameter": "parameter",
    "torch.storage _load_from_bytes": "storage",
    "torch.nn.modules.container ModuleDict": "modules",
    "collections OrderedDict": "dict",
    "dnnlib.util EasyDict": "dict",
    "numpy dtype": "dtype",
    "numpy ndarray": "class",
    "numpy._core.multiarray scalar": "scalar",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy._core.numeric _frombuffer": "array",
    # numpy before version 2:
    "numpy.core.multiarray scalar": "scalar",
    "numpy.core.multiarray _reconstruct": "array",
    "numpy.core.numeric _frombuffer": "array",
    # Sets and bytes before protocol 3:
    "__builtin__ set": "set",
    "builtins set": "set",
    "_codecs encode": "encoded",
}
"""Each name that a network's file may hold, as `module name`, and what it is taken for."""

# The number that files of torch.save began with before torch 1.6.
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_EXPECTED = "a network pickle of NVlabs' EDM or EDM2"
_FETCH = "fetch the file again from where NVIDIA publishes it"
DISTRUST = (
    "load this file with nothing: it wants to run what a network's file does not need; fetch it"
    " from where NVIDIA publishes it"
)


@dataclass(slots=True, eq=False)
class Record:
    """An object of a class that stays unknown: its class name and what it held.

    Arguments:
        class_name: As the file says, not checked.
        state: Its attributes; None until the file has given them.
    """

    class_name: str
    state: dict[str, Any] | None = None

    def part(self, name: str) -> dict[str, Any]:
        """Return an attribute that is a dict; an empty one where there is none."""
        found = (self.state or {}).get(name)
        return found if isinstance(found, dict) else {}


@dataclass(slots=True, eq=False)
class Call:
    """A call that was written down and not made.

    Arguments:
        word: What the called name is taken for, a value of `WORDS`.
        arguments: As the file says, not checked.
        state: What numpy's values are given afterwards.
    """

    word: str
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True, slots=True)
class Name:
    """A name that the machine knows, and what it is taken for."""

    text: str
    word: str


class UnfitError(Exception):
    """A stream is no network's file, or asks for what is not done."""

    def __init__(self, found: str, hint: str = _FETCH) -> None:
        super().__init__(found)
        self.hint = hint


class Stream:
    """A file from which no more can be asked for than it holds.

    Arguments:
        file: Where it is to be read from.
        size: Bytes from there to its end.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self.left = size

    def read(self, size: int) -> bytes:
        """Return the next bytes; fewer are refused."""
        if size > self.left:
            raise UnfitError(f"one that is cut off: {size:,} bytes asked for, {self.left:,} left")
        data = self._file.read(size)
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        """Return the next line, with its end."""
        line = self._file.readline()
        self.left -= len(line)
        return line


_CONSTANTS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE"
    " BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))


class Machine:
    """Follows the instructions of one pickle.

    Arguments:
        words: The names it knows.
        references: Whether references out of the pickle are written down (in storages), or
            refused.
    """

    def __init__(self, words: dict[str, str], *, references: bool = False) -> None:
        self._words = words
        self._references = references
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: Stream) -> Any:
        """Return the value of the next pickle in a stream.

        Raises:
            UnfitError: For an instruction or name that is not known, or a limit.
            Exception: For a damaged stream, almost any.
        """
        for count, (code, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", stream))):
            if count >= MOST_INSTRUCTIONS:
                raise UnfitError(f"one of over {MOST_INSTRUCTIONS:,} instructions")
            self._do(code.name, argument)
        (value,) = self._stack
        return value

    def _do(self, code: str, argument: Any) -> None:
        stack = self._stack
        if code in _CONSTANTS:
            if isinstance(argument, int) and argument.bit_length() > MOST_BITS:
                raise UnfitError(f"an integer of {argument.bit_length():,} bits")
            stack.append(argument)
        elif code in _PUTS:
            self._put(len(self._memo) if code == "MEMOIZE" else argument)
        elif code in _GETS:
            stack.append(self._memo[argument])
        elif code in _TUPLES:
            count = _TUPLES[code]
            items = tuple(stack[len(stack) - count :]) if count <= len(stack) else ()
            if len(items) < count:
                raise ValueError("a tuple of more values than there are")
            del stack[len(stack) - count :]
            stack.append(items)
        else:
            self._do_rarer(code, argument)

    def _do_rarer(self, code: str, argument: Any) -> None:
        stack = self._stack
        match code:
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(code == "NEWTRUE")
            case "MARK":
                if len(self._below) >= MOST_DEPTH:
                    raise UnfitError(f"one nested over {MOST_DEPTH} deep")
                self._below.append(stack)
                self._stack = []
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(set())
            case "TUPLE":
                items = self._group()
                self._stack.append(tuple(items))
            case "LIST":
                items = self._group()
                self._stack.append(items)
            case "DICT":
                items = self._group()
                self._stack.append(_extended({}, items))
            case "APPEND":
                item = stack.pop()
                checked(stack[-1], list).append(item)
            case "APPENDS":
                items = self._group()
                checked(self._stack[-1], list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _extended(stack[-1], [key, value])
            case "SETITEMS":
                items = self._group()
                _extended(self._stack[-1], items)
            case "ADDITEMS":
                items = self._group()
                checked(self._stack[-1], set).update(_texts(items))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._group()
            case "DUP":
                stack.append(stack[-1])
            case "GLOBAL":
                stack.append(self._name(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self._name(f"{checked(module, str)} {checked(name, str)}"))
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_noted(called, checked(arguments, tuple)))
            case "BUILD":
                state = stack.pop()
                _filled(stack[-1], state)
            case "BINPERSID" if self._references:
                stack.append(Call("reference", (stack.pop(),)))
            case "PROTO" | "FRAME" | "STOP":
                # genops has refused later protocols' instructions; a frame is only a hint to
                # read ahead.
                if code == "PROTO" and argument > 5:
                    raise UnfitError(f"pickle protocol {argument}")
            case _:
                raise UnfitError(f"one with the instruction {code}", DISTRUST)

    def _group(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items

    def _put(self, index: int) -> None:
        if not 0 <= index < MOST_MEMO:
            raise UnfitError(f"one that keeps a value by a number over {MOST_MEMO:,}")
        self._memo[index] = self._stack[-1]

    def _name(self, text: str) -> Name:
        if text not in self._words:
            module, _, name = text.partition(" ")
            raise UnfitError(f"one that names {_shown(f'{module}.{name}')}", DISTRUST)
        return Name(text, self._words[text])


def _noted(called: Any, arguments: tuple[Any, ...]) -> Any:
    """Return what stands for a call: containers are made, everything else is written down."""
    if not isinstance(called, Name):
        raise UnfitError(f"one that calls a {type(called).__name__}", DISTRUST)
    match called.word:
        case "object":
            (meta,) = arguments
            if checked(meta, dict).get("type") != "class":
                raise ValueError("a persistent object without a class")
            # The source of its module is left behind with the dict.
            return Record(checked(meta["class_name"], str), checked(meta["state"], dict))
        case "modules":
            () = arguments
            return Record("ModuleDict")
        case "dict":
            () = arguments
            return {}
        case "set":
            (items,) = arguments
            return set(_texts(checked(items, list)))
        case "class" | "reference":
            raise UnfitError(f"one that calls {called.text.replace(' ', '.')}", DISTRUST)
        case word:
            return Call(word, arguments)


def _filled(value: Any, state: Any) -> None:
    """Give a record its attributes, once."""
    if isinstance(value, Record) and value.state is None:
        value.state = checked(state, dict)
    elif isinstance(value, Call) and value.word in ("dtype", "array") and value.state is None:
        value.state = checked(state, tuple)
    elif not (isinstance(value, dict) and state == {}):
        kind = value.class_name if isinstance(value, Record) else type(value).__name__.strip("_")
        raise UnfitError(f"one that changes the attributes of a {_shown(kind)}", DISTRUST)


def _extended(value: Any, items: list[Any]) -> dict[str, Any]:
    keys = items[::2]
    known: dict[str, Any] = checked(value, dict)
    # Text alone: its hashes are salted, so that no file can choose keys that collide.
    known.update(zip(_texts(keys), items[1::2], strict=True))
    return known


def _texts(items: list[Any]) -> list[str]:
    for item in items:
        checked(item, str)
    return items


def checked(value: Any, kind: type) -> Any:
    """Return a value of this kind; refuse any other with a ValueError."""
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _shown(text: str) -> str:
    """Return text from a file in at most 80 printable characters."""
    shown = re.sub(r"[^\x21-\x7e]", "?", text[:81])
    return shown if len(shown) <= 80 else shown[:77] + "..."


def refuse_old_torch(version: str) -> None:
    """Refuse a torch whose weights_only can be circumvented.

    Arguments:
        version: As `torch.__version__` says.

    Raises:
        NetworkError: When it is older than `OLDEST_TORCH`.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise NetworkError(
            "torch",
            expected=f"version {oldest} or later: a hostile file can make earlier ones run code",
            found=version,
            hint=f"pip install 'torch>={oldest}'",
        )


def read_records(path: Path) -> Any:
    """Read a pickle without running anything.

    Arguments:
        path: The file.

    Returns:
        Its value of dicts with text as keys, lists, tuples, sets of text, text, bytes, numbers,
        None, and in place of everything else `Record` and `Call`. It may contain itself.

    Raises:
        NetworkError: When the file cannot be read, holds an instruction or a name that is not
            known, is damaged or cut off, or exceeds a limit.
    """
    refuse_old_torch(torch.__version__)
    if not path.is_file():
        raise NetworkError(
            str(path),
            expected=_EXPECTED,
            found="a folder" if path.is_dir() else "no such file",
            hint="check the path",
        )
    try:
        with open(path, "rb") as file:
            return _value(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise NetworkError(
            str(path),
            expected="a readable file",
            found=error.strerror or str(error),
            hint="check the file's permissions",
        ) from error
    except UnfitError as unfit:
        raise NetworkError(
            str(path), expected=_EXPECTED, found=str(unfit), hint=unfit.hint
        ) from None
    # A damaged or hostile stream ends in almost any exception, none of them ours.
    except Exception as error:
        raise damaged(str(path), error) from None


def _value(file: IO[bytes], size: int) -> Any:
    if size > MOST_BYTES:
        raise UnfitError(f"a file of {size:,} bytes, over {MOST_BYTES:,}")
    start = file.read(9)
    if start[8:] == b"{":
        raise UnfitError("a safetensors file", "it needs no converting: `skiptune skips FILE`")
    if start.startswith(b"PK\x03\x04"):
        raise UnfitError("a zip archive, as torch.save writes it", "give the .pkl of the network")
    file.seek(0)
    stream = Stream(file, size)
    value = Machine(WORDS).run(stream)
    if value == TORCH_MAGIC:
        raise UnfitError("a file of torch.save of before 1.6", "give the .pkl of the network")
    if stream.left:
        raise UnfitError(f"one with {stream.left:,} bytes after its end")
    return value


def damaged(where: str, error: Exception) -> NetworkError:
    """Return the error for a file that ended in some exception."""
    words = str(error) or "no reason given"
    return NetworkError(
        where,
        expected=_EXPECTED,
        found=f"a damaged one ({type(error).__name__}: {words.splitlines()[0][:100]})",
        hint=_FETCH,
    )


def plain_bytes(value: Any) -> bytes | bytearray:
    """Return bytes, also as pickles before protocol 3 write them.

    Raises:
        ValueError: When it is something else.
    """
    if isinstance(value, Call) and value.word == "encoded":
        text, code = value.arguments
        if code != "latin1":
            raise ValueError("bytes in an unknown encoding")
        return checked(text, str).encode("latin1")  # type: ignore[no-any-return]
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"a {type(value).__name__} where bytes belong")
    return value
