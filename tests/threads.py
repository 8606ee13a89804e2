"""A process that can start no more threads, as where too many run."""

import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def no_more_threads() -> Generator[None]:
    """Let no thread start for the length of the block."""
    usual = threading.stack_size(1 << 46)  # more than there can be
    try:
        yield
    finally:
        threading.stack_size(usual)
