"""Files of `torch.save`, read without PyTorch: archives of pickled values, and the numbers of each tensor beside them.

Source of the form: the documentation of PyTorch, "Serialization semantics".
"""

import collections
import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# The number types of tensors; one of bfloat16 is the upper half of a float32.
NUMBERS = {"Float": "<f4", "Half": "<f2", "BFloat16": "<u2", "Double": "<f8", "Long": "<i8", "Int": "<i4", "Bool": "?"}

# The largest size of the pickled values; training for a million steps makes ten megabytes.
MAX_PICKLE_BYTES = 2**26


def read(path: str, convert: Callable[[np.ndarray], Any]) -> Any:
    """The pickled values in an archive, with `convert(array)` for each tensor.

    Raises an exception of any kind for another file, and for one that holds more than plain values and tensors, or
    would take more memory than a few times its own size.
    """
    with Path(path).open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("an archive begins otherwise.")
    with zipfile.ZipFile(path) as archive:
        [pickled] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        unpacks_to = sum(member.file_size for member in archive.infolist())
        if unpacks_to > Path(path).stat().st_size or archive.getinfo(pickled).file_size > MAX_PICKLE_BYTES:
            raise ValueError("it unpacks to more than its own size.")
        content = archive.read(pickled)
        for opcode, argument, _ in pickletools.genops(content):
            if (
                "PUT" in opcode.name and isinstance(argument, int) and argument > len(content)
            ):  # Python would make so large a table.
                raise ValueError("it remembers values that it does not have.")
        return TensorUnpickler(content, archive, pickled.removesuffix("data.pkl"), convert).load()


class Part:
    """What a pickle may name, which it cannot change."""

    def __setstate__(self, state: object) -> None:
        """Raise UnpicklingError: only values have a state."""
        raise pickle.UnpicklingError("a part of a tensor has no state.")


class Storage(Part):
    """The numbers of a file in the archive (numbers,), and their kind."""

    def __init__(self, kind: str, numbers: np.ndarray) -> None:
        self.kind, self.numbers = kind, numbers


class TensorMaker(Part):
    """Makes tensors of storages."""

    def __init__(self, convert: Callable[[np.ndarray], Any]) -> None:
        self.convert = convert

    def __call__(self, storage: Storage, offset: int, shape: tuple, strides: tuple, *_: object) -> Any:
        """The tensor with these sizes, each a step of some numbers apart. Raises ValueError as `make_array` does."""
        return self.convert(make_array(storage, offset, shape, strides))


class TensorUnpickler(pickle.Unpickler):
    """Reads plain values and tensors, and refuses everything else, so that no code of a file can run."""

    def __init__(
        self, content: bytes, archive: zipfile.ZipFile, folder: str, convert: Callable[[np.ndarray], Any]
    ) -> None:
        super().__init__(io.BytesIO(content))
        self.archive, self.folder = archive, folder
        self.make_tensor = TensorMaker(convert)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands behind a name in the file. Raises UnpicklingError for anything but parts of tensors."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.make_tensor
        if module == "torch" and name.endswith("Storage") and name.removesuffix("Storage") in NUMBERS:
            return name.removesuffix("Storage")
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor.")

    def persistent_load(self, key: tuple) -> Storage:
        """The numbers of a file in the archive, for `("storage", their kind, the file's name, device, length)`."""
        _, kind, name, *_ = key
        if name not in self.storages:
            numbers = np.frombuffer(self.archive.read(f"{self.folder}data/{name}"), NUMBERS[kind]).copy()
            self.storages[name] = Storage(kind, numbers)
        return self.storages[name]


def make_array(storage: Storage, offset: int, shape: tuple, strides: tuple) -> np.ndarray:
    """A tensor as an array, which is a view of its storage. Raises ValueError if that has fewer numbers."""
    if type(storage) is not Storage or any(type(number) is not int for number in (offset, *shape, *strides)):
        raise ValueError("a tensor is damaged.")
    numbers = storage.numbers
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min(0, offset, *shape, *strides) < 0 or (last >= len(numbers) and 0 not in shape):
        raise ValueError("a tensor lies outside of its storage.")
    if 0 in shape:
        return np.zeros(shape, np.float32)
    if storage.kind == "BFloat16":
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, [stride * numbers.itemsize for stride in strides])
