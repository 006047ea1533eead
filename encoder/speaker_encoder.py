"""What every network has around it in PyTorch: features come in normalised, with deltas and stacked."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from encoder.base import Encoder
from foundation import parallel, setting_table, settings


class SpeakerEncoder(nn.Module, Encoder):
    """Features (batch, frames, N_MFCC) -> embeddings (batch, dimensions), not scaled to length 1.

    The features are normalised with the mean and standard deviation of the training data, with DELTAS their changes
    are appended, STACKED_FRAMES of them are put side by side, and the network of a subclass embeds the result.
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor

    def __init__(self, shape: dict | None = None) -> None:
        """An encoder of this shape, a value for each of MODEL_SETTINGS, or of that of the present settings."""
        super().__init__()
        values = settings.all_settings() if shape is None else shape
        self.settings = {name: values[name] for name in setting_table.MODEL_SETTINGS}
        self.train_speakers = []
        self.calibration = {}
        self.register_buffer("feature_mean", torch.zeros(values["N_MFCC"]))
        self.register_buffer("feature_std", torch.ones(values["N_MFCC"]))
        self.build((2 if values["DELTAS"] else 1) * values["STACKED_FRAMES"] * values["N_MFCC"], values)
        self.cohort = np.zeros((0, self.dimensions), np.float32)

    def build(self, num_inputs: int, values: dict) -> None:
        """Make the network's layers, and set `dimensions`, the length of an embedding."""
        raise NotImplementedError

    def embed(self, inputs: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Embed what the network reads in each time step (batch, steps, num_inputs) -> (batch, dimensions).

        `lengths` (batch,) says how many steps of each row count where rows are padded.
        """
        raise NotImplementedError

    def to(self, *args: Any, **options: Any) -> "SpeakerEncoder":
        """As for every module, but DEVICE="auto", which PyTorch does not know, is also a device."""
        if args and args[0] == "auto":
            args = (parallel.get_device("auto"), *args[1:])
        return super().to(*args, **options)

    @property
    def is_on_cpu(self) -> bool:
        """Whether several threads that embed with it work at the same time."""
        return self.feature_mean.device.type == "cpu"

    def weights(self) -> dict[str, np.ndarray]:
        """The weights, by their names."""
        return {name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()}

    @torch.no_grad()
    def embed_batch(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Features of recordings (frames, N_MFCC), the longest first -> (recordings, dimensions), of any length."""
        lengths = torch.tensor([len(of_recording) for of_recording in features])
        padded = nn.utils.rnn.pad_sequence(list(map(torch.from_numpy, features)), batch_first=True)
        return self(padded.to(self.feature_mean.device), lengths).cpu().numpy()

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        """Embed a batch; `num_frames` (batch,) says how many frames of each row count where rows are padded."""
        inputs, lengths = (features - self.feature_mean) / self.feature_std, num_frames
        if self.settings["DELTAS"]:
            inputs = append_deltas(inputs, lengths)
        if self.settings["STACKED_FRAMES"] > 1:
            inputs, lengths = stack_frames(inputs, lengths, self.settings["STACKED_FRAMES"])
        return self.embed(inputs, lengths)


def append_deltas(frames: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
    """Append to each frame (batch, frames, N) the one after it minus the one before it -> (batch, frames, 2 N).

    The first and the last frame get zeros; if rows are padded, `num_frames` (batch,) tells which one is last. Source of
    deltas: Furui 1986; these are central differences, not his slopes of lines fitted to several frames.
    """
    deltas = torch.zeros_like(frames)
    deltas[:, 1:-1] = frames[:, 2:] - frames[:, :-2]
    if num_frames is not None:
        deltas[torch.arange(len(frames)), num_frames - 1] = 0
    return torch.cat([frames, deltas], dim=2)


def stack_frames(
    frames: torch.Tensor, num_frames: torch.Tensor | None, size: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Put every `size` frames (batch, frames, N) side by side -> (batch, steps, size * N), and the steps of each row.

    The last frame is repeated until a step is full; if rows are padded, `num_frames` (batch,) tells which one is last.
    Source: Sak et al. 2015, "Fast and accurate recurrent neural network acoustic models for speech recognition".
    """
    num_steps = math.ceil(frames.shape[1] / size)
    numbers = torch.arange(num_steps * size, device=frames.device).clamp(max=frames.shape[1] - 1)
    numbers = numbers.expand(len(frames), -1)
    if num_frames is not None:
        numbers = numbers.minimum(num_frames.to(frames.device)[:, None] - 1)
        num_frames = (num_frames + size - 1) // size
    stacked = frames[torch.arange(len(frames), device=frames.device)[:, None], numbers]
    return stacked.reshape(len(frames), num_steps, -1), num_frames
