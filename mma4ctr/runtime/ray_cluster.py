"""Parallel work on a Ray cluster (the optional dependency `cluster`)."""

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

TIMEOUT_SECONDS = 10.0  # for an answer from an address
LOCAL = "local"
# The preface of an HTTP/2 connection, an empty SETTINGS frame, and the type byte of such a frame (RFC 9113).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_SETTINGS_TYPE = b"\4"


class RayTasks:
    """Workers on a Ray cluster: each item is a task, which is retried elsewhere if its process or machine dies."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._ahead = 2 * int(ray.cluster_resources().get("CPU", 1))

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
        """See `mma4ctr.runtime.parallel.Workers`. All machines must see the same files under the same paths."""
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
    """Return errors in the input as a result: a retry on another machine would only repeat them."""
    try:
        return work(item), None
    except (BadLine, UserError) as error:
        return None, error


def add_ray_option(options: argparse.ArgumentParser, what: str) -> None:
    """Add the option `--ray ADDRESS`; `what` names the work that is sent to the cluster."""
    options.add_argument(
        "--ray",
        metavar="ADDRESS",
        help=f"send {what} to the Ray cluster at host:port; 'local' starts one on this machine (default: no cluster)",
    )


def workers_at(address: str | None, code: Path) -> Workers:
    """Return workers of the Ray cluster at an address, or threads of this machine without one."""
    return RayTasks(connect(address, code)) if address else Threads()


def connect(address: str, code: Path) -> Any:
    """Connect to a Ray cluster and return the `ray` module.

    Args:
        address: `host:port` of a cluster, or `local` to start one on this machine.
        code: the folder of the scripts, which must be at the same path on every machine.

    Returns:
        The connected module.

    Raises:
        UserError: Ray is not installed, or no cluster answers at the address.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "--ray needs the extra 'cluster': python3 -m pip --python .venv/bin/python install '.[cluster]'"
        ) from None
    if address != LOCAL:
        _check_answers(address)
    # Ray replaces the built-in print for its progress bars, which are not used here; numba cannot compile a function
    # that calls the replacement.
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


def _check_answers(address: str) -> None:
    """Raise `UserError` unless a Ray cluster answers at the address."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--ray {address}: not host:port; use the address that 'ray start --head' prints, or local")
    try:
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as connection:
            # ray.init would wait minutes for any server that accepts the connection. Ray speaks gRPC over HTTP/2;
            # with TLS the plain preface cannot be used.
            is_ray = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(connection)
    except (OSError, OverflowError, ValueError) as error:  # a name that cannot be encoded is a ValueError
        raise UserError(f"--ray {address}: no Ray cluster answers there ({error})") from None
    if not is_ray:
        raise UserError(f"--ray {address}: the server there is not a Ray cluster; use the address of a Ray cluster")


def _speaks_http2(connection: socket.socket) -> bool:
    """Return whether the server answers the HTTP/2 preface with a SETTINGS frame (RFC 9113, section 3.4)."""
    connection.sendall(_PREFACE + _EMPTY_SETTINGS)
    deadline = time.monotonic() + TIMEOUT_SECONDS
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
    return answer[3:4] == _SETTINGS_TYPE
