"""What PyTorch does unseen: the forward pass of an LSTM encoder, with its TDNN, as the formulae say, in NumPy alone.

Nothing here trains, or is used to answer: it is a chapter to read. From the weights of an encoder and the features of
one recording comes the embedding that the encoder gives.

Sources: Hochreiter and Schmidhuber 1997, "Long short-term memory", with the forget gate of Gers et al. 2000; those of
the parts around it stand in `encoder/lstm.py` and `encoder/tdnn.py`.
"""

from collections.abc import Mapping

import numpy as np

# The dilations of the TDNN's blocks, and the groups of channels in each, as in `encoder/tdnn.py`.
DILATIONS = (2, 3, 4)
NUM_GROUPS = 4

Weights = Mapping[str, np.ndarray]


def embed(weights: Weights, settings: Mapping, features: np.ndarray) -> np.ndarray:
    """Features (frames, N_MFCC) -> the embedding (dimensions,), not scaled to length 1.

    `weights` are the arrays of an encoder's `state_dict`, `settings` its own. Raises ValueError for a transformer.
    """
    if settings["USE_TRANSFORMER"]:
        raise ValueError("the forward pass is written out for LSTMs and the TDNN, not for a transformer.")
    frames = (features - weights["feature_mean"]) / weights["feature_std"]
    if settings["DELTAS"]:
        deltas = np.zeros_like(frames)
        deltas[1:-1] = frames[2:] - frames[:-2]
        frames = np.concatenate([frames, deltas], axis=1)
    num_steps = -(-len(frames) // settings["STACKED_FRAMES"])
    numbers = np.arange(num_steps * settings["STACKED_FRAMES"]).clip(max=len(frames) - 1)
    inputs = frames[numbers].reshape(num_steps, -1)  # (steps, values)
    parts = []
    for number in range(settings["ENSEMBLE_SIZE"]):
        outputs = lstm_network(part_of(weights, f"lstms.{number}"), settings, inputs)
        parts.append(outputs.mean(axis=0) if settings["FRAME_AGGREGATION_MEAN"] else outputs[-1])
    if settings["TDNN_CHANNELS"]:
        parts.append(tdnn(part_of(weights, "tdnns.0"), inputs))
    return parts[0] if len(parts) == 1 else np.concatenate([part / np.linalg.norm(part) for part in parts])


# ---------------------------------------- LSTM -----------------------------------------


def lstm_network(weights: Weights, settings: Mapping, inputs: np.ndarray) -> np.ndarray:
    """All layers: steps (steps, values) -> the outputs of the last layer (steps, units).

    With LSTM_LAYER_NORM, each layer's outputs are normalised, and all but the first add what they have read.
    """
    for layer in range(settings["LSTM_NUM_LAYERS"]):
        is_normalised = settings["LSTM_LAYER_NORM"]
        own, number = (part_of(weights, f"layers.{layer}"), 0) if is_normalised else (weights, layer)
        outputs = lstm_layer(own, f"l{number}", inputs)
        if settings["BI_LSTM"]:  # The same from the end to the begin.
            outputs = np.hstack([outputs, lstm_layer(own, f"l{number}_reverse", inputs[::-1])[::-1]])
        if is_normalised:
            outputs = layer_norm(part_of(weights, f"norms.{layer}"), outputs) + (inputs if layer else 0)
        inputs = outputs
    return inputs


def lstm_layer(weights: Weights, name: str, inputs: np.ndarray) -> np.ndarray:
    """One layer in one direction: steps (steps, values) -> (steps, units)."""
    # What the inputs give to the gates is known for all steps beforehand: one matrix product.
    from_inputs = inputs @ weights[f"weight_ih_{name}"].T + weights[f"bias_ih_{name}"] + weights[f"bias_hh_{name}"]
    recurrent = weights[f"weight_hh_{name}"].T  # (units, 4 x units)
    hidden = cell = np.zeros(len(recurrent), np.float32)
    outputs = []
    for gates in from_inputs:
        hidden, cell = lstm_step(gates + hidden @ recurrent, cell)
        outputs.append(hidden)
    return np.stack(outputs)


def lstm_step(gates: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step -> the hidden state and the cell, both (units,).

    `gates` (4 x units,) are sums of weighted inputs and hidden states. How much of the candidate comes in, how much of
    the cell stays, and how much of it is shown, each unit decides anew in each step.
    """
    come_in, stay, candidate, show = np.split(gates, 4)
    cell = sigmoid(stay) * cell + sigmoid(come_in) * np.tanh(candidate)
    return sigmoid(show) * np.tanh(cell), cell


# ---------------------------------------- TDNN -----------------------------------------


def tdnn(weights: Weights, inputs: np.ndarray) -> np.ndarray:
    """Steps (steps, values) -> the TDNN's part of the embedding (dimensions,)."""
    outputs = [layer_norm(part_of(weights, "first_norm"), relu(convolve(part_of(weights, "first"), inputs)))]
    for number, dilation in enumerate(DILATIONS):
        outputs.append(tdnn_block(part_of(weights, f"blocks.{number}"), outputs[-1], dilation))
    joined = relu(linear(part_of(weights, "join"), np.hstack(outputs[1:])))  # (steps, joined)
    attention = linear(part_of(weights, "attention.2"), np.tanh(linear(part_of(weights, "attention.0"), joined)))
    importance = np.exp(attention - attention.max(axis=0))
    importance /= importance.sum(axis=0)  # Of each channel's steps: a softmax.
    mean = (importance * joined).sum(axis=0)
    variance = (importance * (joined - mean) ** 2).sum(axis=0)
    statistics = np.concatenate([mean, np.sqrt(variance.clip(min=1e-4))])
    return linear(part_of(weights, "last"), layer_norm(part_of(weights, "statistics_norm"), statistics))


def tdnn_block(weights: Weights, inputs: np.ndarray, dilation: int) -> np.ndarray:
    """A block, whose output is added to its input, both (steps, channels)."""
    before = layer_norm(part_of(weights, "before_norm"), relu(linear(part_of(weights, "before"), inputs)))
    first, *others = np.split(before, NUM_GROUPS, axis=1)
    results, found = [first], np.zeros_like(first)
    for number, group in enumerate(others):
        found = relu(convolve(part_of(weights, f"groups.{number}"), group + found, dilation))
        found = layer_norm(part_of(weights, f"group_norms.{number}"), found)
        results.append(found)
    change = layer_norm(part_of(weights, "after_norm"), relu(linear(part_of(weights, "after"), np.hstack(results))))
    squeezed = relu(linear(part_of(weights, "excitation.0"), change.mean(axis=0)))
    return inputs + change * sigmoid(linear(part_of(weights, "excitation.2"), squeezed))


# --------------------------------------- Layers ----------------------------------------


def part_of(weights: Weights, name: str) -> Weights:
    """The weights of a part, by their names in it."""
    return {key.removeprefix(f"{name}."): array for key, array in weights.items() if key.startswith(f"{name}.")}


def linear(weights: Weights, inputs: np.ndarray) -> np.ndarray:
    """(..., values) -> (..., outputs)."""
    return inputs @ weights["weight"].T + weights["bias"]


def convolve(weights: Weights, inputs: np.ndarray, dilation: int = 1) -> np.ndarray:
    """Steps (steps, values) -> (steps, outputs): each sees itself and its neighbours, zeros beyond the ends."""
    width = weights["weight"].shape[2]
    padded = np.pad(inputs, ((dilation * (width // 2),) * 2, (0, 0)))
    taps = (padded[dilation * tap :][: len(inputs)] @ weights["weight"][:, :, tap].T for tap in range(width))
    return sum(taps, weights["bias"])


def layer_norm(weights: Weights, inputs: np.ndarray) -> np.ndarray:
    """Each step's values (..., values) with mean 0 and standard deviation 1, then scaled and shifted as was learnt."""
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return centred / deviation * weights["weight"] + weights["bias"]


def relu(inputs: np.ndarray) -> np.ndarray:
    """Zero instead of what is negative."""
    return np.maximum(inputs, 0)


def sigmoid(inputs: np.ndarray) -> np.ndarray:
    """From 0 to 1; written with tanh, which does not overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * inputs)
