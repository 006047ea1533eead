"""A time-delay neural network (TDNN), which sees a few neighbouring steps at a time where an LSTM remembers all before.

Waibel et al. 1989 recognised phonemes with one, Snyder et al. 2018 ("X-vectors") speakers.
"""

import torch
from torch import nn

from encoder.forward import ATTENTION_UNITS, DILATIONS, NUM_GROUPS


class Tdnn(nn.Module):
    """What is read in each step (batch, steps, num_inputs) -> embeddings (batch, dimensions), not of length 1.

    The outputs of all blocks are joined, and their mean and standard deviation over the steps are taken, in which the
    steps that say more about the speaker count more. `channels` is a multiple of NUM_GROUPS.

    Source: Desplanques et al. 2020, "ECAPA-TDNN". This one is smaller: a block reads the output of the last one alone,
    and the attention reads no means. Layer normalisation takes the place of batch normalisation, so that no recording
    of a batch affects another.
    """

    def __init__(self, num_inputs: int, channels: int, dimensions: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(num_inputs, channels, 5, padding=2)
        self.first_norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(TdnnBlock(channels, dilation) for dilation in DILATIONS)
        joined = len(DILATIONS) * channels
        self.join = nn.Linear(joined, joined)
        self.attention = nn.Sequential(
            nn.Linear(joined, ATTENTION_UNITS), nn.Tanh(), nn.Linear(ATTENTION_UNITS, joined)
        )
        self.statistics_norm = nn.LayerNorm(2 * joined)
        self.last = nn.Linear(2 * joined, dimensions)

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Embed a batch; `lengths` (batch,) says how many steps of each row count where rows are padded."""
        num_counted = torch.full((len(inputs),), inputs.shape[1]) if lengths is None else lengths
        is_counted = torch.arange(inputs.shape[1], device=inputs.device) < num_counted.to(inputs.device)[:, None]
        is_counted = is_counted[:, :, None]
        outputs = [self.first_norm(convolve(self.first, inputs, is_counted).relu())]
        for block in self.blocks:
            outputs.append(block(outputs[-1], is_counted))
        joined = self.join(torch.cat(outputs[1:], dim=2)).relu()
        weights = self.attention(joined).float().masked_fill(~is_counted, -torch.inf).softmax(dim=1)
        mean = (weights * joined).sum(dim=1)
        variance = (weights * (joined - mean[:, None]).square()).sum(dim=1)
        statistics = torch.cat([mean, variance.clamp(min=1e-4).sqrt()], dim=1)
        return self.last(self.statistics_norm(statistics))


class TdnnBlock(nn.Module):
    """Layers whose output is added to their input, both (batch, steps, channels).

    Each group of channels but the first goes through a convolution of its own; from the third on, the result of the
    group before is added first, so that later groups see more steps (Gao et al. 2019, "Res2Net"). In the end, each
    channel counts more or less by what the whole recording is like (Hu et al. 2018, "Squeeze-and-excitation networks").
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        of_group = channels // NUM_GROUPS
        self.before, self.before_norm = nn.Linear(channels, channels), nn.LayerNorm(channels)
        self.groups = nn.ModuleList(
            nn.Conv1d(of_group, of_group, 3, padding=dilation, dilation=dilation) for _ in range(NUM_GROUPS - 1)
        )
        self.group_norms = nn.ModuleList(nn.LayerNorm(of_group) for _ in self.groups)
        self.after, self.after_norm = nn.Linear(channels, channels), nn.LayerNorm(channels)
        self.excitation = nn.Sequential(
            nn.Linear(channels, of_group), nn.ReLU(), nn.Linear(of_group, channels), nn.Sigmoid()
        )

    def forward(self, inputs: torch.Tensor, is_counted: torch.Tensor) -> torch.Tensor:
        """Steps (batch, steps, channels), of which some count (batch, steps, 1) -> the same shape."""
        first, *others = self.before_norm(self.before(inputs).relu()).chunk(NUM_GROUPS, dim=2)
        results, found = [first], 0.0
        for convolution, norm, group in zip(self.groups, self.group_norms, others, strict=True):
            found = norm(convolve(convolution, group + found, is_counted).relu())
            results.append(found)
        change = self.after_norm(self.after(torch.cat(results, dim=2)).relu())
        mean = (change * is_counted).sum(dim=1) / is_counted.sum(dim=1)
        return inputs + change * self.excitation(mean)[:, None]


def convolve(convolution: nn.Module, inputs: torch.Tensor, is_counted: torch.Tensor) -> torch.Tensor:
    """A convolution over the steps (batch, steps, channels), with zeros before the first and after the last counted."""
    return convolution((inputs * is_counted).transpose(1, 2)).transpose(1, 2)
