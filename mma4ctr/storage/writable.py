"""Check before hours of training that the results can be written."""

import os
import tempfile
from pathlib import Path

from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import Paths

TABLES = "tables"  # subfolder of saved_path for the tables of the studies


def demand_room_for_results(paths: Paths, *, tables: bool = False) -> None:
    """Check that results.jsonl and the folders of runs and tables can be written.

    Args:
        paths: the folders.
        tables: also check the folder of the studies' tables.

    Raises:
        UserError: A file or folder cannot be written.
    """
    _check_folder(paths.torch_model, "torch_model_path")
    _check_folder(paths.saved, "saved_path")
    if tables:
        _check_folder(paths.saved / TABLES, "saved_path")
    if os.path.lexists(paths.results):
        try:
            with paths.results.open("r+b"):
                pass
        except OSError as error:
            raise _not_writable(paths.results, error, "saved_path") from None


def _check_folder(folder: Path, key: str) -> None:
    """Create a folder if it is missing, and check that files can be created in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error, key) from None


def _not_writable(path: Path, error: OSError, key: str) -> UserError:
    return UserError(f"{path}: results cannot be written there ({error.strerror}); free space, or name another {key}")
