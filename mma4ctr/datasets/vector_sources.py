"""From the files of vectors of a described modality, and their ids, to chunks of vectors."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mma4ctr.datasets.array_files import array_chunks, checked_ids, id_array, is_archive, vector_file
from mma4ctr.datasets.base import DenseChunk
from mma4ctr.datasets.columns import Ids, concatenate_ids, ids_of
from mma4ctr.datasets.table_readers import Source, read_tables
from mma4ctr.datasets.toml_spec import ModalitySource
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import Workers
from mma4ctr.storage.bad_lines import BadLines


def vectors_by_file(
    source: ModalitySource, width: int, dataset: str, workers: Workers
) -> Iterator[Iterator[DenseChunk]]:
    """Yield the rows of each file of vectors.

    Args:
        source: The modality.
        width: Length of its vectors.
        dataset: Name of the data set, for progress bars.
        workers: Read tables of ids.

    Yields:
        The chunks of each file.

    Raises:
        UserError: A file cannot be read, or vectors and ids do not fit together.
    """
    files = source.source.files()
    first = 0
    for number, path in enumerate(files):
        file = vector_file(path, with_ids=source.ids is None)
        if file.shape[1] != width:
            raise UserError(f"{path}: rows of {file.shape[1]} numbers where {width} are expected, as in {files[0]}")
        if isinstance(source.ids, int):
            ids = ids_of(pa.array(np.arange(first, first + file.shape[0]) + source.ids), "ids")
            first += file.shape[0]
        elif source.ids is not None:
            ids = _ids_in_file(source, files, number, dataset, workers)
        else:
            if file.key is None:
                raise UserError(f"{path}: has no ids; name their file with ids = ...")
            ids = checked_ids(path, file.key)
        if len(ids.values) != file.shape[0]:
            raise UserError(
                f"{path}: {file.shape[0]:,} rows but {len(ids.values):,} ids; give each row one id, in order"
            )
        yield array_chunks(file, ids)


def _ids_in_file(source: ModalitySource, files: Sequence[Path], number: int, dataset: str, workers: Workers) -> Ids:
    """Return the item ids of the rows of one file of vectors, from the file of ids beside it."""
    given = source.ids
    assert isinstance(given, Source)
    paths = given.files()
    if len(paths) != len(files):
        raise UserError(
            f"{given.where}: {len(files)} files of vectors and {len(paths)} of ids; give one file of ids per array"
        )
    path = paths[number]
    if path.suffix == ".npy" or is_archive(path.name):
        return checked_ids(path, id_array(path))
    if source.item is None:
        if given.format or not path.name.removesuffix(".gz").endswith(".txt"):
            raise UserError(f"{given.where}: {path.name} is a table; name its column of ids with item = ...")
        given, column = Source(given.where, given.folder, given.patterns, "tsv", None, ("id",)), "id"
    else:
        column = source.item
    # No line may be skipped, because the following vectors would get wrong ids.
    bad, description = BadLines(option=""), f"{dataset}: ids"
    parts = read_tables(
        given.only(path),
        [column],
        lambda table, _: ids_of(table[column], column),
        bad,
        description=description,
        workers=workers,
    )
    return concatenate_ids(list(parts))
