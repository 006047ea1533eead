"""The networks that turn features into an embedding: LSTMs, with a TDNN beside them or not, or a transformer."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import feature_extraction
from foundation import parallel, setting_tables, settings
from foundation.settings import Config
from tdnn import Tdnn

# Steps of several rows, padded in a tensor (batch, steps, values), or packed without padding.
Steps = torch.Tensor | nn.utils.rnn.PackedSequence


class SpeakerEncoder(nn.Module):
    """Features (batch, frames, N_MFCC) -> embeddings (batch, dimensions), not normalised.

    The features are normalised with the mean and deviation of the training data, with DELTAS the changes of them are
    appended, STACKED_FRAMES of them are put side by side, and the network of a subclass embeds the result.

    The settings that shaped the encoder stay with it in `settings`; so do decision thresholds measured by
    `conditions.py`, in `calibration`, and the embeddings of some training speakers (speakers, dimensions), in `cohort`,
    against which scores can be normalised. `path` is the file it was loaded from, and `file_digest` a hash of that.
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor
    dimensions: int

    def __init__(self, shape: dict | None = None) -> None:
        """An encoder of this shape, a value for each of MODEL_SETTINGS, or of that of the present settings."""
        super().__init__()
        values = settings.all_settings() if shape is None else shape
        self.settings = {name: values[name] for name in setting_tables.MODEL_SETTINGS}
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

    def embed(self, steps: torch.Tensor, num_steps: torch.Tensor | None) -> torch.Tensor:
        """Embed what the network reads in each step (batch, steps, num_inputs) -> (batch, dimensions)."""
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

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        """Embed a batch; `num_frames` (batch,) says how many frames of each row count where rows are padded."""
        frames = (features - self.feature_mean) / self.feature_std
        if self.settings["DELTAS"]:
            frames = append_deltas(frames, num_frames)
        if self.settings["STACKED_FRAMES"] > 1:
            frames, num_frames = stack_frames(frames, num_frames, self.settings["STACKED_FRAMES"])
        return self.embed(frames, num_frames)


def append_deltas(frames: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
    """Append to each frame (batch, frames, N) the one after it minus the one before it -> (batch, frames, 2 N).

    The first and the last frame get zeros; if rows are padded, `num_frames` (batch,) tells which one is last. Source of
    deltas: Furui 1986; these are plain differences, not his slopes of lines fitted to several frames.
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


class LstmEncoder(SpeakerEncoder):
    """LSTMs whose outputs are aggregated by their mean over the steps, or by taking the last one.

    With TDNN_CHANNELS, a TDNN stands beside them. The outputs of several networks stand side by side in the embedding,
    each with length 1, so that the cosine similarity of two embeddings is the mean of theirs.
    """

    lstms: nn.ModuleList
    tdnns: nn.ModuleList

    def build(self, num_inputs: int, values: dict) -> None:
        """Make ENSEMBLE_SIZE LSTMs, and a TDNN if it has channels; each gives equally many dimensions."""
        of_network = (2 if values["BI_LSTM"] else 1) * values["LSTM_HIDDEN_SIZE"]
        channels = values["TDNN_CHANNELS"]
        shape = {
            "input_size": num_inputs,
            "hidden_size": values["LSTM_HIDDEN_SIZE"],
            "num_layers": values["LSTM_NUM_LAYERS"],
            "bidirectional": values["BI_LSTM"],
            "batch_first": True,
        }
        kind = NormalizedLstm if values["LSTM_LAYER_NORM"] else nn.LSTM
        self.lstms = nn.ModuleList(kind(**shape) for _ in range(values["ENSEMBLE_SIZE"]))
        self.tdnns = nn.ModuleList([Tdnn(num_inputs, channels, of_network)] if channels else [])
        self.dimensions = (len(self.lstms) + len(self.tdnns)) * of_network

    def embed(self, steps: torch.Tensor, num_steps: torch.Tensor | None) -> torch.Tensor:
        """The aggregated outputs of each LSTM, and those of the TDNN, side by side."""
        if num_steps is None or not self.settings["BI_LSTM"]:  # What reads forwards gets to the padding last.
            embeddings = [self.aggregate(lstm(steps)[0], num_steps) for lstm in self.lstms]
        else:  # Packing leaves the padding out, and is slower.
            packed = nn.utils.rnn.pack_padded_sequence(steps, num_steps.cpu(), batch_first=True, enforce_sorted=False)
            padded = [nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)[0] for lstm in self.lstms]
            embeddings = [self.aggregate(outputs, num_steps) for outputs in padded]
        embeddings += [tdnn(steps, num_steps) for tdnn in self.tdnns]
        if len(embeddings) == 1:
            return embeddings[0]
        return torch.cat([nn.functional.normalize(own, dim=1) for own in embeddings], dim=1)

    def aggregate(self, outputs: torch.Tensor, num_steps: torch.Tensor | None = None) -> torch.Tensor:
        """The mean of an LSTM's outputs (batch, steps, units) or the last one -> (batch, units)."""
        if num_steps is None:
            return outputs.mean(dim=1) if self.settings["FRAME_AGGREGATION_MEAN"] else outputs[:, -1]
        if self.settings["FRAME_AGGREGATION_MEAN"]:
            num_steps = num_steps.to(outputs.device)[:, None]
            is_counted = torch.arange(outputs.shape[1], device=outputs.device) < num_steps
            return (outputs * is_counted[:, :, None]).sum(dim=1) / num_steps
        return outputs[torch.arange(len(outputs)), num_steps - 1]


def split_networks(embeddings: torch.Tensor, config: Config) -> Sequence[torch.Tensor]:
    """The parts of embeddings (..., dimensions) that are each network's, of an encoder with these settings."""
    return embeddings.chunk(config.ENSEMBLE_SIZE + bool(config.TDNN_CHANNELS), dim=-1)


class NormalizedLstm(nn.Module):
    """An LSTM with layer normalisation of each layer's outputs, to which all but the first add what they have read.

    Called like `nn.LSTM`, with a tensor or a packed sequence. Sources: Ba et al. 2016, "Layer normalization" (here of
    the outputs alone); He et al. 2016, "Deep residual learning" (the addition).
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, bidirectional: bool, batch_first: bool
    ) -> None:
        super().__init__()
        num_outputs = (2 if bidirectional else 1) * hidden_size
        self.layers = nn.ModuleList(
            nn.LSTM(num_read, hidden_size, bidirectional=bidirectional, batch_first=batch_first)
            for num_read in [input_size, *[num_outputs] * (num_layers - 1)]
        )
        self.norms = nn.ModuleList(nn.LayerNorm(num_outputs) for _ in range(num_layers))

    def forward(self, steps: Steps) -> tuple[Steps, None]:
        """Steps (batch, steps, input_size) -> the last layer's outputs (batch, steps, units), and no state."""
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            outputs = layer(steps)[0]
            values = norm(values_of(outputs)) + (values_of(steps) if number else 0)
            steps = values if isinstance(outputs, torch.Tensor) else outputs._replace(data=values)
        return steps, None


def values_of(steps: Steps) -> torch.Tensor:
    """The values of a tensor or a packed sequence."""
    return steps if isinstance(steps, torch.Tensor) else steps.data


class TransformerEncoder(SpeakerEncoder):
    """A transformer: its encoder reads all steps at once, its decoder asks them a single question, a query of zeros.

    There is no positional encoding, so the order of the steps does not count, and no dropout, so that training stays
    the same bit for bit. Source: Vaswani et al. 2017, "Attention is all you need".
    """

    def build(self, num_inputs: int, values: dict) -> None:
        """Make a linear layer, TRANSFORMER_ENCODER_LAYERS layers of encoder and one of decoder."""
        self.dimensions = values["TRANSFORMER_DIM"]
        options = {
            "d_model": self.dimensions,
            "nhead": values["TRANSFORMER_HEADS"],
            "dropout": 0.0,
            "batch_first": True,
        }
        self.linear_layer = nn.Linear(num_inputs, self.dimensions)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**options), values["TRANSFORMER_ENCODER_LAYERS"], enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**options), num_layers=1)

    def embed(self, steps: torch.Tensor, num_steps: torch.Tensor | None) -> torch.Tensor:
        """What the decoder answers; padding is masked."""
        is_padding = None
        if num_steps is not None:
            is_padding = torch.arange(steps.shape[1], device=steps.device) >= num_steps[:, None].to(steps.device)
        read = self.encoder(torch.sigmoid(self.linear_layer(steps)), src_key_padding_mask=is_padding)
        query = torch.zeros(len(steps), 1, self.dimensions, device=steps.device)
        return self.decoder(query, read, memory_key_padding_mask=is_padding)[:, 0]


def new_encoder(shape: dict | None = None) -> SpeakerEncoder:
    """An encoder of this shape, a value for each of MODEL_SETTINGS, or of that of the present settings."""
    values = settings.all_settings() if shape is None else shape
    return (TransformerEncoder if values["USE_TRANSFORMER"] else LstmEncoder)(shape)
