"""Threads for work that takes long outside Python's interpreter lock: decoding, Fourier transforms, networks."""

import contextlib
import ctypes
import functools
import os
import sys
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


@functools.cache
def libraries() -> threadpoolctl.ThreadpoolController:
    """The libraries with threads of their own that are loaded when this is first used, NumPy's among them."""
    return threadpoolctl.ThreadpoolController()


def one_thread_each() -> contextlib.AbstractContextManager:
    """For the length of a `with` block, a matrix product of NumPy takes one thread, as `thread_pool` has the others.

    Threads within threads wait for one another: on a busy machine, they take ten times as long.
    """
    return libraries().limit(limits=1, user_api="blas")


@functools.cache
def thread_pool(num_threads: int) -> ThreadPoolExecutor:
    """Threads for large pieces of work, in each of which PyTorch, if it is used, has one thread."""
    return ThreadPoolExecutor(num_threads, initializer=take_one_thread)


def take_one_thread() -> None:
    """Let PyTorch, if it is loaded, work in this thread alone."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):  # A forked process has the pools, but none of their threads: it makes its own.
    os.register_at_fork(after_in_child=thread_pool.cache_clear)
