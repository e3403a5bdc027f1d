"""Work spread over threads or processes, results in order. A Ray cluster does the same: see cluster.py."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Protocol, Self, TypeVar

from mma4ctr.runtime.signals import do_work, start_worker
from mma4ctr.runtime.system import cores

T = TypeVar("T")
R = TypeVar("R")


class Workers(Protocol):
    """Whoever does the same work on many items."""

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
        """Yield (item, future of `work(item)`) in the order of the items, worked ahead a bounded number of items, so
        that memory stays bounded however slow the reader is.
        """


class Threads:
    """One thread per core: for work that lets go of the interpreter, as numpy and pyarrow do."""

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
        """See `Workers`."""
        with ThreadPoolExecutor(cores()) as pool:
            yield from _in_order(pool, work, items)


class Processes:
    """Processes for work in Python itself, one per core or `count`. `work`, items and results travel, so they must be
    picklable.

    A context manager: the processes are started once and serve until the block ends; where an error ends it they are
    told to stop. They end with this process, whatever ends it.

    Args:
        prepare: called in each process at its start, with `arguments`: what a process can only be given then.
    """

    def __init__(
        self, count: int | None = None, prepare: Callable[..., object] | None = None, arguments: tuple[Any, ...] = ()
    ) -> None:
        self._pool = ProcessPoolExecutor(
            count or cores(),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(prepare, arguments),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if kind is not None:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def submit(self, work: Callable[..., R], *arguments: Any) -> Future[R]:
        """The future of `work(*arguments)`."""
        return self._pool.submit(do_work, work, *arguments)

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
        """See `Workers`."""
        return _in_order(self, work, items)


def _prepare(prepare: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    start_worker()
    if prepare:
        prepare(*arguments)


def _in_order(pool: Executor | Processes, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
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
