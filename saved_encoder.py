"""Checks of a saved encoder when it is loaded: its weights, thresholds and cohort."""

from pathlib import Path

import numpy as np
import torch

import myconfig
from foundation.setting_tables import LSTM_SETTINGS, TRANSFORMER_SETTINGS, VALUES_BEFORE

# How many scores of one person `calibration.SHARES` keeps.
NUM_SHARES = 16


def check_shapes(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], path: str) -> None:
    """Raise ValueError if weights do not have the shapes of their settings, or are larger than the file."""
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise ValueError(f"{name} has shape {tuple(weights[name].shape)}, and its settings {tuple(tensor.shape)}.")
    if sum(tensor.nbytes for tensor in weights.values()) > Path(path).stat().st_size:
        raise ValueError("its weights are more than the file holds.")


def complete_settings(saved: dict | None, weights: dict) -> dict:
    """The settings that were saved with a model, and those that did not exist yet when it was saved.

    A classic model has none: they follow from the shapes of its weights. FRAME_AGGREGATION_MEAN and TRANSFORMER_HEADS,
    which these do not tell, are as the present settings say; how its features are computed was always the same.
    """
    shape = saved
    if shape is None:
        shape = transformer_shape(weights) if "linear_layer.weight" in weights else lstm_shape(weights)
    return {
        "N_FFT": 2048,
        "HOP_LENGTH": 512,
        "N_MELS": 128,
        "CEPSTRAL_MEAN_NORMALIZATION": False,
        # What the weights do not tell, or what only another kind of encoder has.
        **{name: getattr(myconfig, name) for name in (*LSTM_SETTINGS, *TRANSFORMER_SETTINGS)},
        **VALUES_BEFORE,
        **shape,
    }


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
            thresholds, quantiles = (np.array(part, float) for part in calibration["curves"][f"{first} {second}"])
            is_valid = np.isfinite([*thresholds, *quantiles]).all() and thresholds.shape == rates.shape
            if not is_valid or (np.diff(thresholds) > 0).any() or (np.diff(quantiles) < 0).any():
                raise ValueError("its decision thresholds are damaged.")
            if quantiles.shape != (NUM_SHARES,):
                raise ValueError("its decision thresholds are of another version.")
    if not isinstance(calibration["source"], str):
        raise ValueError("its decision thresholds have no source.")
    return calibration


def check_cohort(cohort: torch.Tensor, dimensions: int) -> np.ndarray:
    """Check a cohort, two or more embeddings of length 1 (speakers, dimensions). Raises ValueError."""
    is_valid = isinstance(cohort, torch.Tensor) and cohort.dtype == torch.float32 and cohort.ndim == 2
    if not is_valid or len(cohort) < 2 or cohort.shape[1] != dimensions:
        raise ValueError("its cohort is damaged.")
    if not ((cohort.detach().norm(dim=1) - 1).abs() < 1e-3).all():
        raise ValueError("its cohort has embeddings whose length is not 1.")
    return cohort.detach().numpy()
