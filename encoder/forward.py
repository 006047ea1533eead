"""What PyTorch does unseen: the forward pass of an LSTM encoder, with its TDNN, as the formulae say, in NumPy alone.

`speaker_id.py` answers with it. Training needs gradients, and so PyTorch, in `encoder/lstm.py` and `encoder/tdnn.py`,
where the sources of the parts around the LSTMs stand.

Source: Hochreiter and Schmidhuber 1997, "Long short-term memory", with the forget gate of Gers et al. 2000.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from encoder.base import unit_length

# How many steps apart the three are that a convolution of the TDNN sees, for each block. All convolutions together
# reach 59 steps.
DILATIONS = (2, 3, 4)

# Groups of channels in a block; TDNN_CHANNELS is a multiple of it.
NUM_GROUPS = 4

ATTENTION_UNITS = 128

# Weights of a network: those of each part under its name, and under theirs in turn.
Weights = Mapping[str, Any]


def embed(weights: Weights, settings: Mapping, features: Sequence[np.ndarray]) -> np.ndarray:
    """Features of recordings (frames, N_MFCC), the longest first -> (recordings, dimensions), not of length 1.

    `weights` are those of an encoder, nested by `nest`, and `settings` its own. Not for a transformer.
    """
    inputs = [read(weights, settings, of_recording) for of_recording in features]  # Of each, (steps, values).
    lengths = np.array([len(steps) for steps in inputs])
    padded = np.zeros((lengths[0], len(inputs), inputs[0].shape[1]), np.float32)
    for number, steps in enumerate(inputs):
        padded[: len(steps), number] = steps
    parts = []
    for lstm in weights["lstms"].values():
        outputs = lstm_network(lstm, settings, padded, lengths)  # Zeros where a recording has ended.
        mean, last = outputs.sum(axis=0) / np.float32(lengths[:, None]), outputs[lengths - 1, range(len(lengths))]
        parts.append(mean if settings["FRAME_AGGREGATION_MEAN"] else last)
    if settings["TDNN_CHANNELS"]:
        parts.append(tdnn(weights["tdnns"]["0"], np.ascontiguousarray(padded.swapaxes(0, 1)), lengths))
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([unit_length(part) for part in parts], axis=1)


def read(weights: Weights, settings: Mapping, features: np.ndarray) -> np.ndarray:
    """Features (frames, N_MFCC) -> what the networks read in each step: normalised, with DELTAS, STACKED_FRAMES."""
    frames = (features - weights["feature_mean"]) / weights["feature_std"]
    if settings["DELTAS"]:
        deltas = np.zeros_like(frames)
        deltas[1:-1] = frames[2:] - frames[:-2]
        frames = np.concatenate([frames, deltas], axis=1)
    num_steps = -(-len(frames) // settings["STACKED_FRAMES"])
    numbers = np.arange(num_steps * settings["STACKED_FRAMES"]).clip(max=len(frames) - 1)
    return frames[numbers].reshape(num_steps, -1)


# ---------------------------------------- LSTM -----------------------------------------


def lstm_network(weights: Weights, settings: Mapping, inputs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """All layers: steps (steps, rows, values) -> the outputs of the last layer (steps, rows, units).

    A row has `lengths` (rows,) steps, the first has the most. With LSTM_LAYER_NORM, each layer's outputs are
    normalised, and all but the first add what they have read.
    """
    is_within = (np.arange(len(inputs))[:, None] < lengths)[:, :, None]
    for layer in range(settings["LSTM_NUM_LAYERS"]):
        is_normalised = settings["LSTM_LAYER_NORM"]
        own, number = (weights["layers"][str(layer)], 0) if is_normalised else (weights, layer)
        outputs = lstm_layer(own, f"l{number}", inputs, lengths)
        if settings["BI_LSTM"]:  # The same from the end to the begin.
            backwards = lstm_layer(own, f"l{number}_reverse", reverse(inputs, lengths), lengths)
            outputs = np.concatenate([outputs, reverse(backwards, lengths)], axis=2)
        if is_normalised:
            outputs = (layer_norm(weights["norms"][str(layer)], outputs) + (inputs if layer else 0)) * is_within
        inputs = outputs
    return inputs


def reverse(inputs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Steps (steps, rows, values) with those of each row, of `lengths` (rows,), in the opposite order."""
    numbers = np.arange(len(inputs))[:, None]
    return inputs[np.where(numbers < lengths, lengths - 1 - numbers, numbers), range(len(lengths))]


def lstm_layer(weights: Weights, name: str, inputs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """One layer in one direction: steps (steps, rows, values) -> (steps, rows, units), zeros where a row has ended."""
    # What the inputs give to the gates is known for all steps beforehand: one matrix product.
    bias = weights[f"bias_ih_{name}"] + weights[f"bias_hh_{name}"]
    from_inputs = linear({"weight": weights[f"weight_ih_{name}"], "bias": bias}, inputs)
    recurrent = np.ascontiguousarray(weights[f"weight_hh_{name}"].T)  # (units, 4 x units)
    outputs = np.zeros((*inputs.shape[:2], len(recurrent)), np.float32)
    hidden = cell = np.zeros(outputs.shape[1:], np.float32)
    num_rows = np.searchsorted(-lengths, -np.arange(len(inputs))).tolist()  # Those that go on stand first.
    for step, (gates, rows) in enumerate(zip(from_inputs, num_rows, strict=True)):
        hidden, cell = lstm_step(gates[:rows] + hidden[:rows] @ recurrent, cell[:rows])
        outputs[step, :rows] = hidden
    return outputs


def lstm_step(gates: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step -> the hidden state and the cell, both (rows, units).

    `gates` (rows, 4 x units) are sums of weighted inputs and hidden states. How much of the candidate comes in, how
    much of the cell stays, and how much of it is shown, each unit decides anew in each step.
    """
    units = cell.shape[1]
    candidate, opened = np.tanh(gates[:, 2 * units : 3 * units]), sigmoid(gates)
    come_in, stay, show = (opened[:, number * units : (number + 1) * units] for number in (0, 1, 3))
    cell = stay * cell + come_in * candidate
    return show * np.tanh(cell), cell


# ---------------------------------------- TDNN -----------------------------------------


def tdnn(weights: Weights, inputs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Steps (rows, steps, values), of which `lengths` (rows,) count -> the TDNN's part of the embeddings.

    Each channel of the last layer counts by its mean and its deviation over the steps, in which those that matter more
    weigh more: a softmax over the steps.
    """
    is_within = (np.arange(inputs.shape[1]) < lengths[:, None])[:, :, None]
    outputs = [layer_norm(weights["first_norm"], relu(convolve(weights["first"], inputs)))]
    for number, dilation in enumerate(DILATIONS):
        outputs.append(tdnn_block(weights["blocks"][str(number)], outputs[-1], is_within, dilation))
    joined = relu(linear(weights["join"], np.concatenate(outputs[1:], axis=2)))  # (rows, steps, joined)
    attention = linear(weights["attention"]["2"], np.tanh(linear(weights["attention"]["0"], joined)))
    attention = np.where(is_within, attention, -np.inf)
    importance = np.exp(attention - attention.max(axis=1, keepdims=True))
    importance /= importance.sum(axis=1, keepdims=True)
    mean = np.einsum("rsj,rsj->rj", importance, joined)
    variance = np.einsum("rsj,rsj->rj", importance, np.square(joined - mean[:, None]))
    statistics = np.concatenate([mean, np.sqrt(variance.clip(min=1e-4))], axis=1)
    return linear(weights["last"], layer_norm(weights["statistics_norm"], statistics))


def tdnn_block(weights: Weights, inputs: np.ndarray, is_within: np.ndarray, dilation: int) -> np.ndarray:
    """A block, whose output is added to its input, both (rows, steps, channels); `is_within` (rows, steps, 1)."""
    before = layer_norm(weights["before_norm"], relu(linear(weights["before"], inputs)))
    first, *others = np.split(before, NUM_GROUPS, axis=2)
    results, found = [first], np.zeros_like(first)
    for number, group in enumerate(others):
        found = relu(convolve(weights["groups"][str(number)], (group + found) * is_within, dilation))
        found = layer_norm(weights["group_norms"][str(number)], found)
        results.append(found)
    change = layer_norm(weights["after_norm"], relu(linear(weights["after"], np.concatenate(results, axis=2))))
    mean = (change * is_within).sum(axis=1) / is_within.sum(axis=1, dtype=np.float32)
    squeezed = relu(linear(weights["excitation"]["0"], mean))
    return inputs + change * sigmoid(linear(weights["excitation"]["2"], squeezed))[:, None]


# --------------------------------------- Layers ----------------------------------------


def nest(weights: Mapping[str, np.ndarray]) -> Weights:
    """Weights by their names in PyTorch -> by those of their parts: `{"a.b": 1}` becomes `{"a": {"b": 1}}`."""
    nested: dict = {}
    for name, array in weights.items():
        *parts, last = name.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = array
    return nested


def linear(weights: Weights, inputs: np.ndarray) -> np.ndarray:
    """(..., values) -> (..., outputs), as one matrix product."""
    rows = inputs.reshape(-1, inputs.shape[-1]) @ weights["weight"].T
    rows += weights["bias"]
    return rows.reshape(*inputs.shape[:-1], -1)


def convolve(weights: Weights, inputs: np.ndarray, dilation: int = 1, stride: int = 1) -> np.ndarray:
    """Steps (rows, steps, values) -> (rows, steps, outputs): each sees itself and neighbours, zeros beyond the ends.

    A neighbour is `dilation` steps away; with a `stride`, only every so manieth step has an output.
    """
    outputs, _, width = weights["weight"].shape
    padded = np.pad(inputs, ((0, 0), (dilation * (width // 2),) * 2, (0, 0)))
    ends = range(inputs.shape[1], padded.shape[1] + 1, dilation)
    neighbours = [padded[:, end - inputs.shape[1] : end : stride] for end in ends]
    side_by_side = weights["weight"].transpose(0, 2, 1).reshape(outputs, -1)
    return linear({"weight": side_by_side, "bias": weights["bias"]}, np.concatenate(neighbours, axis=2))


def layer_norm(weights: Weights, inputs: np.ndarray) -> np.ndarray:
    """Each step's values (..., values) with mean 0 and standard deviation 1, then scaled and shifted as was learnt."""
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    variance = np.einsum("...v,...v->...", centred, centred)[..., None] / inputs.shape[-1]
    return centred * (1 / np.sqrt(variance + 1e-5)) * weights["weight"] + weights["bias"]


def relu(inputs: np.ndarray) -> np.ndarray:
    """Zero instead of what is negative."""
    return np.maximum(inputs, 0)


def sigmoid(inputs: np.ndarray) -> np.ndarray:
    """From 0 to 1; written with tanh, which does not overflow."""
    return 0.5 * np.tanh(0.5 * inputs) + 0.5


# --------------------------------------- Shapes ----------------------------------------


def count_dimensions(settings: Mapping) -> int:
    """The length of an embedding: each network gives as many numbers as the LSTM has outputs."""
    num_networks = settings["ENSEMBLE_SIZE"] + bool(settings["TDNN_CHANNELS"])
    return num_networks * (1 + settings["BI_LSTM"]) * settings["LSTM_HIDDEN_SIZE"]


def shapes(settings: Mapping) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all weights of an encoder with these settings."""
    num_inputs = (1 + settings["DELTAS"]) * settings["STACKED_FRAMES"] * settings["N_MFCC"]
    units, channels = settings["LSTM_HIDDEN_SIZE"], settings["TDNN_CHANNELS"]
    num_outputs = (1 + settings["BI_LSTM"]) * units
    found: dict[str, tuple[int, ...]] = dict.fromkeys(("feature_mean", "feature_std"), (settings["N_MFCC"],))
    for number in range(settings["ENSEMBLE_SIZE"]):
        for layer in range(settings["LSTM_NUM_LAYERS"]):
            is_normalised = settings["LSTM_LAYER_NORM"]
            part, place = (f"lstms.{number}.layers.{layer}", 0) if is_normalised else (f"lstms.{number}", layer)
            for name in [f"l{place}", f"l{place}_reverse"][: 1 + settings["BI_LSTM"]]:
                found[f"{part}.weight_ih_{name}"] = (4 * units, num_outputs if layer else num_inputs)
                found[f"{part}.weight_hh_{name}"] = (4 * units, units)
                found[f"{part}.bias_ih_{name}"] = found[f"{part}.bias_hh_{name}"] = (4 * units,)
            if is_normalised:
                found |= shapes_of(f"lstms.{number}.norms.{layer}", (num_outputs,))
    return found | (tdnn_shapes(num_inputs, channels, num_outputs) if channels else {})


def tdnn_shapes(num_inputs: int, channels: int, dimensions: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights of a TDNN."""
    of_group, joined = channels // NUM_GROUPS, len(DILATIONS) * channels
    layers: dict[str, tuple[int, ...]] = {"first": (channels, num_inputs, 5), "first_norm": (channels,)}
    for block in (f"blocks.{number}" for number in range(len(DILATIONS))):
        layers |= {f"{block}.before": (channels, channels), f"{block}.before_norm": (channels,)}
        for group in range(NUM_GROUPS - 1):
            layers |= {f"{block}.groups.{group}": (of_group, of_group, 3), f"{block}.group_norms.{group}": (of_group,)}
        layers |= {f"{block}.after": (channels, channels), f"{block}.after_norm": (channels,)}
        layers |= {f"{block}.excitation.0": (of_group, channels), f"{block}.excitation.2": (channels, of_group)}
    layers |= {"join": (joined, joined), "statistics_norm": (2 * joined,), "last": (dimensions, 2 * joined)}
    layers |= {"attention.0": (ATTENTION_UNITS, joined), "attention.2": (joined, ATTENTION_UNITS)}
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in layers.items():
        found |= shapes_of(f"tdnns.0.{name}", shape)
    return found


def shapes_of(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The weight of a layer with this shape, and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
