"""Work spread over threads or processes, results in order. A Ray cluster does the same: see cluster.py."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Protocol, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers(Protocol):
    """Whoever does the same work on many items."""

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
        """Yield (item, future of `work(item)`) in the order of the items, worked ahead a bounded number of items, so
        that memory stays bounded however slow the reader is."""


class Threads:
    """One thread per core: for work that lets go of the interpreter, as numpy and pyarrow do."""

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
        """See `Workers`."""
        with ThreadPoolExecutor(cores()) as pool:
            yield from _in_order(pool, work, items)


class Processes:
    """One process per core: for work in Python itself. `work`, items and results travel, so they must be picklable.

    A context manager: the processes are started once and serve until the block ends.
    """

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
        """See `Workers`."""
        return _in_order(self._pool, work, items)


def _in_order(pool: Executor, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
    ahead = cores()
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, future in waiting:
            future.cancel()


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
    """`Threads` at work, which is the usual way."""
    return Threads().in_order(work, items)
