"""SHA-256 of what a value holds or a function does: the same in any process, and never of an address.

Every value has a digest, that of a composite is made of the digests of its parts. What has no parts that can be seen
(a lock, a generator, an object without attributes) raises `Unreadable`, or counts by its class where that is asked for.

A function is its bytecode, constants, names, defaults, closure and the global variables that it names; not its own
name, file or lines. What lies in torch, NumPy, Python itself and this package counts by its name, and so does what a
function names in other installed packages. Bytecode is that of a minor version of Python, source is not at hand
everywhere and may be newer than what runs; so functions are compared within one minor version.
"""

from __future__ import annotations

import contextlib
import copyreg
import dis
import enum
import functools
import hashlib
import json
import os
import re
import sys
import types
import weakref
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import torch

__all__ = ["Content", "Unreadable", "class_name", "plain_settings"]

_SHORT = {type(None), bool, int, float, str}
_LEAVES = (type(None), bool, int, float, complex, str, type(...))
_BY_NAME = {"torch", "numpy", "torchvision", "spectral_sampler", "builtins"}
_NUMBERED = re.compile(r"\A(cuda|xpu|mps|hpu):\d+\Z")
_STANDARD = os.path.dirname(os.__file__)  # noqa: PTH120 - compared as text
_MODULE_INTERNALS = frozenset(torch.nn.Module().__dict__)
_CLASS_INTERNALS = {"__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__firstlineno__"}
_CLASS_INTERNALS |= {"__static_attributes__", "__annotations_cache__", "__annotate_func__", "_abc_impl", "__qualname__"}
_PLACE = {"device", "device_ids", "output_device", "rank", "local_rank", "global_rank"}  # other on every rank
_PLACE |= {"forward"}  # and hooked by those who place a model
_PLACE |= {"name_or_path"}  # and where transformers loaded it from
_TOKENIZER_PASSING = {"_tokenizer", "deprecation_warnings", "cache"}
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_SETTINGS = (*_LEAVES, torch.dtype, torch.Tensor, types.FunctionType, types.BuiltinFunctionType, functools.partial)


class Unreadable(Exception):
    """A value whose content cannot be seen."""


def class_name(value: Any) -> str:
    """Module and name of the class of ``value``."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def plain_settings(module: torch.nn.Module) -> list[Any]:
    """Public attributes of a model's modules that are numbers, texts, functions, tensors or sequences of them.

    Not what says where it runs, which differs from rank to rank.
    """
    found = []
    for name, part in module.named_modules():
        if not type(part).__module__.startswith(("torch.nn.parallel", "torch.distributed")):
            own = vars(part).items()
            kept = {key: value for key, value in own if _is_setting(value) and not key.startswith("_")}
            found.append([name, {key: kept[key] for key in kept.keys() - _MODULE_INTERNALS - _PLACE}])
    return found


def _is_setting(value: Any) -> bool:
    return all(map(_is_setting, value)) if type(value) in {list, tuple} else isinstance(value, _SETTINGS)


def _sha(tag: str, *parts: Any) -> bytes:
    """Of a tag and bytes, each with its length, so that no two lists of them read alike."""
    digest = hashlib.sha256()
    for part in (tag.encode("utf-8", "surrogatepass"), *parts):
        view = memoryview(part)
        digest.update(view.nbytes.to_bytes(8, "little"))
        digest.update(view)
    return digest.digest()


class Content:
    """Digests of values.

    Args:
        opaque: values without visible content count by their class; else they raise `Unreadable`.
        code: what a function does is asked: classes count by their methods, too, not by their name alone, and which
            of several devices is named does not matter, because every rank names another.
    """

    def __init__(self, *, opaque: bool = False, code: bool = False) -> None:
        self._opaque, self._asks_code = opaque, code
        self.bytecode = False  # was any function read?
        self._root: Any = None
        self._closed: dict[int, tuple[bytes, Any]] = {}  # whole digests, by id; the value is kept so that it stays its
        self._open: dict[int, tuple[int, Any]] = {}  # begun, or part of a cycle
        self._numbers = 0
        self._reached = sys.maxsize  # the earliest number that what is being read refers back to

    def hexdigest(self, value: Any) -> str:
        """SHA-256 of ``value``, as 64 hexadecimal digits."""
        inner = value
        while isinstance(inner, (functools.partial, types.MethodType)):
            inner = inner.func if isinstance(inner, functools.partial) else inner.__func__
        self._root = inner if isinstance(inner, (types.FunctionType, type)) else type(inner)
        try:
            return self._digest(value).hex()
        except RecursionError:
            raise Unreadable(f"{class_name(value)} nested too deeply") from None

    def _digest(self, value: Any) -> bytes:
        if type(value) in _LEAVES:
            if self._asks_code and type(value) is str:
                value = _NUMBERED.sub(r"\1", value)
            text = hex(value) if type(value) is int else value if type(value) is str else repr(value)
            return _sha(type(value).__name__, text.encode("utf-8", "surrogatepass"))
        key = id(value)
        if key in self._closed:
            self._numbers += 1  # as if it were another, equal object
            return self._closed[key][0]
        if key in self._open:
            number = self._open[key][0]
            self._reached = min(self._reached, number)
            return _sha("cycle", str(self._numbers - number).encode())
        number, outer = self._numbers, self._reached
        self._numbers, self._reached = number + 1, sys.maxsize
        self._open[key] = (number, value)
        result = self._composite(value)
        if self._reached >= number:
            self._closed[key] = (result, value)
            del self._open[key]
            self._reached, self._numbers = outer, number + 1
        else:
            self._reached = min(outer, self._reached)
        return result

    def _all(self, tag: str, *values: Any) -> bytes:
        return _sha(tag, *[self._digest(value) for value in values])

    def _unordered(self, tag: str, values: Any) -> bytes:
        return _sha(tag, *sorted(self._digest(value) for value in values))

    def _sequence(self, value: Any) -> bytes:
        kinds = set(map(type, value))
        if kinds and kinds <= _SHORT and not (self._asks_code and str in kinds):
            with contextlib.suppress(ValueError):  # an int of thousands of digits
                return _sha("plain", repr(list(value)).encode("utf-8", "surrogatepass"))
        return self._all("sequence", *value)

    def _mapping(self, items: Any) -> bytes:
        pairs = sorted(((self._digest(key), value) for key, value in items), key=lambda pair: pair[0])
        return _sha("mapping", *[part for key, value in pairs for part in (key, self._digest(value))])

    def _composite(self, value: Any) -> bytes:  # noqa: C901 - one line for each kind
        kind = type(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(np.asanyarray(value))
        if kind in {list, tuple}:
            return self._sequence(value)
        if kind is dict:
            return self._mapping(value.items())
        if isinstance(value, torch.device) and self._asks_code:
            return self._all("device", value.type)
        if isinstance(value, (bytes, bytearray)):
            return _sha(kind.__name__, value)
        if isinstance(value, memoryview):
            return self._all("memory", value.format, value.shape, value.tobytes())
        if isinstance(value, AbstractSet):
            return _sha("set", self._unordered("", value), self._digest(getattr(value, "__dict__", None)))
        if isinstance(value, Mapping) and not isinstance(value, dict):
            return self._mapping(value.items())
        if isinstance(value, enum.Enum):
            return self._all("enum", class_name(value), value.name, value.value)
        if isinstance(value, (weakref.ref, types.CellType)):
            return self._all("reference", _referred(value))
        code = self._behaviour(value)
        if code is not None:
            return code
        return self._foreign(value) or self._object(value)

    def _tensor(self, value: torch.Tensor) -> bytes:
        head = [str(value.dtype), str(value.layout)]
        value = value.detach()
        if value.is_nested:
            return self._all("nested", str(value.dtype), *value.unbind())
        extra = None
        if type(value) is not torch.Tensor and not isinstance(value, torch.nn.Parameter):
            extra = [class_name(value), value.__dict__]
        shape = list(map(int, value.shape))
        if value.is_meta:
            return self._unseen(value)
        if value.layout is not torch.strided:
            if value.layout is torch.sparse_coo:
                value = value.coalesce()
                return self._all("sparse", head, shape, extra, value.indices(), value.values())
            value = value.to_dense()
        elif value.is_quantized:
            value = value.dequantize()
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - a subclass may do anything in its methods
            dense = value.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            if type(dense) is not torch.Tensor and hasattr(type(dense), "__tensor_flatten__"):
                names, setting = dense.__tensor_flatten__()  # type: ignore[attr-defined]
                return self._all("wrapped", head, shape, extra, setting, *[getattr(dense, name) for name in names])
            if dense.stride() != (1,):  # of one element, which counts as contiguous
                dense = dense.clone(memory_format=torch.contiguous_format)
            return _sha("tensor", self._digest([head, shape, extra]), dense.view(torch.uint8).numpy())

    def _array(self, value: np.ndarray[Any, Any]) -> bytes:
        head: list[Any] = ["array", str(value.dtype) if value.dtype.names else value.dtype.str, list(value.shape)]
        if isinstance(value, np.ma.MaskedArray):
            mask = np.ma.getmaskarray(value)
            data = np.where(mask, np.zeros((), value.dtype), value.data) if not value.dtype.names else value.data
            return self._all("masked", mask, data)
        if value.dtype.names:  # the bytes between the fields are anybody's
            return self._all("fields", head, *[np.asarray(value[name]) for name in value.dtype.names])
        if value.dtype.hasobject or value.dtype.kind == "T":  # whose bytes are addresses
            return self._all("objects", head, *np.asarray(value).ravel().tolist())
        if value.dtype.char in "gG":  # padded with anybody's bytes
            return self._all("long", head, [repr(entry) for entry in np.asarray(value).ravel()])
        return _sha("array", self._digest(head), np.ascontiguousarray(value).tobytes())

    def _foreign(self, value: Any) -> bytes | None:
        """What other packages' classes say of their content, without importing them."""
        package = type(value).__module__.partition(".")[0]
        if package == "PIL" and hasattr(value, "tobytes"):
            palette = value.getpalette() if value.mode in {"P", "PA"} else None
            return self._all("image", value.mode, value.size, palette, value.tobytes())
        if package == "pyarrow" and (hasattr(value, "as_py") or hasattr(value, "to_pylist")):
            kind = getattr(value, "type", None) or value.schema
            return self._all("arrow", str(kind), value.as_py() if hasattr(value, "as_py") else value.to_pylist())
        if "deprecation_warnings" in getattr(value, "__dict__", {}):
            return self._tokenizer(value)
        if package == "pandas" and hasattr(value, "columns"):
            columns = [value.iloc[:, place] for place in range(value.shape[1])]
            return self._all("frame", list(value.columns), np.asarray(value.index), *columns)
        if package == "pandas" and hasattr(value, "index") and hasattr(value, "dtype"):
            rows = np.asarray(value.index)
            return self._all("series", value.name, str(value.dtype), rows, np.asarray(value))
        if package not in {"builtins", "torch"} and hasattr(type(value), "__array__"):
            try:
                return self._all("array", class_name(value), np.asarray(value))
            except Exception:  # noqa: BLE001 - it may be on a device; then it is an object like any other
                return None
        return None

    def _tokenizer(self, value: Any) -> bytes:
        """Of transformers: they set padding and truncation anew at every call, and keep what they warned of."""
        own = {name: part for name, part in vars(value).items() if name not in _TOKENIZER_PASSING}
        inner: Any = getattr(value, "_tokenizer", None)
        rules = json.loads(inner.to_str()) if hasattr(inner, "to_str") else {}
        rules = {name: part for name, part in rules.items() if name not in {"padding", "truncation"}}
        return self._all("tokenizer", class_name(value), self._class_of(value), rules, own)

    def _object(self, value: Any) -> bytes:
        """Class and state, as its own class hands them out for copying."""
        if isinstance(value, Iterator):  # to read it is to use it up
            return self._unseen(value)
        if isinstance(value, torch.nn.Module):
            own = vars(value)
            kept = {name: own[name] for name in own.keys() - _MODULE_INTERNALS}
            state = [own["_parameters"], own["_buffers"], [[name, part] for name, part in own["_modules"].items()]]
            return self._all("module", class_name(value), self._class_of(value), *state, kept)
        parts = self._reduced(value)
        if isinstance(parts, str):
            return self._all("name", class_name(value), parts)
        make, arguments, state, items, pairs = parts
        bare = make is getattr(copyreg, "__newobj__", None) and len(arguments) == 1
        items, pairs = [*(items or ())], [*(pairs or ())]
        if bare and not state and not items and not pairs and not isinstance(value, (list, tuple, dict)):
            return self._unseen(value)
        content = [self._digest(part) for part in (make, arguments, state, items)]
        return _sha("object", self._digest([class_name(value), self._class_of(value)]), *content, self._mapping(pairs))

    def _reduced(self, value: Any) -> Any:
        try:
            handler = copyreg.dispatch_table.get(type(value))
            parts = handler(value) if handler else value.__reduce_ex__(2)
            if isinstance(parts, str):
                return parts
            return (*parts[:5], *[None] * (5 - len(parts)))
        except Exception:  # noqa: BLE001 - a class may refuse to be copied, and still have attributes
            found = dict(getattr(value, "__dict__", {}))
            slots = [name for base in type(value).__mro__ for name in copyreg._slotnames(base)]  # type: ignore[attr-defined]  # noqa: SLF001
            found |= {name: getattr(value, name) for name in slots if hasattr(value, name)}
            return copyreg.__newobj__, (type(value),), found, None, None  # type: ignore[attr-defined]

    def _unseen(self, value: Any) -> bytes:
        if not self._opaque:
            raise Unreadable(class_name(value))
        return self._all("opaque", class_name(value), self._class_of(value))

    # What can be called

    def _class_of(self, value: Any) -> Any:
        return type(value) if self._asks_code else None

    def _behaviour(self, value: Any) -> bytes | None:  # noqa: C901 - one line for each kind
        """Of what can be called, or names what can; None for anything else."""
        if isinstance(value, types.FunctionType):
            compiled = getattr(value, "_torchdynamo_orig_callable", None)
            return self._function(value) if compiled is None else self._all("compiled", compiled)
        if isinstance(value, functools.partial):
            return self._all("partial", value.func, list(value.args), value.keywords)
        if isinstance(value, types.MethodType):
            return self._all("method", value.__func__, value.__self__)
        if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            owner = getattr(value, "__self__", None)
            owned = None if owner is None or isinstance(owner, types.ModuleType) else owner
            return self._all("builtin", getattr(value, "__module__", None), value.__qualname__, owned)
        if isinstance(value, (types.MethodDescriptorType, types.WrapperDescriptorType)):
            return self._all("builtin", value.__objclass__, value.__qualname__, None)
        if isinstance(value, (staticmethod, classmethod)):
            return self._all(type(value).__name__, value.__func__)
        if isinstance(value, property):
            return self._all("property", value.fget, value.fset, value.fdel)
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, types.ModuleType):
            return self._all("package", value.__name__)
        if isinstance(value, type):
            return self._class(value)
        whole = vars(type(value)).get("__wrapped__") or getattr(value, "__dict__", {}).get("__wrapped__")
        return self._all("wraps", class_name(value), whole) if callable(value) and whole is not None else None

    def _by_name(self, value: Any) -> bool:
        """Is it of torch, NumPy, Python or this package, or, other than what is asked about, of an installed one?"""
        module = _module(value)
        package = module.partition(".")[0]
        file = getattr(sys.modules.get(module), "__file__", None) or ""
        installed = "site-packages" in file or "dist-packages" in file
        standard = package in sys.stdlib_module_names and not installed and (not file or file.startswith(_STANDARD))
        return package in _BY_NAME or standard or (installed and value is not self._root)

    def _class(self, value: type) -> bytes:
        name = f"{value.__module__}.{value.__qualname__}"
        if not self._asks_code or self._by_name(value):
            return self._all("class", name)
        own = {key: part for key, part in vars(value).items() if key not in _CLASS_INTERNALS}
        own = {key: part for key, part in own.items() if not isinstance(part, _SLOTS)}
        return self._all("class", name, list(value.__bases__), own)

    def _function(self, value: types.FunctionType) -> bytes:
        code = value.__code__
        cells = [_referred(cell) for cell in value.__closure__ or ()]
        if self._by_name(value):
            return self._all("function", _module(value), code.co_name, cells)
        doc = value.__doc__ if code.co_consts and code.co_consts[0] == value.__doc__ else None
        named, names = _names(code)
        known = {name: self._read_of(value.__globals__[name], names) for name in named & value.__globals__.keys()}
        return self._all("function", self._code(code, doc), value.__defaults__, value.__kwdefaults__, cells, known)

    def _read_of(self, value: Any, names: set[str], *within: Any) -> Any:
        """Of a module of the caller's, and those in it, what has one of ``names``; anything else as it is."""
        if not isinstance(value, types.ModuleType) or value in within or self._by_name(value):
            return value
        own = vars(value)
        return {name: self._read_of(own[name], names, value, *within) for name in names & own.keys()}

    def _code(self, code: types.CodeType, doc: str | None = None) -> bytes:
        self.bytecode = True
        constants = [None, *code.co_consts[1:]] if doc is not None else list(code.co_consts)
        shape = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
        names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
        table = getattr(code, "co_exceptiontable", b"")
        return self._all("code", code.co_code, table, constants, names, shape)


def _module(value: Any) -> str:
    """Where a function was written, a class defined; of a decorated function that is where the decorator was."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    found = value.__globals__.get("__name__") if isinstance(value, types.FunctionType) else value.__module__
    return found if isinstance(found, str) else ""


def _referred(value: Any) -> Any:
    try:
        return value.cell_contents if isinstance(value, types.CellType) else value()
    except ValueError:  # a cell that is empty yet
        return None


def _names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """The global variables that code names, and all names, attributes among them, with the code inside it."""
    named = {step.argval for step in dis.get_instructions(code) if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}}
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = _names(constant)
            named, names = named | inner[0], names | inner[1]
    return named, names
