"""Connecting to a Ray cluster (the extra `cluster`)."""

import logging
import socket
from pathlib import Path
from typing import Any

from mma4ctr.console import UserError

# An address that does not answer is given up after so many seconds.
PATIENCE = 10.0
LOCAL = "local"


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
    environment = {"env_vars": {"PYTHONPATH": str(code)}}
    ray.init(
        address=None if address == LOCAL else address,
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
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise UserError(f"--ray {address}: no Ray cluster answers there ({error})") from None
