"""What every network has around it: features come in normalised, with deltas and stacked; its settings stay with it."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

import feature_extraction
from foundation import parallel, setting_table, settings


class SpeakerEncoder(nn.Module):
    """Features (batch, frames, N_MFCC) -> embeddings (batch, dimensions), not scaled to length 1.

    The features are normalised with the mean and standard deviation of the training data, with DELTAS their changes
    are appended, STACKED_FRAMES of them are put side by side, and the network of a subclass embeds the result.

    The settings that shaped the encoder stay with it in `settings`; so do decision thresholds measured by
    `experiments/conditions.py`, in `calibration`, and the embeddings of some training speakers (speakers, dimensions),
    in `cohort`, against which scores can be normalised. `path` is the file it was loaded from, and `file_digest` a hash
    of that.
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor
    dimensions: int

    def __init__(self, shape: dict | None = None) -> None:
        """An encoder of this shape, a value for each of MODEL_SETTINGS, or of that of the present settings."""
        super().__init__()
        values = settings.all_settings() if shape is None else shape
        self.settings = {name: values[name] for name in setting_table.MODEL_SETTINGS}
        self.train_speakers: list[str] = []
        self.calibration: dict = {}
        self.path = self.file_digest = ""
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
    def feature_settings(self) -> feature_extraction.FeatureSettings:
        """The settings of the features that this encoder reads."""
        return feature_extraction.feature_settings(self.settings)

    @property
    def answer_cohort(self) -> np.ndarray:
        """The cohort by which the scores of answers are normalised; nobody if thresholds are of cosine similarities."""
        return self.cohort if self.calibration.get("normalised", not self.calibration) else self.cohort[:0]

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
