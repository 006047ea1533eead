"""How times are taken, in turns, and shown in a row of the table."""

import statistics
import time
from collections.abc import Callable

import torch

import myconfig

# The task, the time that the other way and this project take, and the ratio.
Row = tuple[str, str, str, str]


def median_seconds(rounds: int, *functions: Callable[[], object]) -> list[float]:
    """Median time of each function over `rounds`, called in turns; a call of each before does not count."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(1 + rounds):
        for function, of_function in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            of_function.append(time.perf_counter() - start)
    return [statistics.median(of_function[1:]) for of_function in times]


def compare(what: str, other: float, here: float) -> Row:
    """A row of two times in seconds."""
    return what, show_seconds(other), show_seconds(here), f"{other / here:.1f} x"


def share(what: str, whole: float, part: float) -> Row:
    """A row of the time of the whole and the part, in seconds, and the share in percent."""
    return what, show_seconds(whole), show_seconds(part), f"{part / whole:.0%}"


def show_seconds(seconds: float) -> str:
    """A time with three digits and a unit."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def in_torch_threads(function: Callable[[], object]) -> Callable[[], object]:
    """The function, with PyTorch's own threads on all cores."""

    def call() -> None:
        torch.set_num_threads(myconfig.NUM_PROCESSES)
        function()
        torch.set_num_threads(1)

    return call
