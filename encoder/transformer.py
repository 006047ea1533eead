"""A transformer in place of the LSTMs, as in the course's second exercise."""

import torch
from torch import nn

from encoder.speaker_encoder import SpeakerEncoder


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

    def embed(self, inputs: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """What the decoder answers; padding is masked."""
        is_padding = None
        if lengths is not None:
            is_padding = torch.arange(inputs.shape[1], device=inputs.device) >= lengths[:, None].to(inputs.device)
        read = self.encoder(torch.sigmoid(self.linear_layer(inputs)), src_key_padding_mask=is_padding)
        query = torch.zeros(len(inputs), 1, self.dimensions, device=inputs.device)
        return self.decoder(query, read, memory_key_padding_mask=is_padding)[:, 0]
