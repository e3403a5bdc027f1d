"""Whether results can be written, found out before hours of training."""

import os
import tempfile
from pathlib import Path

from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import Paths

# Where the tables of the studies go, below saved_path.
TABLES = "tables"


def demand_room_for_results(paths: Paths, *, tables: bool = False) -> None:
    """Raises `UserError` where a run could not be recorded: in results.jsonl, and with its files in torch_model_path.

    Args:
        tables: those of the studies are written too.
    """
    _demand_folder(paths.torch_model, "torch_model_path")
    _demand_folder(paths.saved, "saved_path")
    if tables:
        _demand_folder(paths.saved / TABLES, "saved_path")
    if os.path.lexists(paths.results):
        try:
            with paths.results.open("r+b"):
                pass
        except OSError as error:
            raise _unusable(paths.results, error, "saved_path") from None


def _demand_folder(folder: Path, key: str) -> None:
    """Demand that files can be made in a folder; it is made where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unusable(folder, error, key) from None


def _unusable(path: Path, error: OSError, key: str) -> UserError:
    return UserError(f"{path}: results cannot be written there ({error.strerror}); make room, or name another {key}")
