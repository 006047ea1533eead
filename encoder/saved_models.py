"""Models on disk: written whole or not at all, read without running code in them, and brought up to date.

A file holds plain values and tensors: `encoder_state_dict` (the weights), `settings` (those that shaped the encoder),
`train_speakers`, `calibration`, the `cohort` of score normalisation, and what a training needs to continue.
"""

import hashlib
import io
import json
import os
import pickletools
import re
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

import myconfig
from encoder.networks import new_encoder
from encoder.speaker_encoder import SpeakerEncoder
from foundation import parallel, safe_files, setting_checks, setting_table, settings
from foundation.paths import find_model

# The types that the pickle in a model file may create.
MODEL_TYPES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
MODEL_TYPES |= {f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Bool")}

# The largest size of this pickle; training for a million steps makes ten megabytes.
MAX_PICKLE_BYTES = 2**26

# How the classic course code computed features.
CLASSIC_FEATURES = {"N_FFT": 2048, "HOP_LENGTH": 512, "N_MELS": 128, "CEPSTRAL_MEAN_NORMALIZATION": False}

# How many scores of one person `thresholds.SHARES` keeps.
NUM_SHARES = 16


def get_speaker_encoder(load_from: str = "") -> SpeakerEncoder:
    """A new encoder of the settings' shape with weights from PyTorch's generator, or the saved one, on the device."""
    return load_encoder(load_from) if load_from else new_encoder().to(parallel.get_device(settings.present().DEVICE))


def load_encoder(path: str | os.PathLike, typed: Collection[str] = ()) -> SpeakerEncoder:
    """Load a saved or classic model as an encoder on the device, shaped by the settings saved with it.

    The pretrained models are found from any working directory. Raises ValueError if the file cannot be used, or if one
    of the settings that were `typed` on the command line contradicts it.
    """
    path = find_model(path)
    digest = safe_files.digest_of(path)
    content = read_model(path)
    try:
        content = upgrade(content)
        setting_checks.check_model(content["settings"])
        check_shapes(content, Path(path).stat().st_size)
        encoder = build(content)
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not hold a speaker encoder of this project: {reason}") from None
    if not all(torch.isfinite(tensor).all() for tensor in encoder.state_dict().values()):
        raise ValueError(f"{path} has weights that are not finite numbers: its training went wrong.")
    if not (encoder.feature_std > 0).all():
        raise ValueError(f"{path} has deviations of features that are not positive: it is damaged.")
    setting_checks.refuse_contradictions(encoder.settings, path, typed)
    encoder.path, encoder.file_digest = path, digest
    return encoder.to(parallel.get_device(settings.present().DEVICE)).eval()


def build(content: dict) -> SpeakerEncoder:
    """The encoder of a file's content, on the CPU."""
    with torch.random.fork_rng(devices=[]):  # The weights before count for nobody.
        encoder = new_encoder(content["settings"])
    encoder.load_state_dict(content["encoder_state_dict"])
    encoder.train_speakers = list(content["train_speakers"])
    encoder.calibration = check_calibration(content["calibration"])
    if "cohort" in content:
        encoder.cohort = check_cohort(content["cohort"], encoder.dimensions)
    return encoder


def save_encoder(path: str, encoder: SpeakerEncoder, **more: object) -> None:
    """Save a model that `load_encoder` rebuilds without `myconfig.py`, with `more` plain values and tensors.

    The file is never half-written: see `safe_files`. Raises OSError if the disk is full or read-only.
    """
    content = {
        "encoder_state_dict": encoder.state_dict(),
        "settings": encoder.settings,
        "train_speakers": encoder.train_speakers,
        "calibration": encoder.calibration,
    }
    write_model(path, content | more)


def model_fingerprint(encoder: SpeakerEncoder) -> str:
    """A hash of everything in a model that affects embeddings: its weights and settings."""
    # Newer settings do not count if they have the value that was fixed before, and a single LSTM has no number, so that
    # older databases remain usable.
    in_use = {name: encoder.settings[name] for name in setting_table.settings_in_use(encoder.settings)}
    shape = {name: value for name, value in in_use.items() if setting_table.VALUES_BEFORE.get(name) != value}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.replace("lstms.0.", "lstm.").encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


# ---------------------------------------- Files ----------------------------------------


def write_model(path: str, content: dict) -> None:
    """Write a model's file. Raises OSError if the disk is full or read-only."""
    buffer = io.BytesIO()  # On a full disk, torch.save itself gives no helpful error.
    torch.save(content, buffer)
    with safe_files.replace_when_whole(path) as file:
        file.write(buffer.getbuffer())


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
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception:  # A damaged or hostile file can make the unpickler raise anything.
        raise ValueError(
            f"{path} is not a model (of PyTorch 1.6 or newer), or is damaged, or holds more than weights."
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("encoder_state_dict"), dict):
        raise ValueError(f"{path} is a PyTorch file but has no speaker encoder in it.")
    return content


def holds_only_weights(path: str) -> bool:
    """Whether a file has tensors, lists and dicts alone, and unpacks to no more than its own size.

    `weights_only` of `torch.load` runs no code, but allows types by which a small file could fill the memory. Raises an
    exception for a file that is not an archive.
    """
    with Path(path).open("rb") as file:
        starts_as_archive = file.read(4) == b"PK\x03\x04"
    with zipfile.ZipFile(path) as archive:
        [pickle] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        unpacks_to = sum(member.file_size for member in archive.infolist())
        is_small = unpacks_to <= Path(path).stat().st_size and archive.getinfo(pickle).file_size <= MAX_PICKLE_BYTES
        return (starts_as_archive and is_small) and all(
            argument in MODEL_TYPES if opcode.name == "GLOBAL" else opcode.name not in ("STACK_GLOBAL", "INST")
            for opcode, argument, _ in pickletools.genops(archive.read(pickle))
        )


# ----------------------------------- Older models, checks ------------------------------


def upgrade(content: dict) -> dict:
    """The content of a file, as this version would have written it: all that older models need stands here.

    A model of the classic course code has weights alone. Their shapes tell the settings but for FRAME_AGGREGATION_MEAN
    and TRANSFORMER_HEADS, which are as the present settings say; such a model does not normalise features. Later ones
    have the settings of their time.
    """
    # One LSTM had no number; a transformer has the same names as here.
    weights = {re.sub(r"^lstm\.", "lstms.0.", name): tensor for name, tensor in content["encoder_state_dict"].items()}
    saved = content.get("settings")
    if saved is None:
        saved = transformer_shape(weights) if "linear_layer.weight" in weights else lstm_shape(weights)
        no_normalisation = {"feature_mean": torch.zeros(saved["N_MFCC"]), "feature_std": torch.ones(saved["N_MFCC"])}
        weights = no_normalisation | weights
    # What the weights do not tell, or what only another kind of encoder has.
    of_networks = {name: getattr(myconfig, name) for name in setting_table.settings_that_shape("lstm", "transformer")}
    shape = CLASSIC_FEATURES | of_networks | setting_table.VALUES_BEFORE | saved
    if unknown := shape.keys() - set(setting_table.MODEL_SETTINGS):
        raise ValueError(f"it has settings that this version does not know: {', '.join(sorted(unknown))}.")
    return {"train_speakers": [], "calibration": {}} | content | {"encoder_state_dict": weights, "settings": shape}


def transformer_shape(weights: dict) -> dict:
    """The settings that a transformer's weights tell."""
    dimensions, num_inputs = weights["linear_layer.weight"].shape
    layers = {name.split(".")[2] for name in weights if name.startswith("encoder.layers.")}
    return {
        "USE_TRANSFORMER": True,
        "N_MFCC": num_inputs,
        "TRANSFORMER_DIM": dimensions,
        "TRANSFORMER_ENCODER_LAYERS": len(layers),
    }


def lstm_shape(weights: dict) -> dict:
    """The settings that the weights of LSTMs tell."""
    units, num_inputs = weights["lstms.0.weight_ih_l0"].shape
    num_layers = sum(name.startswith("lstms.0.weight_ih") and not name.endswith("_reverse") for name in weights)
    return {
        "USE_TRANSFORMER": False,
        "N_MFCC": num_inputs,
        "LSTM_HIDDEN_SIZE": units // 4,
        "LSTM_NUM_LAYERS": num_layers,
        "BI_LSTM": "lstms.0.weight_ih_l0_reverse" in weights,
    }


def check_shapes(content: dict, file_bytes: int) -> None:
    """Raise ValueError if weights do not have the shapes of their settings, or are larger than the file.

    Before the encoder is built, as its settings may ask for more memory than there is.
    """
    weights = content["encoder_state_dict"]
    with torch.device("meta"):  # Only shapes, which take no memory.
        expected = new_encoder(content["settings"]).state_dict()
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise ValueError(f"{name} has shape {tuple(weights[name].shape)}, and its settings {tuple(tensor.shape)}.")
    if sum(tensor.nbytes for tensor in weights.values()) > file_bytes:
        raise ValueError("its weights are more than the file holds.")


def check_calibration(calibration: dict) -> dict:
    """Check what `calibration.measure` returned; {} for none, or one of an older version. Raises ValueError."""
    if "curves" not in calibration:
        return {}
    rates, counts = np.array(calibration["false_accept_rates"], float), list(calibration["counts"])
    if not len(rates) or not (np.diff(rates, prepend=0, append=1) > 0).all():
        raise ValueError("its false-accept rates are damaged.")
    if counts[:2] != [0, 1] or counts != sorted(set(counts)) or not all(isinstance(count, int) for count in counts):
        raise ValueError("its numbers of recordings are damaged.")
    for number, second in enumerate(counts):
        for first in counts[: number + 1]:
            parts = [np.array(part, float) for part in calibration["curves"][f"{first} {second}"]]
            thresholds, quantiles, *line = parts  # Older versions had no line.
            is_valid = np.isfinite(np.concatenate(parts)).all() and thresholds.shape == rates.shape
            is_valid &= not line or (len(line) == 1 and line[0].shape == (2,) and line[0][0] > 0)
            if not is_valid or (np.diff(thresholds) > 0).any() or (np.diff(quantiles) < 0).any():
                raise ValueError("its decision thresholds are damaged.")
            if quantiles.shape != (NUM_SHARES,):
                raise ValueError("its decision thresholds are of another version.")
    if not isinstance(calibration["source"], str):
        raise ValueError("its decision thresholds have no source.")
    if "normalised" in calibration and not 0 < float(calibration["near_strangers"]) < 2:
        raise ValueError("its distance of strangers is damaged.")
    return calibration


def check_cohort(cohort: torch.Tensor, dimensions: int) -> np.ndarray:
    """Check a cohort, two or more embeddings of length 1 (speakers, dimensions). Raises ValueError."""
    is_valid = isinstance(cohort, torch.Tensor) and cohort.dtype == torch.float32 and cohort.ndim == 2
    if not is_valid or len(cohort) < 2 or cohort.shape[1] != dimensions:
        raise ValueError("its cohort is damaged.")
    if not ((cohort.detach().norm(dim=1) - 1).abs() < 1e-3).all():
        raise ValueError("its cohort has embeddings whose length is not 1.")
    return cohort.detach().numpy()
