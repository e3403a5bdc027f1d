"""Connecting to a Ray cluster (the extra `cluster`)."""

import argparse
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from mma4ctr.runtime.environment import PASSIVE

from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.runtime.parallel import Threads, Workers
from mma4ctr.runtime.signals import signals_kept

T = TypeVar("T")
R = TypeVar("R")

# An address that does not answer is given up after so many seconds.
PATIENCE = 10.0
LOCAL = "local"
# The first bytes of an HTTP/2 connection, a frame of settings, and the byte of a frame that tells that it is one.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_SETTINGS = b"\4"


class RayTasks:
    """Workers on a Ray cluster: each item is a task, done again elsewhere where the process or machine at it dies."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._ahead = 2 * int(ray.cluster_resources().get("CPU", 1))

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
        """See `mma4ctr.runtime.parallel.Workers`. The machines must see the same files at the same places."""
        shared = self._ray.put(work)  # sent to each machine once
        task = self._ray.remote(num_cpus=1, max_retries=3)(_attempt)
        waiting: deque[tuple[T, Any]] = deque()
        for item in items:
            waiting.append((item, task.remote(shared, item)))
            if len(waiting) > self._ahead:
                yield self._done(*waiting.popleft())
        while waiting:
            yield self._done(*waiting.popleft())

    def _done(self, item: T, reference: Any) -> tuple[T, Future[R]]:
        future: Future[R] = Future()
        result, error = self._ray.get(reference)
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
        return item, future


def _attempt(work: Callable[[T], R], item: T) -> tuple[R | None, Exception | None]:
    """What is wrong with the input is a result: it is the same on every machine, and nothing to try again."""
    try:
        return work(item), None
    except (BadLine, UserError) as error:
        return None, error


def add_ray_option(options: argparse.ArgumentParser, what: str) -> None:
    """`--ray ADDRESS`; `what` is sent."""
    options.add_argument("--ray", metavar="ADDRESS", help=f"send {what} to a Ray cluster; local: one on this machine")


def workers_at(address: str | None, code: Path) -> Workers:
    """The threads of this machine, or with an address the tasks of the Ray cluster there."""
    return RayTasks(connect(address, code)) if address else Threads()


def connect(address: str, code: Path) -> Any:
    """The `ray` module, connected: `local` starts a cluster on this machine, else `host:port` of one.

    Args:
        code: the folder of the scripts, which must lie at the same place on every machine.

    Raises `UserError` where Ray is not installed, or nothing answers at the address.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs the extra 'cluster': .venv/bin/python -m pip install '.[cluster]'") from None
    if address != LOCAL:
        _demand_answer(address)
    # Ray puts a function of its own in the place of print, for progress bars that are not used here; numba, which knows
    # the built-in one only, then compiles nothing that prints.
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")
    variables = {name: os.environ[name] for name in PASSIVE if name in os.environ}
    environment = {"env_vars": {"PYTHONPATH": str(code), **variables}}
    with signals_kept():
        ray.init(
            address=address,
            runtime_env=environment,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    return ray


def _demand_answer(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--ray {address}: not host:port; give the address that 'ray start --head' prints, or local")
    try:
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            # Ray speaks gRPC, which is HTTP/2; with TLS this greeting would not be understood. ray.init itself waits
            # for minutes for an answer from anything that takes the connection.
            greeted = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(connection)
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray {address}: no Ray cluster answers there ({error})") from None
    if not greeted:
        raise UserError(f"--ray {address}: something answers there, and it is no Ray cluster; give Ray's own address")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether whoever listens answers HTTP/2's greeting (RFC 9113, 3.4) with its settings."""
    connection.sendall(_GREETING + _EMPTY_SETTINGS)
    deadline = time.monotonic() + PATIENCE
    answer = b""
    while len(answer) < len(_EMPTY_SETTINGS) and (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            part = connection.recv(len(_EMPTY_SETTINGS) - len(answer))
        except TimeoutError:
            return False
        if not part:
            return False
        answer += part
    return answer[3:4] == _SETTINGS
