"""Training steps of the network alone: against PyTorch's own threads, in bfloat16, and on a GPU."""

from collections.abc import Callable

import torch
from torch import nn

import myconfig
import neural_net
from benchmark.straightforward import straightforward_step
from benchmark.timing import Row, compare, in_torch_threads, median_seconds
from foundation import parallel, settings


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


def network_rows(rounds: int) -> list[Row]:
    """Steps of the settings' LSTMs: as most would write it, in float32, and in bfloat16."""
    crops = torch.randn(32, 4, myconfig.SEQ_LEN, myconfig.N_MFCC)
    with settings.override(USE_TRANSFORMER=False, LSTM_LAYER_NORM=False, TDNN_CHANNELS=0, DEVICE="cpu"):
        with settings.override(MIXED_PRECISION=False):
            float32_step = network_step(crops)
        encoder = neural_net.get_speaker_encoder()
        optimizer = torch.optim.Adam(encoder.parameters())
        # `nn.LSTM` on the whole batch, with PyTorch's own threads.
        plain_step = in_torch_threads(lambda: straightforward_step(encoder, optimizer, crops))
        plain, float32, bfloat16 = median_seconds(rounds, plain_step, float32_step, network_step(crops))
    what = f"{myconfig.LSTM_NUM_LAYERS} x {myconfig.LSTM_HIDDEN_SIZE} LSTM units"
    rows = [compare(f"float32 step of {what}, against plain `nn.LSTM`", plain, float32)]
    if myconfig.MIXED_PRECISION and parallel.has_bfloat16(torch.device("cpu")):
        rows.append(compare(f"bfloat16 step of {what}, against float32", float32, bfloat16))
    return rows


def gpu_rows(rounds: int) -> list[Row]:
    """A training step's network on a GPU, if there is one."""
    if not torch.cuda.is_available():
        return []
    crops = torch.randn(32, 4, myconfig.SEQ_LEN, myconfig.N_MFCC)
    steps = []
    for device in ("cpu", "cuda"):
        with settings.override(DEVICE=device):
            steps.append(network_step(crops))
    return [compare("network step on the GPU, against the CPU", *median_seconds(rounds, *steps))]
