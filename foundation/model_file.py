"""Model files: written completely or not at all, and read without running any code in them."""

import io
import pickletools
import zipfile
from pathlib import Path

import torch

from foundation import safe_files
from foundation.model_path import find_model

# The types that the pickle in a model file may create.
MODEL_TYPES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
MODEL_TYPES |= {f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Bool")}

# The largest size of this pickle; training for a million steps makes ten megabytes.
MAX_PICKLE_BYTES = 2**26


def write_model(path: str, model: dict) -> None:
    """Write a model's file. Raises OSError if the disk is full or read-only."""
    content = io.BytesIO()  # On a full disk, torch.save itself gives no helpful error.
    torch.save(model, content)
    with safe_files.replace_when_whole(path) as file:
        file.write(content.getbuffer())


def update_model(path: str, digest: str, **changes: object) -> str:
    """Change parts of a model's file, unless it is no more the one with this digest; returns the new digest.

    Raises ValueError if it has changed since it was read, or while another process writes it.
    """
    if not digest:
        raise ValueError("the model was not read from a file.")
    with safe_files.only_one_process(path):
        if safe_files.digest_of(path) != digest:
            raise ValueError(f"{path} has changed since it was read: run the same command again.")
        write_model(path, read_model(path) | changes)
        return safe_files.digest_of(path)


def read_model(path: str) -> dict:
    """Read a model file without running code in it. Raises ValueError if it is missing, damaged or not a model.

    Raises OSError without the permission to read it.
    """
    path = find_model(path)
    try:
        if not holds_only_weights(path):
            raise ValueError
        model = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception:  # A damaged or hostile file can make the unpickler raise anything.
        raise ValueError(
            f"{path} is not a model (of PyTorch 1.6 or newer), or is damaged, or holds more than weights."
        ) from None
    if not isinstance(model, dict) or not isinstance(model.get("encoder_state_dict"), dict):
        raise ValueError(f"{path} is a PyTorch file but has no speaker encoder in it.")
    return model


def holds_only_weights(path: str) -> bool:
    """Whether a file is what `torch.save` writes for a model, before anything in it is unpacked.

    It must not unpack to more than its own size, create many objects, or create any but tensors, lists and dicts: even
    harmless types that PyTorch allows could fill the memory. Raises an exception for a file that is not an archive.
    """
    with Path(path).open("rb") as file:
        starts_as_archive = file.read(4) == b"PK\x03\x04"
    with zipfile.ZipFile(path) as archive:
        unpacks_to = sum(member.file_size for member in archive.infolist())
        [pickle] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if not starts_as_archive or unpacks_to > Path(path).stat().st_size:
            return False
        if archive.getinfo(pickle).file_size > MAX_PICKLE_BYTES:
            return False
        opcodes = pickletools.genops(archive.read(pickle))
        return all(
            argument in MODEL_TYPES if opcode.name == "GLOBAL" else opcode.name not in ("STACK_GLOBAL", "INST")
            for opcode, argument, _ in opcodes
        )
