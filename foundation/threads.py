"""Threads for work that takes long outside Python's interpreter lock: decoding, Fourier transforms, networks."""

import contextlib
import ctypes
import functools
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import threadpoolctl


def prepare_process() -> None:
    """Let a script reuse memory instead of returning and requesting it in each step.

    This works for glibc, the C library of most Linux systems.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no array gets pages of its own.
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: no pages are returned.
        libc.mallopt(-8, 1)  # M_ARENA_MAX: this applies to all threads.


class OneThreadEach:
    """For the length of a `with` block, a matrix product of NumPy takes one thread, as `thread_pool` has the others.

    Threads within threads wait for one another: on a busy machine, they take ten times as long. The blocks of several
    threads may overlap: the last one gives NumPy its threads back.
    """

    def __init__(self) -> None:
        self.lock, self.num_blocks = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            self.num_blocks += 1
            if self.num_blocks == 1:
                self.limits = threadpoolctl.threadpool_limits(1, "blas")

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.num_blocks -= 1
            if not self.num_blocks:
                self.limits.restore_original_limits()


one_thread_each = OneThreadEach()


def thread_pool(num_threads: int) -> ThreadPoolExecutor:
    """Threads for large pieces of work, in each of which PyTorch, if it is loaded by now, has one thread."""
    return make_pool(num_threads, "torch" in sys.modules)


@functools.cache
def make_pool(num_threads: int, has_torch: bool) -> ThreadPoolExecutor:
    """The threads, made once."""
    if has_torch:
        return ThreadPoolExecutor(num_threads, initializer=sys.modules["torch"].set_num_threads, initargs=(1,))
    return ThreadPoolExecutor(num_threads)


if hasattr(os, "register_at_fork"):  # A forked process has the pools, but none of their threads: it makes its own.
    os.register_at_fork(after_in_child=make_pool.cache_clear)
