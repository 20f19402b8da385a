"""Pickles of arrays, dictionaries, numbers and text, read without running anything of theirs.

A pickle is a program: ``pickle.load`` calls whatever function it names. Here a pickle may name the
few things of the table, each of which is replaced by a builder of our own or does nothing but hold
values; any other name is refused before it is looked up, in one line that quotes it.

| named in the pickle | becomes |
|---|---|
| arrays and scalars of NumPy | array or number, made from its bytes |
| tensors of torch | array; their bytes go through ``torch.load(weights_only=True)`` |
| ``Data`` and storages of torch_geometric | the dictionary of what they hold |
| ``OrderedDict`` | dictionary |

Arrays of Python objects are refused. Cost: some 10 microseconds for each array.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np

# what reading a damaged pickle raises
DAMAGE = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    EOFError,
    AttributeError,
    KeyError,
    IndexError,
    ImportError,
    RuntimeError,
    OverflowError,
    MemoryError,
)
PYG = ("torch_geometric.data.data", "torch_geometric.data.storage")
PYG_CLASSES = ("Data", "BaseStorage", "GlobalStorage", "DataEdgeAttr", "DataTensorAttr")


def read_plain_pickle(content: bytes | memoryview) -> Any:
    """What a pickle holds: dictionaries, lists, tuples, arrays, numbers and text.

    ``ValueError`` in one line for a name that is not allowed, and for a damaged pickle.
    """
    try:
        return _plain(_PlainUnpickler(io.BytesIO(content)).load())
    except _Refused:
        raise
    except DAMAGE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the pickle is damaged ({reason})") from None


class _Refused(ValueError):
    """A pickle that names what it may not name."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The builder of what the pickle names; ``ValueError`` for any other name."""
        if module in PYG and name in PYG_CLASSES:
            return _Holder
        builder = BUILDERS.get((module, name))
        if builder is None:
            raise _Refused(
                f"the pickle names {module}.{name}, which could run code; only arrays of numpy, "
                "tensors of torch, Data of torch_geometric, dictionaries, numbers and text are read"
            )
        return builder

    def persistent_load(self, pid: Any) -> Any:
        """Refused: values outside the pickle."""
        raise _Refused("the pickle refers to values outside itself; write it again as plain arrays")


class _Holder:
    """An object of which only the values count."""

    def __init__(self, *values: Any):
        self.values: Any = dict(zip(map(str, range(len(values))), values, strict=True))

    def __setstate__(self, state: Any) -> None:
        # slots come as (None or dict, dict)
        parts = state if isinstance(state, tuple) else (state,)
        self.values = {}
        for part in parts:
            self.values |= part or {}
        self.values.pop("_parent", None)  # of a storage: the object that holds it


class _Kind:
    """Type of an array: its code, and the order of the bytes, which comes later."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        self.dtype = np.dtype(str(code))
        if self.dtype.hasobject:
            raise _Refused(f"the pickle has an array of Python objects ({code}), which is not read")

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array that gets its content later."""

    def __init__(self, *start: Any):
        self.array = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, content = state
        self.array = _from_bytes(content, kind, shape, "F" if fortran else "C").array

    @classmethod
    def of(cls, array: np.ndarray) -> _Array:
        """One with its content."""
        made = cls()
        made.array = array
        return made


def _from_bytes(content: Any, kind: _Kind, shape: tuple, order: str) -> _Array:
    """An array from its bytes; NumPy's function of protocol 5."""
    if not isinstance(kind, _Kind):
        raise TypeError("an array without a type")
    flat = np.frombuffer(content, kind.dtype)
    return _Array.of(flat.reshape(shape, order=order))


def _scalar(kind: _Kind, content: bytes) -> _Array:
    """A number of NumPy."""
    return _from_bytes(content, kind, (), "C")


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """Bytes that protocol 2 keeps as text."""
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 writes bytes of length zero."""
    return b""


def _torch_storage(content: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(content), weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *unused: Any) -> _Array:
    import torch
    from torch._utils import _rebuild_tensor_v2

    if not isinstance(storage, (torch.storage.TypedStorage, torch.UntypedStorage)):
        raise TypeError("a tensor without a storage")
    tensor = _rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())
    return _Array.of(tensor.detach().cpu().numpy().copy())


BUILDERS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encoded,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _torch_storage,
}
for _folder in ("numpy.core", "numpy._core"):
    BUILDERS[f"{_folder}.multiarray", "_reconstruct"] = _Array
    BUILDERS[f"{_folder}.multiarray", "scalar"] = _scalar
    BUILDERS[f"{_folder}.numeric", "_frombuffer"] = _from_bytes


def _plain(value: Any) -> Any:
    """The value without builders inside."""
    if isinstance(value, _Array):
        return value.array if value.array.ndim else value.array[()]
    if isinstance(value, _Holder):
        return _plain(value.values)
    if isinstance(value, dict):
        return {key: _plain(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(content) for content in value)
    return value
