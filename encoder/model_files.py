"""What a model's file holds, read without PyTorch and without running code in it, and brought up to date.

It is an archive of plain values and tensors, as `torch.save` writes it: `encoder_state_dict` (the weights), `settings`
(those that shaped the encoder), `train_speakers`, `calibration`, the `cohort` of score normalisation, the embedding of
an `example`, and what a training needs to continue.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import myconfig
from encoder import forward
from encoder.base import Encoder, unit_length
from foundation import safe_files, setting_checks, setting_table, tensor_archives
from foundation.paths import find_model

# How the classic course code computed features.
CLASSIC_FEATURES = {"N_FFT": 2048, "HOP_LENGTH": 512, "N_MELS": 128, "CEPSTRAL_MEAN_NORMALIZATION": False}

# How many scores of one person `thresholds.SHARES` keeps.
NUM_SHARES = 16

AnyEncoder = TypeVar("AnyEncoder", bound=Encoder)


class NumpyEncoder(Encoder):
    """An encoder of LSTMs, and maybe a TDNN, that `encoder/forward.py` computes."""

    def __init__(self, content: dict) -> None:
        """The encoder of a file's content, whose weights have the shapes that `forward.shapes` says."""
        self.settings, self.arrays = content["settings"], content["encoder_state_dict"]
        self.nested = forward.nest(self.arrays)
        self.dimensions = forward.count_dimensions(self.settings)

    def weights(self) -> dict[str, np.ndarray]:
        """The weights, by their names in PyTorch."""
        return self.arrays

    def embed_batch(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Features of recordings (frames, N_MFCC), the longest first -> (recordings, dimensions), of any length."""
        return forward.embed(self.nested, self.settings, features)


def load_model(path: str | os.PathLike) -> Encoder:
    """Load a saved or classic model to embed recordings, without PyTorch if its network is one of `encoder/forward.py`.

    Raises ValueError if the file cannot be used.
    """
    return load(path, build)


def build(content: dict) -> Encoder:
    """The encoder of a file's content, in PyTorch if it is not a network that NumPy computes here.

    So it is if `encoder/forward.py` does not give the `example` that was saved: somebody changed the network in PyTorch
    alone. Raises ValueError if the weights do not fit, or if PyTorch is needed and not there.
    """
    found = {name: array.shape for name, array in content["encoder_state_dict"].items()}
    if found == forward.shapes(content["settings"]):
        encoder = NumpyEncoder(content)
        if np.allclose(embed_example(encoder), content.get("example", embed_example(encoder)), atol=1e-3):
            return encoder
        print("Note: PyTorch embeds, as encoder/forward.py gives another embedding.", file=sys.stderr)
    try:
        from encoder import networks
    except ModuleNotFoundError as error:
        raise ValueError(
            f"encoder/forward.py does not compute its network, and {error.name} is not installed: "
            "pip3 install -r requirements.txt"
        ) from None
    return networks.rebuild(content)


def embed_example(encoder: Encoder) -> np.ndarray:
    """The embedding (dimensions,), of length 1, of some features that no recording has."""
    size = encoder.settings["N_MFCC"]
    return unit_length(encoder.embed_batch([20 * np.sin(np.arange(16 * size, dtype=np.float32)).reshape(16, size)])[0])


def load(
    path: str | os.PathLike, build_encoder: Callable[[dict], AnyEncoder], typed: Collection[str] = ()
) -> AnyEncoder:
    """Read a model's file, and build the encoder of its content. The pretrained models are found from anywhere.

    Raises ValueError if the file cannot be used, or if one of the settings that were `typed` contradicts it.
    """
    path = find_model(path)
    digest, content = safe_files.digest_of(path), read_model(path)
    try:
        content = upgrade(content)
        setting_checks.check_model(content["settings"])
        weights = content["encoder_state_dict"]
        # A tensor may name the same numbers again and again.
        if sum(array.size for array in weights.values()) > Path(path).stat().st_size:
            raise ValueError("its weights are more than the file holds.")
        content["encoder_state_dict"] = {name: np.array(array, np.float32) for name, array in weights.items()}
        check_numbers(content["encoder_state_dict"])
        encoder = build_encoder(content)
        encoder.train_speakers = list(content["train_speakers"])
        encoder.calibration = check_calibration(content["calibration"])
        encoder.cohort = np.zeros((0, encoder.dimensions), np.float32)
        if "cohort" in content:
            encoder.cohort = check_cohort(content["cohort"], encoder.dimensions)
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = f"it lacks {error}." if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(f"{path} does not hold a speaker encoder of this project: {reason}") from None
    setting_checks.refuse_contradictions(encoder.settings, path, typed)
    encoder.path, encoder.file_digest = path, digest
    return encoder


def model_fingerprint(encoder: Encoder) -> str:
    """A hash of everything in a model that affects embeddings: its weights and settings."""
    # Newer settings do not count if they have the value that was fixed before, and a single LSTM has no number, so that
    # older databases remain usable.
    in_use = {name: encoder.settings[name] for name in setting_table.settings_in_use(encoder.settings)}
    shape = {name: value for name, value in in_use.items() if setting_table.VALUES_BEFORE.get(name) != value}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for name, array in sorted(encoder.weights().items()):
        digest.update(name.replace("lstms.0.", "lstm.").encode() + array.tobytes())
    return digest.hexdigest()[:16]


# ---------------------------------------- Files ----------------------------------------


def read_model(path: str | os.PathLike, convert: Callable[[np.ndarray], Any] = np.asarray) -> dict:
    """Read a model's file, with `convert(array)` for each tensor, without running code in it.

    Raises ValueError if it is missing, damaged or not a model, and OSError without the permission to read it.
    """
    path = find_model(path)
    try:
        content = tensor_archives.read(path, convert)
    except PermissionError:
        raise
    except Exception:  # A damaged or hostile file can make the unpickler raise anything.
        raise ValueError(
            f"{path} is not a model (of PyTorch 1.6 or newer), or is damaged, or holds more than weights."
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("encoder_state_dict"), dict):
        raise ValueError(f"{path} is a PyTorch file but has no speaker encoder in it.")
    return content


# ----------------------------------- Older models, checks ------------------------------


def upgrade(content: dict) -> dict:
    """The content of a file, as this version would have written it: all that older models need stands here.

    A model of the classic course code has weights alone. Their shapes tell the settings but for FRAME_AGGREGATION_MEAN
    and TRANSFORMER_HEADS, which are as the present settings say; such a model does not normalise features. Later ones
    have the settings of their time.
    """
    # One LSTM had no number; a transformer has the same names as here.
    weights = {re.sub(r"^lstm\.", "lstms.0.", name): array for name, array in content["encoder_state_dict"].items()}
    saved = content.get("settings")
    if saved is None:
        saved = transformer_shape(weights) if "linear_layer.weight" in weights else lstm_shape(weights)
        no_normalisation = {
            "feature_mean": np.zeros(saved["N_MFCC"], np.float32),
            "feature_std": np.ones(saved["N_MFCC"], np.float32),
        }
        weights = no_normalisation | weights
    # What the weights do not tell, or what only another kind of encoder has.
    of_networks = {name: getattr(myconfig, name) for name in setting_table.settings_that_shape("lstm", "transformer")}
    known = setting_table.MODEL_SETTINGS
    before = {name: value for name, value in setting_table.VALUES_BEFORE.items() if name in known}
    shape = CLASSIC_FEATURES | of_networks | before | saved
    if unknown := shape.keys() - set(known):
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


def check_numbers(weights: dict[str, np.ndarray]) -> None:
    """Check that weights are numbers, and deviations positive. Raises ValueError."""
    if not all(np.isfinite(array).all() for array in weights.values()):
        raise ValueError("it has weights that are not finite numbers: its training went wrong.")
    if not (weights["feature_std"] > 0).all():
        raise ValueError("it has deviations of features that are not positive: it is damaged.")


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


def check_cohort(cohort: np.ndarray, dimensions: int) -> np.ndarray:
    """Check a cohort, two or more embeddings of length 1 (speakers, dimensions). Raises ValueError."""
    is_valid = isinstance(cohort, np.ndarray) and cohort.dtype == np.float32 and cohort.ndim == 2
    if not is_valid or len(cohort) < 2 or cohort.shape[1] != dimensions:
        raise ValueError("its cohort is damaged.")
    if not (np.abs(np.linalg.norm(cohort, axis=1) - 1) < 1e-3).all():
        raise ValueError("its cohort has embeddings whose length is not 1.")
    return cohort
