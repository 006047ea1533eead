"""Processes that work together, numbered by rank, and which part of the work is whose.

`torchrun --nproc_per_node=4 neural_net.py` starts four; each has a GPU or one core of its own. Started without
torchrun, a script is the only process, and does not wait for PyTorch here.
"""

import os
from types import ModuleType
from typing import TypeVar

import numpy as np

Items = TypeVar("Items", list, np.ndarray)


def connection() -> ModuleType | None:
    """PyTorch's `distributed`, if this process is connected with others by `parallel.process_group`."""
    if "WORLD_SIZE" not in os.environ:
        return None
    from torch import distributed

    return distributed if distributed.is_initialized() else None


def rank() -> int:
    """The number of this process, from 0; 0 is the one that writes files."""
    distributed = connection()
    return distributed.get_rank() if distributed else 0


def world_size() -> int:
    """The number of processes."""
    distributed = connection()
    return distributed.get_world_size() if distributed else 1


def wait_for_all() -> None:
    """Wait until every process has reached this point."""
    if distributed := connection():
        distributed.barrier()


def own_share(items: Items) -> Items:
    """This process's share of the items: every `world_size()`-th one. Each item belongs to exactly one process."""
    return items[rank() :: world_size()]


def gather_objects(own: object) -> list:
    """Any object of each process -> those of all, in the order of ranks, on every process."""
    of_all = [own] * world_size()
    if distributed := connection():
        distributed.all_gather_object(of_all, own)
    return of_all
