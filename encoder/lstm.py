"""The course's network: LSTMs, whose outputs over time become one embedding. A TDNN can stand beside them."""

import torch
from torch import nn

from encoder.speaker_encoder import SpeakerEncoder
from encoder.tdnn import Tdnn

# Steps of several rows, padded in a tensor (batch, steps, values), or packed without padding.
Steps = torch.Tensor | nn.utils.rnn.PackedSequence


class LstmEncoder(SpeakerEncoder):
    """LSTMs whose outputs are aggregated by their mean over the steps, or by taking the last one.

    With TDNN_CHANNELS, a TDNN stands beside them. The outputs of several networks stand side by side in the embedding,
    each with length 1, so that the cosine similarity of two embeddings is the mean of theirs.
    """

    lstms: nn.ModuleList
    tdnns: nn.ModuleList

    def build(self, num_inputs: int, values: dict) -> None:
        """Make ENSEMBLE_SIZE LSTMs, and a TDNN if it has channels; each gives equally many dimensions."""
        dim_per_network = (2 if values["BI_LSTM"] else 1) * values["LSTM_HIDDEN_SIZE"]
        channels = values["TDNN_CHANNELS"]
        options = {
            "input_size": num_inputs,
            "hidden_size": values["LSTM_HIDDEN_SIZE"],
            "num_layers": values["LSTM_NUM_LAYERS"],
            "bidirectional": values["BI_LSTM"],
            "batch_first": True,
        }
        kind = NormalizedLstm if values["LSTM_LAYER_NORM"] else nn.LSTM
        self.lstms = nn.ModuleList(kind(**options) for _ in range(values["ENSEMBLE_SIZE"]))
        self.tdnns = nn.ModuleList([Tdnn(num_inputs, channels, dim_per_network)] if channels else [])
        self.dimensions = (len(self.lstms) + len(self.tdnns)) * dim_per_network

    def embed(self, inputs: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """The aggregated outputs of each LSTM, and those of the TDNN, side by side."""
        if lengths is None or not self.settings["BI_LSTM"]:  # Read forwards, padding comes last.
            embeddings = [self.aggregate(lstm(inputs)[0], lengths) for lstm in self.lstms]
        else:  # Packing leaves the padding out, and is slower.
            packed = nn.utils.rnn.pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
            padded = [nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)[0] for lstm in self.lstms]
            embeddings = [self.aggregate(outputs, lengths) for outputs in padded]
        embeddings += [tdnn(inputs, lengths) for tdnn in self.tdnns]
        if len(embeddings) == 1:
            return embeddings[0]
        return torch.cat([nn.functional.normalize(part, dim=1) for part in embeddings], dim=1)

    def aggregate(self, outputs: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """The mean of an LSTM's outputs (batch, steps, units) or the last one -> (batch, units)."""
        if lengths is None:
            return outputs.mean(dim=1) if self.settings["FRAME_AGGREGATION_MEAN"] else outputs[:, -1]
        if self.settings["FRAME_AGGREGATION_MEAN"]:
            lengths = lengths.to(outputs.device)[:, None]
            is_counted = torch.arange(outputs.shape[1], device=outputs.device) < lengths
            return (outputs * is_counted[:, :, None]).sum(dim=1) / lengths
        return outputs[torch.arange(len(outputs)), lengths - 1]


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

    def forward(self, inputs: Steps) -> tuple[Steps, None]:
        """Steps (batch, steps, input_size) -> the last layer's outputs (batch, steps, units), and no state."""
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            outputs = layer(inputs)[0]
            values = norm(values_of(outputs)) + (values_of(inputs) if number else 0)
            inputs = values if isinstance(outputs, torch.Tensor) else outputs._replace(data=values)
        return inputs, None


def values_of(inputs: Steps) -> torch.Tensor:
    """The values of a tensor or a packed sequence."""
    return inputs if isinstance(inputs, torch.Tensor) else inputs.data
