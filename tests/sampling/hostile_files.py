"""Files that want to run code, or to use up memory or time; harmless where they are only read.

What they would run touches a file, the canary.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

__all__ = ["hostile_files", "truncated"]

MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _bytes(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def _call(name: str, *arguments: bytes) -> bytes:
    """The instructions that call a `module name` of the given arguments."""
    module, _, attribute = name.partition(" ")
    return f"c{module}\n{attribute}\n".encode() + b"(" + b"".join(arguments) + b"tR"


class _Reduced:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def _storage(numbers: int, *, announced: int | None = None, name: str = "FloatStorage") -> bytes:
    """A storage in torch's layout of before 1.6, which may announce more than it holds."""
    count = numbers if announced is None else announced
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    reference = (
        b"\x80\x02(" + _text("storage") + f"ctorch\n{name}\n".encode() + _text("0") + _text("cpu")
    )
    return (
        b"\x80\x02\x8a\x0a"
        + MAGIC
        + b"."
        + pickle.dumps(1001, 2)
        + pickle.dumps(system, 2)
        + (reference + b"\x8a\x08" + struct.pack("<q", count) + b"NtQ.")
        + pickle.dumps(["0"], 2)
        + struct.pack("<q", count)
        + bytes(4 * numbers)
    )


def _tensor(storage: bytes, size: int = 4, stride: int = 1, offset: int = 0) -> bytes:
    number = [b"\x8a\x08" + struct.pack("<q", value) for value in (offset, size, stride)]
    return _call(
        "torch._utils _rebuild_tensor_v2",
        _call("torch.storage _load_from_bytes", _bytes(storage)),
        number[0],
        b"(" + number[1] + b"t",
        b"(" + number[2] + b"t",
        b"\x89",
        _call("collections OrderedDict"),
    )


def _object(class_name: str, *items: bytes) -> bytes:
    """A persistent object; items are keys and values of its state."""
    source = _text("module_src") + _text("raise SystemExit('run')")
    name_of_class = _text("class_name") + _text(class_name)
    state = _text("state") + b"}(" + b"".join(items) + b"u"
    meta = _text("type") + _text("class") + _text("version") + b"K\x06" + source
    name = "torch_utils.persistence _reconstruct_persistent_obj"
    return _call(name, b"}(" + meta + name_of_class + state + b"u")


def _network(tensor: bytes = b"N", *, modules: bytes = b"", arguments: bytes = b"") -> bytes:
    """A network of one tensor, or of other modules."""
    shape = _text("img_resolution") + b"K\x08" + _text("img_channels") + b"K\x01"
    model = _object(
        "SongUNet",
        _text("_parameters") + b"}" + _text("weight") + tensor + b"s",
        _text("_modules") + b"}(" + modules + b"u",
        _text("_init_kwargs") + b"}(" + arguments + b"u",
    )
    return _object(
        "EDMPrecond",
        _text("_modules") + b"}" + _text("model") + model + b"s",
        _text("_init_kwargs") + b"}(" + shape + b"u",
    )


def _zip(content: bytes, method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def _saved(value: Any, *, new: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def _running(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Files that would run something at their outer level."""
    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    shell = _text(touch)
    for protocol in range(6):
        bomb = pickle.dumps({"ema": _Reduced(Path.touch, canary)}, protocol)
        yield f"pathlib in protocol {protocol}", bomb
    yield "os.system", b"\x80\x04" + _call("os system", shell) + b"."
    yield "posix.system", _call("posix system", shell) + b"."
    yield "nt.system", _call("nt system", shell) + b"."
    yield "subprocess", _call("subprocess Popen", shell) + b"."
    yield "eval", _call("builtins eval", _text(code)) + b"."
    yield "exec of old", _call("__builtin__ exec", _text(code)) + b"."
    yield "compile", _call("builtins compile", _text(code), _text("x"), _text("exec")) + b"."
    open_ = _call("builtins getattr", b"cbuiltins\n__dict__\n", _text("get"))
    yield "builtins chain", b"(" + open_ + _text("open") + b"tR."
    yield "operator.attrgetter", _call("operator attrgetter", _text("system")) + b"."
    yield "functools.partial", _call("functools partial", b"cos\nsystem\n", shell) + b"."
    yield "importlib", _call("importlib import_module", _text("os")) + b"."
    yield "runpy", _call("runpy run_path", _text(str(canary))) + b"."
    yield "dotted name", _text("torch.storage") + _text("os.system") + b"\x93(" + shell + b"tR."
    yield "dotted allowed", _call("torch.storage _load_from_bytes.__globals__", shell) + b"."
    yield "numpy testing", _call("numpy.testing._private.utils runstring", shell) + b"."
    yield "numpy load", _call("numpy load", _text(str(canary)), b"N\x88") + b"."
    yield "torch.load", _call("torch load", _text(str(canary))) + b"."
    yield "torch.hub", _call("torch.hub load", _text("a/b"), _text("c")) + b"."
    yield "name in another case", _call("Collections OrderedDict") + b"."
    yield "name with an escape", b"ccollections\nOrdered\\x44ict\n)R."


def _tricks() -> Iterator[tuple[str, bytes]]:
    """Instructions that turn allowed values into something else, or leave the file."""
    yield "instruction INST", b"(" + _text("true") + b"ios\nsystem\n."
    yield "instruction INST, allowed name", b"(icollections\nOrderedDict\n."
    yield "instruction OBJ", b"(ccollections\nOrderedDict\no."
    yield "instruction NEWOBJ_EX", b"\x80\x04ccollections\nOrderedDict\n)}\x92."
    yield "extension registry 1", b"\x80\x02\x82\x01)R."
    yield "extension registry 2", b"\x80\x02\x83\x01\x01)R."
    yield "extension registry 4", b"\x80\x02\x84\x01\x01\x01\x01)R."
    yield "persistent id", b"Pos.system\n."
    yield "binary persistent id", _text("os.system") + b"Q."
    yield "out-of-band buffer", b"\x80\x05\x97."
    yield "call of text", _text("os.system") + b")R."
    yield "call of a result", _call("collections OrderedDict") + b")R."
    yield "call of a record", _object("os.system") + b")R."
    yield "call of numpy.ndarray", _call("numpy ndarray", b"(K\x04t") + b"."
    yield "class of the wrong kind", _text("os") + b")\x81."
    attributes = b"}" + _text("__class__") + _text("x") + b"sb."
    yield "BUILD of a name", b"ctorch.storage\n_load_from_bytes\n" + attributes
    yield "BUILD of a dict", _call("dnnlib.util EasyDict") + attributes
    yield "BUILD of text", _text("x") + attributes
    yield "BUILD of a list", b"]" + attributes
    yield "BUILD twice", _object("X") + attributes
    slots = b"(N}" + _text("__code__") + _text("x") + b"stb."
    yield "BUILD of slots", b"ctorch._utils\n_rebuild_parameter\n" + slots
    yield "__setstate__ by text", b"}" + _text("__setstate__") + b"cos\nsystem\ns."
    yield "unhashable key", b"}]Ns."
    yield "key of tuples", b"}" + b")" + b"\x85" * 100_000 + b"Ns."
    yield "key that is a number", b"}K\x01Ns."
    yield "unknown protocol", b"\x80\x06N."
    yield "unknown instruction", b"\x80\x04\xff."


def _bombs() -> Iterator[tuple[str, bytes]]:
    """Files that ask for memory or time."""
    yield "memo bomb", b"]r\xff\xff\xff\x7f."
    yield "memo bomb in text", b"]p" + b"9" * 4000 + b"\n."
    yield "length of bytes", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x."
    yield "length of text", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x."
    yield "length of bytes, 4 bytes", b"B\xff\xff\xff\x7fx."
    yield "length of an array", b"\x80\x05\x96" + struct.pack("<Q", 1 << 45) + b"x."
    yield "length of a frame", b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N."
    yield "length of an integer", b"\x8b\xff\xff\xff\x7fx."
    yield "negative length", b"\x8b\xff\xff\xff\xffx."
    yield "long integer", b"\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000 + b"."
    yield "long decimal", b"L" + b"9" * 100_000 + b"L\n."
    yield "nested marks", b"(" * 1_000_000 + b"."
    yield "nested lists", b"]" * 300_000 + b"a" * 299_999 + b"."
    yield "nested tuples", b")" + b"\x85" * 300_000 + b"."
    yield "nested calls", b"cnumpy\ndtype\n" * 10_000 + b")" + b"\x85R" * 10_000 + b"."
    yield "many instructions", b"N0" * 1_100_000 + b"N."
    yield "many sets", b"\x80\x04" + b"\x8f" * 1_900_000 + b"."
    yield "laughs", b"]" + b"2\x86" * 100 + b"."
    yield "stack that is not empty", b"NN."
    yield "nothing on the stack", b"."
    yield "pop of nothing", b"0."
    yield (
        "module in itself",
        (
            b"ctorch.nn.modules.container\nModuleDict\n)\x81q\x01}"
            + (_text("_modules") + b"}" + _text("x") + b"h\x01ssb0")
            + _network(modules=_text("a") + b"h\x01")
            + b"."
        ),
    )
    many = _call("torch.nn.modules.container ModuleDict")
    for _ in range(8):
        inside = b"}(" + b"".join(_text(letter) + b"h\x05" for letter in "abcdef") + b"u"
        again = b"ctorch.nn.modules.container\nModuleDict\n)\x81}" + _text("_modules")
        many += b"q\x050" + again + inside + b"sb"
    yield (
        "modules six times over",
        many + b"q\x050" + _network(modules=_text("a") + b"h\x05") + b".",
    )
    yield (
        "blocks without end",
        _network(_tensor(_storage(4)), arguments=_text("num_blocks") + b"J\xff\xff\xff\x7f")
        + b".",
    )


def _tensors(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Networks whose tensors are something else."""
    bomb = _Reduced(Path.touch, canary)
    reference = _storage(4)

    def network(storage: bytes, *shape: int) -> bytes:
        return _network(_tensor(storage, *shape)) + b"."

    yield "pickle in a storage", network(pickle.dumps(bomb, 2))
    yield "code in a storage, zip", network(_saved(bomb, new=True))
    yield "code in a storage, legacy", network(_saved(bomb, new=False))
    yield (
        "os.system in a storage",
        network(reference.replace(b"ctorch\nFloatStorage\n", b"cos\nsystem\n")),
    )
    yield "zip bomb in a storage", network(_zip(bytes(50_000_000), zipfile.ZIP_DEFLATED))
    yield "storage that announces more", network(_storage(4, announced=1 << 40))
    yield "storage that announces a negative", network(_storage(4, announced=-1))
    yield "storage of no numbers", network(_storage(4, name="UntypedStorage"))
    yield "storage with more after it", network(reference + b"x")
    yield "storage of text", network(b"hello")
    yield "tensor beyond its storage", network(reference, 5)
    yield "tensor before its storage", network(reference, 4, 1, -1)
    yield "tensor of strides", network(reference, 4, 1 << 40)
    yield "tensor of zero strides", network(reference, 1 << 40, 0)
    yield "tensor of negative size", network(reference, -4)
    yield "number for a tensor", _network(b"K\x01") + b"."
    yield "record for a tensor", _network(_object("X")) + b"."
    kept = _tensor(_storage(20_000), 20_000) + b"q\x070"
    names = b"".join(_text(f"w{index}") + b"h\x07" for index in range(2_000))
    shared = _object("Linear", _text("_parameters") + b"}(" + names + b"u")
    yield "one storage, many tensors", kept + _network(modules=_text("a") + shared) + b"."
    doubled = b"(" + b"N" + b"2\x86" * 60 + b"l"
    asked = reference.replace(_text("0"), doubled, 1).replace(
        pickle.dumps(["0"], 2), b"(" + doubled + b"l."
    )
    yield "key of a storage doubled 60 times", network(asked)
    data = _bytes(_storage(20_000)) + b"q\x070"
    one = _tensor(_storage(1), 1).replace(_bytes(_storage(1)), b"h\x07")
    names = b"".join(_text(f"w{index}") + one for index in range(100))
    again = _object("Linear", _text("_parameters") + b"}(" + names + b"u")
    yield (
        "one storage loaded again and again",
        (data + _network(modules=_text("a") + again) + b"."),
    )
    many = _object(
        "Linear",
        _text("_parameters")
        + b"}("
        + b"".join(_text(f"w{index}") + b"h\x07" for index in range(20_000))
        + b"u",
    )
    modules = b"q\x080" + _network(
        modules=b"".join(_text(letter) + b"h\x08" for letter in "abcdefghijklmn")
    )
    yield "empty tensors without end", _tensor(reference, 0) + b"q\x070" + many + modules + b"."
    lists = b"K\x01" + b"".join(b"q\x070](" + b"h\x07" * 64 + b"e" for _ in range(6))
    arguments = b"q\x070" + _network(arguments=_text("channel_mult") + b"h\x07")
    yield "arguments of lists of lists of lists", lists + arguments + b"."
    path = _object("Linear", _text("_parameters") + b"}" + _text("../../x") + b"Ns")
    yield "name that is a path", _network(modules=_text("a") + path) + b"."


def _containers(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Files of another kind."""
    bomb = {"ema": _Reduced(Path.touch, canary)}
    yield "zip of torch.save with code", _saved(bomb, new=True)
    yield "legacy torch.save with code", _saved(bomb, new=False)
    yield "zip that is stored", _zip(pickle.dumps(bomb), zipfile.ZIP_STORED)
    yield "nothing", b""
    yield "one byte", b"\x80"
    yield "html", b"<!DOCTYPE html><title>404</title>"
    yield "gzip", b"\x1f\x8b\x08\x00" + bytes(100)
    yield "tar", b"storages" + bytes(600)
    yield "lfs pointer", b"version https://git-lfs.github.com/spec/v1\n"
    yield "code after the end", pickle.dumps(None) + pickle.dumps(bomb)
    yield "plain dict", pickle.dumps({"model": {}, "args": {}})
    yield "ema that is text", pickle.dumps({"ema": "weights.pt"})
    yield "escape codes in a name", b"c\x1b[2J\nx\n)R."
    yield "foreign class", _object("\x1b[31mEvil\n") + b"."


def hostile_files(canary: Path) -> dict[str, bytes]:
    """Return all of them by name.

    Arguments:
        canary: The file that those which run code would make.
    """
    found: dict[str, bytes] = {}
    parts = (_running(canary), _tricks(), _bombs(), _tensors(canary), _containers(canary))
    for part in parts:
        for name, content in part:
            assert name not in found
            found[name] = content
    return found


def truncated(content: bytes) -> dict[str, bytes]:
    """Return a good file cut off at every percent of its length."""
    return {f"cut at {part} %": content[: len(content) * part // 100] for part in range(100)}
