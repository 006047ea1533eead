"""Parallel work with PyTorch: threads that share a batch, devices, and processes that train one encoder together."""

import contextlib
import os
from collections.abc import Callable, Iterator

import torch
from torch import distributed, nn

from foundation import threads
from foundation.processes import rank, world_size

# The fewest rows of a batch for which a thread of their own saves time.
MIN_ROWS = 16


def prepare_process() -> None:
    """What `threads.prepare_process` does, and one thread for PyTorch: it saves a fifth of the time of a training step.

    `threads.thread_pool` does the parallel work. PyTorch's own threads would wait for one another after every small
    matrix product of an LSTM, which takes several times as long as soon as any other program is busy on one of the
    cores.
    """
    torch.set_num_threads(1)
    threads.prepare_process()


def embed_in_threads(
    embed: Callable[[torch.Tensor], torch.Tensor],
    batch: torch.Tensor,
    parameters: list[nn.Parameter],
    num_threads: int,
) -> torch.Tensor:
    """`embed(batch)` (rows, dimensions), computed in parts at the same time, forward and backward.

    When the gradient of the embeddings is known, each thread propagates it back through its own part. The gradients of
    the parameters are added in the order of the parts, so that the sum is the same each time.
    """
    parts = batch.chunk(min(num_threads, max(1, len(batch) // MIN_ROWS)))
    pool = threads.thread_pool(num_threads)
    of_parts = list(pool.map(embed, parts))
    embeddings = torch.cat([part.detach() for part in of_parts]).requires_grad_()

    def backward(gradient: torch.Tensor) -> None:
        gradients = gradient.split([len(part) for part in parts])
        of_threads = pool.map(lambda *part: torch.autograd.grad(part[0], parameters, part[1]), of_parts, gradients)
        for parameter, *shares in zip(parameters, *of_threads, strict=True):
            total = torch.stack(shares).sum(dim=0)
            parameter.grad = total if parameter.grad is None else parameter.grad + total

    embeddings.register_hook(backward)
    return embeddings


# -------------------------------------- Processes --------------------------------------


def available_devices() -> list[str]:
    """The kinds of device that this machine has, the fastest first; of several processes none uses an Apple GPU."""
    has_mps = torch.backends.mps.is_available() and "WORLD_SIZE" not in os.environ
    is_there = {"cuda": torch.cuda.is_available(), "mps": has_mps, "cpu": True}
    return [name for name in is_there if is_there[name]]


def get_device(name: str | torch.device) -> torch.device:
    """The device of this name; "auto" is an NVIDIA GPU, an Apple GPU or the CPU, the first available.

    With several processes, each uses its own NVIDIA GPU, or the CPU. Raises ValueError for an unavailable device.
    """
    name = available_devices()[0] if str(name) == "auto" else str(name)
    kind, _, number = name.partition(":")
    num_devices = torch.cuda.device_count() if kind == "cuda" else 1
    is_there = kind in available_devices() and (not number or (number.isdecimal() and int(number) < num_devices))
    if not is_there or (number and "WORLD_SIZE" in os.environ):  # Each process has a GPU of its own.
        raise ValueError(f"DEVICE={name} is not available on this machine: use DEVICE=auto.")
    return torch.device(name)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # Older versions of PyTorch have only a private function for it.
        return torch.cpu._is_avx512_bf16_supported()
    return any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))


@contextlib.contextmanager
def process_group(device: str | torch.device) -> Iterator[None]:
    """Connect the processes that torchrun started, if any, for the length of a `with` block, on this DEVICE."""
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    uses_gpu = get_device(device).type == "cuda"
    if uses_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if uses_gpu else "gloo")
    try:
        yield
        distributed.barrier()  # A process that ends while another still writes may abort.
    finally:
        distributed.destroy_process_group()


def replicate(network: nn.Module) -> nn.Module:
    """The network with the weights of rank 0, its gradients averaged over all processes at each backward pass.

    Source: Li et al. 2020, "PyTorch Distributed: Experiences on accelerating data parallel training".
    """
    if world_size() == 1:
        return network
    return nn.parallel.DistributedDataParallel(network)


def gather(embeddings: torch.Tensor) -> torch.Tensor:
    """Embeddings (speakers, ...) of each process -> those of all, in the order of ranks, on every process.

    Gradients flow only to the process's own embeddings. So a loss of all embeddings gives each process a part of the
    gradient; the parts add up to the gradient of one process with the whole batch.
    """
    if world_size() == 1:
        return embeddings
    of_all = [torch.empty_like(embeddings) for _ in range(world_size())]
    distributed.all_gather(of_all, embeddings.detach())
    of_all[rank()] = embeddings
    return torch.cat(of_all)
