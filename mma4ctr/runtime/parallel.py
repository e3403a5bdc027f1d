"""Parallel work on threads or processes, with results in order. `ray_cluster` does the same on a Ray cluster."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Protocol, Self, TypeVar

from mma4ctr.runtime.signals import do_work, start_worker
from mma4ctr.runtime.system import cores

T = TypeVar("T")
R = TypeVar("R")


def slices(size: int, step: int) -> Iterator[slice]:
    """Yield slices of at most `step` that cover `size` rows, for work whose memory should not grow with the rows."""
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


class Workers(Protocol):
    """The interface of everything that applies a function to many items."""

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
        """Yield (item, future of `work(item)`) in the order of the items.

        Only a bounded number of items is submitted ahead, so memory stays bounded if the consumer is slow.
        """


class Threads:
    """One thread per core, for work that releases the GIL, as numpy and pyarrow do."""

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
        """See `Workers`."""
        with ThreadPoolExecutor(cores()) as pool:
            yield from _in_order(pool, work, items)


class InTurn:
    """One item after the other, for work that uses all cores itself or much memory."""

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
        """See `Workers`; an error of an item ends the work."""
        for item in items:
            done: Future[R] = Future()
            done.set_result(work(item))
            yield item, done
            del done  # the caller need not keep a large result while the next one is made


class Processes:
    """A pool of processes for work in pure Python; `work`, items and results must be picklable.

    Use it as a context manager: the processes start once and serve until the block ends. If an error ends the block,
    they are terminated. They also end when this process ends, even when it is killed.

    Args:
        count: number of processes; default: one per core.
        prepare: called in each process at its start, for state that cannot be pickled.
        arguments: arguments of `prepare`.
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
        """Start `work(*arguments)` in one of the processes and return its future."""
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
    """Apply `work` with `Threads`, the default workers; see `Workers`."""
    return Threads().in_order(work, items)
