"""Files of `torch.save`, read without PyTorch: archives of pickled values, and the numbers of each tensor beside them.

Source of the form: the documentation of PyTorch, "Serialization semantics".
"""

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# The number types of tensors; one of bfloat16 is the upper half of a float32.
NUMBERS = {"Float": "<f4", "Half": "<f2", "BFloat16": "<u2", "Double": "<f8", "Long": "<i8", "Int": "<i4", "Bool": "?"}

# The largest size of the pickled values; training for a million steps makes ten megabytes.
MAX_PICKLE_BYTES = 2**26


def read(path: str) -> Any:
    """The pickled values in an archive, with arrays for tensors. Raises an exception of any kind for another file."""
    with Path(path).open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("an archive begins otherwise.")
    with zipfile.ZipFile(path) as archive:
        [pickled] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        unpacks_to = sum(member.file_size for member in archive.infolist())
        if unpacks_to > Path(path).stat().st_size or archive.getinfo(pickled).file_size > MAX_PICKLE_BYTES:
            raise ValueError("it unpacks to more than its own size.")
        return TensorUnpickler(archive, pickled).load()


class Storage(NamedTuple):
    """The kind of numbers that a tensor consists of, and those of a file (numbers,)."""

    kind: str
    numbers: np.ndarray | None = None


class TensorUnpickler(pickle.Unpickler):
    """Reads plain values and tensors, and refuses everything else, so that no code of a file can run."""

    def __init__(self, archive: zipfile.ZipFile, pickled: str) -> None:
        super().__init__(io.BytesIO(archive.read(pickled)))
        self.archive, self.folder = archive, pickled.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        """What stands behind a name in the file. Raises UnpicklingError for anything but parts of tensors."""
        kind = name.removesuffix("Storage")
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return make_array
        if module == "torch" and name.endswith("Storage") and kind in NUMBERS:
            return Storage(kind)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor.")

    def persistent_load(self, key: tuple) -> Storage:
        """The numbers of a file in the archive, for `("storage", its kind, its name, device, length)`."""
        kind = key[1].kind
        numbers = np.frombuffer(bytearray(self.archive.read(f"{self.folder}data/{key[2]}")), NUMBERS[kind])
        return Storage(kind, numbers)


def make_array(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: object) -> np.ndarray:
    """The array of a tensor, which is a view of its storage. Raises ValueError if that has fewer numbers."""
    numbers = storage.numbers
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if numbers is None or min(shape, default=1) < 0 or min(offset, *strides, 0) < 0 or last >= max(len(numbers), 1):
        raise ValueError("a tensor lies outside of its storage.")
    if storage.kind == "BFloat16":
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
    steps = [stride * numbers.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps)
