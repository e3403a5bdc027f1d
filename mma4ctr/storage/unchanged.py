"""A check that input files do not change while a step reads them.

Some files are read twice, to count and to load. If a file grew in between, the results would be silently wrong.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mma4ctr.runtime.errors import UserError


@contextmanager
def unchanged(files: Callable[[], Iterable[Path]]) -> Iterator[Callable[[], None]]:
    """Record the state of the input files and give the block a function that checks it.

    The block calls the function after the last read, before any output gets its final name. If an error ends the
    block, the check runs too, so a file that was truncated meanwhile is reported as changed, not as damaged.

    Args:
        files: lists the input files that exist now.

    Yields:
        A function that raises `UserError` if a file has changed, disappeared or appeared.
    """
    before = {path: _file_state(path) for path in files()}

    def check() -> None:
        for path, state in before.items():
            now = _file_state(path)
            if now != state:
                size = "it was deleted" if now is None else f"{state[0] if state else 0:,} bytes before, {now[0]:,} now"
                raise UserError(
                    f"{path}: changed while it was read ({size}); wait until no program writes it, and run the "
                    "command again"
                )
        if added := [path for path in files() if path not in before]:
            raise UserError(
                f"{added[0]}: was added while the files beside it were read; wait until all files are complete, and "
                "run the command again"
            )

    try:
        yield check
    except Exception:
        check()
        raise


def _file_state(path: Path) -> tuple[int, int, int] | None:
    """Return a file's size in bytes, modification time and inode, or None if it does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
