"""State dicts out of PyTorch's files, without PyTorch, and without executing what they hold.

A ``.pth`` file is a pickle beside raw numbers, and a pickle is a program. The one here can call
four things, all of them inert: it makes ordered dictionaries, and notes of where a tensor's numbers
lie. Whatever else it names is refused by that name, and neither imported nor called.
``torch/serialization.py`` is what there is of a specification.
"""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fracjax.errors import WeightsError

Tensors = dict[str, NDArray[Any]]
"""By the names that a file gives them."""

STREAM_MAGIC = 0x1950A86A20F9469CFC6C
STREAM_PROTOCOL = 1001
STREAM_START = b"\x80\x02\x8a\x0a" + STREAM_MAGIC.to_bytes(10, "little")
"""What files begin with that PyTorch wrote before 1.6: the magic number, as a pickle."""

ZIP_START = b"PK\x03\x04"

WRAPPERS = ("state_dict", "model")
"""Names under which training scripts keep the state dict in a larger dictionary."""

STORAGES: Final = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}

DAMAGE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, RuntimeError),
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError),
)
"""What a damaged pickle or archive raises."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a pickle says instead of a storage's type."""

    name: str


@dataclass(slots=True)
class Storage:
    """Numbers that tensors share. In the old format they follow after the pickle."""

    dtype: np.dtype[Any]
    length: int
    numbers: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor's numbers lie: in elements, of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> NDArray[Any]:
        """Copy the numbers out.

        Raises:
            ValueError: They do not lie in the storage.
        """
        numbers = self.storage.numbers
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((length - 1) * stride for length, stride in steps)
        count = math.prod(self.shape)
        # A stride of 0 would make any number of copies of one value.
        if numbers is None or min(0, *self.shape, *self.strides, self.offset) < 0:
            raise ValueError("a tensor without numbers")
        if count > len(numbers) or (count > 0 and last >= len(numbers)):
            raise ValueError("a tensor that reaches beyond its numbers")
        if count == 0:
            return np.empty(self.shape, numbers.dtype)
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides).copy()


class Unpickler(pickle.Unpickler):
    """Reads a pickle that names nothing but storages, tensors, parameters and ordered dicts."""

    def __init__(self, file: io.BytesIO, *, storages: "dict[str, Storage]", path: Path) -> None:
        super().__init__(file, encoding="utf-8")
        self._storages = storages
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Give what stands for a name; nothing is imported."""
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in STORAGES:
            return Kind(name)
        raise WeightsError(
            f"{self._path} holds a {module}.{name}, which could execute code and is not read; in "
            "PyTorch, save the weights alone: torch.save(model.state_dict(), FILE)"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """Note a storage; all tensors on it share the note."""
        kind, storage_type, key, _, length, *view = pid
        if kind != "storage" or not isinstance(storage_type, Kind) or view not in ([], [None]):
            raise ValueError("a storage of an unknown kind")
        dtype = STORAGES[storage_type.name]
        return self._storages.setdefault(str(key), Storage(dtype, int(length)))


def _tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> Tensor:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


def read_state_dict(path: Path, data: bytes) -> Tensors:
    """Read a state dict that ``torch.save`` wrote, in the format since 1.6 or the one before.

    Args:
        path: For messages.
        data: The file.

    Returns:
        Arrays in the number formats of the file. A state dict under one of ``WRAPPERS`` is taken
        out; what stands beside it, and values that are no tensors, are left.

    Raises:
        WeightsError: The file is damaged, holds no state dict, or names what could execute code.
    """
    try:
        saved = _read_zip(path, data) if data.startswith(ZIP_START) else _read_stream(path, data)
        for wrapper in WRAPPERS:
            if isinstance(saved, Mapping) and isinstance(saved.get(wrapper), Mapping):
                saved = saved[wrapper]
        if not isinstance(saved, Mapping):
            saved = {}
        tensors = {
            str(name): value.read() for name, value in saved.items() if isinstance(value, Tensor)
        }
    except DAMAGE as error:
        raise WeightsError(f"{path} is no whole file of torch.save ({error}); copy it again") from (
            error
        )
    if not tensors:
        raise WeightsError(
            f"{path} holds no state dict; in PyTorch, save one: torch.save(model.state_dict(), "
            "FILE)"
        )
    return tensors


def _read_zip(path: Path, data: bytes) -> Any:
    """Read the archive that PyTorch writes since 1.6."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("compressed entries, which torch.save does not write")
        pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("no data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        order = "<"
        if (name := f"{folder}byteorder") in entries and archive.read(name) == b"big":
            order = ">"
        storages: dict[str, Storage] = {}
        saved = Unpickler(io.BytesIO(archive.read(pickles[0])), storages=storages, path=path).load()
        for key, storage in storages.items():
            numbers = np.frombuffer(archive.read(f"{folder}data/{key}"), np.uint8)
            storage.numbers = _numbers(numbers, storage, order)
    return saved


def _read_stream(path: Path, data: bytes) -> Any:
    """Read the row of pickles, and numbers after them, that PyTorch wrote before 1.6."""
    file = io.BytesIO(data)
    storages: dict[str, Storage] = {}

    def load() -> Any:
        return Unpickler(file, storages=storages, path=path).load()

    magic, protocol, system = load(), load(), load()
    if (magic, protocol) != (STREAM_MAGIC, STREAM_PROTOCOL):
        raise ValueError("an unknown version")
    saved, keys = load(), load()
    order = "<" if system["little_endian"] else ">"
    for key in keys:
        storage = storages[str(key)]
        (length,) = struct.unpack(f"{order}q", file.read(8))
        if length != storage.length:
            raise ValueError("storages of another length")
        numbers = np.frombuffer(file.read(length * storage.dtype.itemsize), np.uint8)
        storage.numbers = _numbers(numbers, storage, order)
    return saved


def _numbers(raw: NDArray[np.uint8], storage: Storage, order: str) -> NDArray[Any]:
    """Give a storage's numbers in the byte order of this machine."""
    size = storage.dtype.itemsize
    if len(raw) < storage.length * size:
        raise ValueError("fewer numbers than announced")
    raw = raw[: storage.length * size]
    if order != ("<" if np.little_endian else ">"):
        raw = raw.reshape(-1, size)[:, ::-1].reshape(-1)
    return np.ascontiguousarray(raw).view(storage.dtype)
