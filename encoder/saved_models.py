"""Models on disk, for training and measuring: written whole or not at all, and read as networks of PyTorch."""

import io
import os
from collections.abc import Collection

import torch

from encoder import model_files
from encoder.networks import new_encoder, rebuild
from encoder.speaker_encoder import SpeakerEncoder
from foundation import parallel, safe_files, settings


def get_speaker_encoder(load_from: str = "") -> SpeakerEncoder:
    """A new encoder of the settings' shape with weights from PyTorch's generator, or the saved one, on the device."""
    return load_encoder(load_from) if load_from else new_encoder().to(parallel.get_device(settings.present().DEVICE))


def load_encoder(path: str | os.PathLike, typed: Collection[str] = ()) -> SpeakerEncoder:
    """Load a saved or classic model as an encoder on the device, shaped by the settings saved with it.

    Raises ValueError if the file cannot be used, or if one of the settings that were `typed` on the command line
    contradicts it.
    """
    encoder = model_files.load(path, rebuild, typed)
    return encoder.to(parallel.get_device(settings.present().DEVICE))


def save_encoder(path: str, encoder: SpeakerEncoder, **more: object) -> None:
    """Save a model that `load_encoder` rebuilds without `myconfig.py`, with `more` plain values and tensors.

    The file is never half-written: see `safe_files`. Raises OSError if the disk is full or read-only.
    """
    content = {
        "encoder_state_dict": encoder.state_dict(),
        "settings": encoder.settings,
        "train_speakers": encoder.train_speakers,
        "calibration": encoder.calibration,
        "example": torch.from_numpy(model_files.embed_example(encoder)),
    }
    write_model(path, content | more)


# ---------------------------------------- Files ----------------------------------------


def write_model(path: str, content: dict) -> None:
    """Write a model's file. Raises OSError if the disk is full or read-only."""
    buffer = io.BytesIO()  # On a full disk, torch.save itself gives no helpful error.
    torch.save(content, buffer)
    with safe_files.replace_when_whole(path) as file:
        file.write(buffer.getbuffer())


def read_model(path: str) -> dict:
    """A model's file as `model_files.read_model` reads it, and with the same errors, but with PyTorch's tensors."""
    return model_files.read_model(path, torch.from_numpy)


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
