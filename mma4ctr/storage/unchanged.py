"""Input files that must stay as they are while a step reads them, some of them twice.

Counts of one reading and rows of another, of a file that grew in between, would give wrong numbers without a word.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mma4ctr.runtime.errors import UserError


@contextmanager
def unchanged(files: Callable[[], Iterable[Path]]) -> Iterator[Callable[[], None]]:
    """Remember how the input files stand before they are read.

    Yields a function to be called after the last reading, before anything bears its final name: it raises `UserError`
    where a file has changed, is gone, or has come. So does the end of the block after an error, since a file that was
    cut off or replaced is told by its cause, not by what it led to.

    Args:
        files: tells the files of now.
    """
    before = {path: _stand(path) for path in files()}

    def check() -> None:
        for path, stand in before.items():
            now = _stand(path)
            if now != stand:
                size = "it is gone" if now is None else f"{stand[0] if stand else 0:,} bytes before, {now[0]:,} now"
                raise UserError(
                    f"{path}: changed while it was read ({size}); wait until nothing writes it any more, and run the "
                    "command again"
                )
        if come := [path for path in files() if path not in before]:
            raise UserError(
                f"{come[0]}: came while the files beside it were read; wait until all are there, and run the command "
                "again"
            )

    try:
        yield check
    except Exception:
        check()
        raise


def _stand(path: Path) -> tuple[int, int, int] | None:
    """Bytes, time of the last change and number of a file; None where it is not there."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
