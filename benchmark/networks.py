"""Training steps of the network alone: against the machine's matrix products, PyTorch's own threads, and on a GPU."""

import math
from collections.abc import Callable

import torch
from torch import nn

import myconfig
import neural_net
from benchmark.straightforward import straightforward_step
from benchmark.timing import Row, compare, in_torch_threads, median_seconds, share
from encoder.lstm import LstmEncoder
from encoder.speaker_encoder import SpeakerEncoder
from foundation import parallel, settings

# Layers of three LSTMs: whether they are bidirectional, and their units.
ENCODERS = {"2 x 64": (True, 64), "108": (False, 108), "128": (False, 128), "256": (False, 256)}


def network_step(crops: torch.Tensor) -> Callable[[], None]:
    """A function that does forward, backward and optimiser on a new encoder of the settings' shape."""
    encoder = neural_net.get_speaker_encoder()
    optimizer = torch.optim.Adam(encoder.parameters())
    crops = crops.to(encoder.feature_mean.device)
    config = settings.present()

    def step() -> None:
        loss = neural_net.get_triplet_losses(neural_net.embed_batch(encoder, crops, config), config).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), neural_net.MAX_GRADIENT_NORM)
        optimizer.step()
        if crops.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def plain_step(encoder: SpeakerEncoder, crops: torch.Tensor) -> Callable[[], object]:
    """The same step as most would write it: `nn.LSTM` on the whole batch, with PyTorch's own threads, in float32."""
    optimizer = torch.optim.Adam(encoder.parameters())
    return in_torch_threads(lambda: straightforward_step(encoder, optimizer, crops))


def network_rows(rounds: int) -> list[Row]:
    """Steps of LSTMs of several shapes: the plain way, the matrix products in them, and bfloat16."""
    crops = torch.randn(32, 4, myconfig.SEQ_LEN, myconfig.N_MFCC)
    matrix = torch.randn(2048, 2048)
    rows = []
    for name, (bidirectional, units) in ENCODERS.items():
        plain_lstm = {"USE_TRANSFORMER": False, "LSTM_LAYER_NORM": False, "ENSEMBLE_SIZE": 1, "TDNN_CHANNELS": 0}
        with settings.override(**plain_lstm, BI_LSTM=bidirectional, LSTM_HIDDEN_SIZE=units, DEVICE="cpu"):
            with settings.override(MIXED_PRECISION=False):
                float32_step = network_step(crops)
            plain, float32, bfloat16, product = median_seconds(
                rounds,
                plain_step(neural_net.get_speaker_encoder(), crops),
                float32_step,
                network_step(crops),
                in_torch_threads(lambda: matrix @ matrix),
            )
            weights = LstmEncoder().named_parameters()
            num_weights = sum(values.numel() for weight, values in weights if ".weight" in weight)
        # A multiply-add for each weight and time step, once forward and twice backward.
        time_steps = math.ceil(crops.shape[2] / myconfig.STACKED_FRAMES)
        num_products = 3 * num_weights * crops[:, :, 0, 0].numel() * time_steps
        roofline = num_products * product / len(matrix) ** 3
        what = f"step of an LSTM of 3 x {name} units"
        rows.append(compare(f"float32 {what}, against plain `nn.LSTM`", plain, float32))
        rows.append(share(f"matrix products in a float32 {what}", float32, roofline))
        if myconfig.MIXED_PRECISION and parallel.has_bfloat16(torch.device("cpu")):
            rows.append(compare(f"bfloat16 {what}, against float32", float32, bfloat16))
    return rows


def gpu_rows(rounds: int) -> list[Row]:
    """A training step's network on a GPU, if there is one."""
    if not torch.cuda.is_available():
        return [("network step on a GPU", "-", "no GPU here", "-")]
    crops = torch.randn(32, 4, myconfig.SEQ_LEN, myconfig.N_MFCC)
    steps = []
    for device in ("cpu", "cuda"):
        with settings.override(DEVICE=device):
            steps.append(network_step(crops))
    return [compare("network step on the GPU, against the CPU", *median_seconds(rounds, *steps))]
