"""Tests of `encoder/tdnn.py`."""

import numpy as np
import torch
from torch import nn

from encoder.tdnn import Tdnn
from unit_tests.shared import ProjectTest, layer_normalised


def linear(layer: nn.Linear, values: np.ndarray) -> np.ndarray:
    return values @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def convolved(layer: nn.Conv1d, steps: np.ndarray, dilation: int) -> np.ndarray:
    """Steps (steps, channels), zeros around them."""
    weight = layer.weight.detach().numpy()
    reach = weight.shape[2] // 2 * dilation
    padded = np.pad(steps, ((reach, reach), (0, 0)))
    taps = [padded[tap * dilation :][: len(steps)] @ weight[:, :, tap].T for tap in range(weight.shape[2])]
    return sum(taps) + layer.bias.detach().numpy()


def normed_relu(norm: nn.LayerNorm, values: np.ndarray) -> np.ndarray:
    return layer_normalised(norm, np.maximum(values, 0))


def embedded(tdnn: Tdnn, steps: np.ndarray) -> np.ndarray:
    """The embedding of one recording (steps, inputs), computed with NumPy."""
    steps = normed_relu(tdnn.first_norm, convolved(tdnn.first, steps, 1))
    of_blocks = []
    for block, dilation in zip(tdnn.blocks, (2, 3, 4), strict=True):
        groups = np.split(normed_relu(block.before_norm, linear(block.before, steps)), 4, axis=1)
        for number in (1, 2, 3):
            read = groups[number] + (groups[number - 1] if number > 1 else 0)
            groups[number] = normed_relu(
                block.group_norms[number - 1], convolved(block.groups[number - 1], read, dilation)
            )
        change = normed_relu(block.after_norm, linear(block.after, np.hstack(groups)))
        hidden = np.maximum(linear(block.excitation[0], change.mean(axis=0)), 0)
        steps = steps + change / (1 + np.exp(-linear(block.excitation[2], hidden)))
        of_blocks.append(steps)
    joined = np.maximum(linear(tdnn.join, np.hstack(of_blocks)), 0)
    weights = np.exp(linear(tdnn.attention[2], np.tanh(linear(tdnn.attention[0], joined))))
    weights /= weights.sum(axis=0)
    mean = (weights * joined).sum(axis=0)
    deviation = np.sqrt(np.maximum((weights * (joined - mean) ** 2).sum(axis=0), 1e-4))
    return linear(tdnn.last, layer_normalised(tdnn.statistics_norm, np.concatenate([mean, deviation])))


class TdnnTest(ProjectTest):
    def test_embeddings_are_those_of_a_plain_computation_also_where_rows_are_padded(self) -> None:
        torch.manual_seed(0)
        tdnn, lengths = Tdnn(num_inputs=6, channels=32, dimensions=5), [70, 1, 9]
        for norm in (module for module in tdnn.modules() if isinstance(module, nn.LayerNorm)):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        steps = torch.randn(3, 70, 6)
        embeddings = tdnn(steps, torch.tensor(lengths)).detach().numpy()
        for row, embedding, length in zip(steps.numpy(), embeddings, lengths, strict=True):
            np.testing.assert_allclose(embedding, embedded(tdnn, row[:length]), atol=1e-4)
        np.testing.assert_allclose(tdnn(steps)[0].detach(), embeddings[0], atol=1e-5)
